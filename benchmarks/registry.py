"""All benchmarks, in the order of the page; see :mod:`benchmarks` for how one plugs in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from benchmarks.page import Section


@dataclass(frozen=True)
class Benchmark:
    """A benchmark by its name.

    Attributes:
        name: of its module, its section and its result file.
        needs: modules without which it cannot run.
    """

    name: str
    needs: tuple[str, ...] = ()

    @property
    def missing(self) -> list[str]:
        """Required modules that are not installed."""
        return [module for module in self.needs if find_spec(module) is None]

    def run(self) -> None:
        """Measure, and write the result file."""
        import_module(f"benchmarks.{self.name}").main()

    def section(self, result: Mapping[str, Any]) -> Section:
        """The section of the page about a result."""
        make: Callable[[Mapping[str, Any]], Section]
        make = import_module(f"benchmarks.sections.{self.name}").section
        return make(result)


BENCHMARKS = (
    Benchmark("savings", needs=("timm", "torchvision")),
    Benchmark("heads"),
    Benchmark("many_classes"),
    Benchmark("collapse", needs=("torchmetrics",)),
    Benchmark("nearest_etf", needs=("geoopt", "torchvision")),
    Benchmark("training", needs=("accelerate", "timm", "torchvision")),
)
