"""Docstrings as Markdown: roles, mathematics and tables, which are reStructuredText in the code."""

from __future__ import annotations

import importlib
import re
from functools import lru_cache
from typing import Any

import griffe
from latex2mathml.converter import convert

PACKAGES = (
    *("heads", "losses", "surgery", "collapse", "theory", "codes", "orientation", "geometry"),
)
"""Subpackages that have a page; a name that several offer belongs to the first."""

ROLE = re.compile(r":(?:class|func|meth|mod|attr|data):`~?([^`]+)`", re.DOTALL)
MATH = re.compile(r":math:`([^`]+)`", re.DOTALL)
DISPLAY = re.compile(r"^( *)\.\. math::(.*(?:\n(?:\1 +.*| *(?=\n)))*)", re.MULTILINE)
TABLE = re.compile(
    r"^( *)=+(?: +=+)+ *\n(?:.*\n)*?(?:\1=+(?: +=+)+ *\n)(?:(?:.*\n)*?\1=+(?: +=+)+ *$)?",
    re.MULTILINE,
)
LITERAL = re.compile(r"::$", re.MULTILINE)


class Docstrings(griffe.Extension):
    """Converts each docstring before its sections are parsed."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called with every object that is loaded."""
        if obj.docstring is not None:
            obj.docstring.value = markdown(obj.docstring.value)


def markdown(text: str) -> str:
    """The same docstring, for a Markdown parser."""
    text = DISPLAY.sub(lambda m: f"{m[1]}<div>{mathml(m[2], 'block')}</div>\n", text)
    text = MATH.sub(lambda m: f"<span>{mathml(m[1])}</span>", text)
    text = ROLE.sub(lambda m: reference(" ".join(m[1].split())), text)
    text = TABLE.sub(lambda m: f"{m[1]}```text\n{m[0]}\n{m[1]}```", text)
    text = re.sub(r"``([^`]+)``", r"`\1`", text)
    return LITERAL.sub(":", re.sub(r"^Example:$", "Examples:", text, flags=re.MULTILINE))


def mathml(latex: str, display: str = "inline") -> str:
    """One line of MathML, which browsers show without a script."""
    found = convert(" ".join(latex.split()), display=display)
    return re.sub(r"([*_`])", lambda m: f"&#{ord(m[1])};", found)


def reference(name: str) -> str:
    """A link to a name that has a place in the reference, code otherwise."""
    short = name.rpartition(".")[2]
    place = places().get(name.removeprefix("etf_heads.")) or places().get(short)
    return f"[`{short}`][{place}]" if place else f"`{name}`"


@lru_cache
def places() -> dict[str, str]:
    """Where each public name is documented, by its name with and without its package."""
    found: dict[str, str] = {}
    for package in PACKAGES:
        for name in importlib.import_module(f"etf_heads.{package}").__all__:
            place = f"etf_heads.{package}.{name}"
            found[f"{package}.{name}"] = place
            found.setdefault(name, place)
    return found
