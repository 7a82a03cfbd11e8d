"""Savings of a change to a model."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from etf_heads.surgery._costs import ModelCosts, OptimizerSpec, model_costs

_TITLES = {
    "parameters": "parameters",
    "trainable_parameters": "trainable parameters",
    "gradient_bytes": "gradients, bytes",
    "optimizer_state_bytes": "optimiser state, bytes",
    "checkpoint_bytes": "checkpoint, bytes",
}


@dataclass(frozen=True)
class Savings:
    """Two models' costs and their difference; ``print`` shows a table.

    Attributes:
        before: costs of the one model.
        after: costs of the other.
    """

    before: ModelCosts
    after: ModelCosts

    @property
    def saved(self) -> dict[str, int]:
        """Before less after, by the name of the cost; negative where there is more after."""
        return {n: getattr(self.before, n) - getattr(self.after, n) for n in _TITLES}

    @property
    def percent(self) -> dict[str, float | None]:
        """Savings in percent of before; None where that was zero."""
        return {
            name: 100 * saved / getattr(self.before, name) if getattr(self.before, name) else None
            for name, saved in self.saved.items()
        }

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON values."""
        return {
            "before": asdict(self.before),
            "after": asdict(self.after),
            "saved": self.saved,
            "percent": self.percent,
        }

    def line(self) -> str:
        """All of it in one line, for a log."""
        parts = (
            f"{title} {getattr(self.before, name):,} -> {getattr(self.after, name):,}"
            + (f" ({_less(self.percent[name])})" if self.percent[name] is not None else "")
            for name, title in _TITLES.items()
        )
        return f"{'; '.join(parts)}; {self.before.optimizer}"

    def __str__(self) -> str:
        lines: list[tuple[str, ...]] = [
            (f"with {self.before.optimizer}", "before", "after", "saved", "")
        ]
        for name, title in _TITLES.items():
            before, after = getattr(self.before, name), getattr(self.after, name)
            counts = (f"{count:,}" for count in (before, after, self.saved[name]))
            lines.append((title, *counts, _less(self.percent[name])))
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join(
            "  ".join(cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in row).rstrip()
            for row in (enumerate(zip(line, widths, strict=True)) for line in lines)
        )


def savings(
    before: nn.Module | ModelCosts,
    after: nn.Module | ModelCosts,
    optimizer: OptimizerSpec = torch.optim.AdamW,
) -> Savings:
    r"""Savings of a change to a model: parameters, gradients, optimiser state, checkpoint.

    Everything is counted from shapes, so models may be on any device, and one that is too large
    for this machine can be built under ``torch.device("meta")``. Operations of this package
    change a model in place; count it first::

        before = model_costs(model)
        replace_head(model, 1000)
        print(savings(before, model))

    Args:
        before: a model, or what :func:`model_costs` said of it.
        after: the other.
        optimizer: whose state is counted: a name in ``torch.optim``, a class, or a function from
            a list of parameters to an optimiser, such as ``functools.partial(SGD,
            momentum=0.9)``. It is given parameters of the right shapes and takes a step on them.

    Returns:
        The costs and their difference: a table (``str``), ``to_dict()`` and ``line()``.

    Raises:
        ValueError: if the optimiser is unknown or takes no step on such parameters, parameters
            have no shape yet, or costs were counted with different optimisers.

    Note:
        Bytes are exact in the precision that the parameters have. Optimisers that make more
        state in later steps are counted as they are after the first. Memory that is neither of
        these (activations, logits, fragmentation) is not counted.

    Example:
        >>> from etf_heads import ETFHead
        >>> before = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 10))
        >>> after = nn.Sequential(nn.Linear(64, 64), ETFHead(64, 10))
        >>> print(savings(before, after))
        with AdamW              before   after  saved
        parameters               4,810   4,160    650  -13.51%
        trainable parameters     4,810   4,160    650  -13.51%
        gradients, bytes        19,240  16,640  2,600  -13.51%
        optimiser state, bytes  38,496  33,288  5,208  -13.53%
        checkpoint, bytes       19,240  16,640  2,600  -13.51%
    """
    costs = [m if isinstance(m, ModelCosts) else model_costs(m, optimizer) for m in (before, after)]
    if costs[0].optimizer != costs[1].optimizer:
        raise ValueError(
            f"before was counted with {costs[0].optimizer} and after with {costs[1].optimizer}: "
            "count both with the same optimizer"
        )
    return Savings(*costs)


def _less(percent: float | None) -> str:
    return "" if percent is None else f"{-percent:+.2f}%"
