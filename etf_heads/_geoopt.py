"""geoopt, imported when it is first needed."""

from __future__ import annotations

import warnings
from typing import Any


def import_geoopt() -> Any:
    """The library; the warnings of its scripted functions are not the user's."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.jit.*")
        import geoopt  # noqa: PLC0415 (slow to import, and most users never need it)
    return geoopt
