"""Options of the command line of ``recipes/convert.py``."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from recipes.command import check_each_once
from recipes.training.settings import CompareConfig, RunConfig

LearnedName = Literal["learned", "learned-norm"]


@dataclass(frozen=True)
class ConvertConfig(CompareConfig):
    """Train learned heads, swap them for fixed ones, and measure before, after, and fine-tuned.

    Attributes:
        heads: the learned heads to train; learned-norm takes a feature_norm.
        rates: learning rates of the epoch of fine-tuning, each from the same start; they rise and
            fall as in training.
        output: directory of the runs, convert.json and convert.html; by default runs/PRESET.
            With --resume, learned runs that compare.py finished there are taken as they are.
    """

    heads: tuple[LearnedName, ...] = ("learned",)
    rates: tuple[float, ...] = (1e-3, 1e-2)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_each_once(self, "rates")
        if not min(self.rates) > 0:
            raise ValueError(f"rates={self.rates}: must be above 0")

    def fine_tunings(self, trained: RunConfig) -> list[tuple[str, RunConfig]]:
        """Conversions of a finished run's head, each with the settings of the epoch after it."""
        from recipes.conversion.swap import CONVERSIONS, KEPT

        return [
            (
                way,
                replace(
                    trained,
                    head=trained.head if way == KEPT else "compound",
                    epochs=1,
                    lr=rate,
                    output=trained.run_dir / "converted" / f"{way}-lr{rate:g}",
                ),
            )
            for rate in self.rates
            for way in (KEPT, *CONVERSIONS)
        ]
