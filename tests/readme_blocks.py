"""Code and commands of the README and of docs/.

``python3 tests/readme_blocks.py`` prints the commands, one a line; it needs nothing installed.
"""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PAGES = sorted((ROOT / "docs").rglob("*.md"))

NEWCOMERS = {
    "timm": (ROOT / "docs/guides/swap.md", 2),
    "transformers": (ROOT / "docs/guides/trainers.md", 2),
    "missing labels": (ROOT / "docs/guides/tasks.md", 1),
    "onnx": (ROOT / "docs/guides/export.md", 1),
}
"""Page and number of the block that shows each of four newcomers the whole way."""


def blocks(language: str, document: Path = README) -> list[str]:
    """All code blocks of a language, in order."""
    pattern = rf"^```{language}\n(.*?)^```$"
    return re.findall(pattern, document.read_text("utf-8"), re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    """The commands marked for CI: a comparison of heads, then the tests."""
    pattern = r"<!-- command: .*? -->\n```bash\n(.*?)\n```"
    return re.findall(pattern, README.read_text("utf-8"), re.DOTALL)


if __name__ == "__main__":
    print("\n".join(commands()))
