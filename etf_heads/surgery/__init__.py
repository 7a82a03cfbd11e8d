"""Operations on whole models: give one a fixed head, narrow its features, say what that saved."""

__all__: list[str] = []
