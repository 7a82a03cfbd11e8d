"""Task weighting strategies: how the losses of several tasks become one step.

Two kinds stand beside the sum of the losses, both computed by TorchJD:

- **Scalarizers** (uncertainty, DWA, FAMO) make one number of the losses. Its gradient is the sum of
  the losses' own, weighted by its derivatives, so one ordinary backward pass does for everything.
- **Aggregators** (MGDA, PCGrad, FairGrad) make one gradient of the Jacobian, a row for each task.
  They see the parameters that the tasks share, which are those of the backbone, and set their
  gradient. The classifier of a learned head belongs to the tasks: it keeps the sum of their
  gradients. Fixed heads have no parameters: with them, the aggregator sets all gradients there are.

What a strategy decides from, losses or Jacobian, is that of the batch of all processes together, so
the same run on more processes takes the same steps (but for BatchNorm, whose statistics each
process takes from its own share). A task of which no image in the batch has a label has no
gradient: an aggregator does not see it, and to a scalarizer its loss stays what it last was.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

Build = Callable[..., Any]
"""(accelerator, network, classes by task name) to a strategy, see ``strategies/equal.py``."""


def _strategy(file: str, kind: str, *first: str, **options: Any) -> Build:
    """A class of a file in ``strategies/``, which is imported when it is called."""
    module = f"recipes.training.strategies.{file}"
    return lambda *run: getattr(import_module(module), kind)(*first, *run, **options)


WEIGHTINGS: dict[str, Build] = {
    "equal": _strategy("equal", "EqualWeighting"),
    "mgda": _strategy("aggregated", "AggregatedWeighting", "mgda", "MGDA"),
    "uncertainty": _strategy("scalarized", "UncertaintyWeighting"),
    "pcgrad": _strategy("aggregated", "AggregatedWeighting", "pcgrad", "PCGrad"),
    "dwa": _strategy("scalarized", "DWAWeighting"),
    "famo": _strategy("scalarized", "FAMOWeighting"),
    "fairgrad": _strategy("aggregated", "AggregatedWeighting", "fairgrad", "FairGrad", alpha=2.0),
}
"""Strategies by name. MGDA: Sener and Koltun, NeurIPS 2018; PCGrad: Yu et al., NeurIPS 2020;
FairGrad: Ban and Ji, ICML 2024, with its alpha of 2."""
