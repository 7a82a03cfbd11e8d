"""The correlation sweep on images: the angle that learned heads find, and what fixing it does."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from statistics import median_low
from typing import Any

from recipes.data import load_data
from recipes.data.images import ImageData
from recipes.intervals import Interval, interval
from recipes.provenance import Provenance
from recipes.training.network import Network, evaluate
from recipes.training.result import RunResult, trained_network
from recipes.training.settings import RunConfig
from recipes.verification.effective import (
    Effective,
    closed_form,
    effective_lambdas,
    fit_strength,
    limit_cosine,
    rms,
)


@dataclass(frozen=True)
class SweepRun:
    """Results of one trained network."""

    share: float  # p of its training images
    head: str  # its classifier head
    seed: int  # of the run
    cosine: float  # between the tasks' class vectors of label 0, each less its task's mean
    equal: float  # test accuracy on images with equal labels, mean of both tasks
    different: float  # on images with different labels
    effective: Effective | None  # λ's of learned heads; None for others

    @property
    def at_share(self) -> float:
        """Test accuracy on images that agree as often as the training images do."""
        return self.share * self.equal + (1 - self.share) * self.different

    @property
    def balanced(self) -> float:
        """Test accuracy when half of the images have equal labels."""
        return (self.equal + self.different) / 2


def examine(config: RunConfig, share: float, result: RunResult) -> SweepRun:
    """Measure a finished run from its saved weights.

    Args:
        config: of the run.
        share: p of its data.
        result: what it left.
    """
    data = load_data(config.data, config)
    return sweep_run(trained_network(config, data).eval(), data, share, result)


def sweep_run(network: Network, data: ImageData, share: float, result: RunResult) -> SweepRun:
    """Measure a trained network.

    Args:
        network: in evaluation mode.
        data: it was trained on, two binary tasks.
        share: p of this data.
        result: of the run.
    """
    head: str = result.config["head"]
    _, logits = evaluate(network, data.test)
    right = (logits.argmax(-1) == data.test.labels).double().mean(1)
    same = data.test.labels[:, 0] == data.test.labels[:, 1]
    effective = None
    if head.startswith("learned"):
        effective = effective_lambdas(
            *evaluate(network, data.train), data.train.labels, network.head.weight.detach()
        )
    assert result.gram is not None  # noqa: S101  (four class vectors are few enough)
    return SweepRun(
        share=share,
        head=head,
        seed=result.config["seed"],
        cosine=result.gram[0][2],
        equal=float(right[same].mean()),
        different=float(right[~same].mean()),
        effective=effective,
    )


@dataclass(frozen=True)
class Cell:
    """The runs of a head at one share."""

    cosine: Interval  # as in SweepRun, like the next four, over seeds
    at_share: Interval  # test accuracy on images that agree as often as the training images do
    equal: Interval  # on images with equal labels
    different: Interval  # on images with different labels
    balanced: Interval  # when half of the images have equal labels
    effective: Effective | None = None  # medians over seeds, of learned heads


@dataclass(frozen=True)
class Fit:
    """The closed form that is nearest to the cosines of a learned head."""

    strength: float  # its λ_W λ_H N
    rms: float  # root mean square of the mean cosines less that curve
    rms_from_limit: float  # less the limit for vanishing λ's
    rms_from_gaps: float  # less the closed form with λ's from the logit gaps


@dataclass(frozen=True)
class Sweep:
    """The runs of a sweep beside each other and beside theory."""

    shares: list[float]  # in order
    heads: dict[str, list[Cell]]  # for each head, a cell a share
    fits: dict[str, Fit]  # of learned heads
    runs: list[SweepRun]  # all of them

    def effective(self, head: str) -> list[Effective]:
        """λ's of a learned head, a share each."""
        return [cell.effective for cell in self.heads[head] if cell.effective is not None]

    def closed_forms(self, head: str) -> list[float]:
        """Cosines by the closed form with λ's from the logit gaps of a learned head."""
        return _closed_forms(self.shares, self.effective(head))


@dataclass(frozen=True)
class Summary(Sweep):
    """A sweep and its origin; ``theory_images.json``."""

    settings: dict[str, Any]  # those that all runs share
    provenance: Provenance  # of the first run
    examined: str | None  # commit of the measurement


def summarise(runs: Sequence[SweepRun]) -> Sweep:
    """Put runs of several heads, each with the same shares and seeds, beside each other."""
    shares = sorted({run.share for run in runs})
    cells = {
        head: [_cell([r for r in runs if r.head == head and r.share == p]) for p in shares]
        for head in dict.fromkeys(run.head for run in runs)
    }
    fits = {head: _fit(shares, own) for head, own in cells.items() if head.startswith("learned")}
    return Sweep(shares, cells, fits, list(runs))


def _cell(runs: Sequence[SweepRun]) -> Cell:
    found = [run.effective for run in runs if run.effective is not None]
    medians = (median_low(getattr(f, field.name) for f in found) for field in fields(Effective))
    return Cell(
        cosine=interval([run.cosine for run in runs]),
        at_share=interval([run.at_share for run in runs]),
        equal=interval([run.equal for run in runs]),
        different=interval([run.different for run in runs]),
        balanced=interval([run.balanced for run in runs]),
        effective=Effective(*medians) if found else None,
    )


def _fit(shares: Sequence[float], cells: Sequence[Cell]) -> Fit:
    cosines = [cell.cosine.mean for cell in cells]
    strength = fit_strength(shares, cosines)
    read = [cell.effective for cell in cells if cell.effective is not None]

    def less(others: Iterable[float]) -> float:
        return rms(c - o for c, o in zip(cosines, others, strict=True))

    return Fit(
        strength,
        rms=less(closed_form(shares, strength)),
        rms_from_limit=less(map(limit_cosine, shares)),
        rms_from_gaps=less(_closed_forms(shares, read)),
    )


def _closed_forms(shares: Sequence[float], found: Sequence[Effective]) -> list[float]:
    pairs = zip(shares, found, strict=True)
    return [closed_form([share], f.strength_equal)[0] for share, f in pairs]
