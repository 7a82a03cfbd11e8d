"""The correlation sweep on images: the angle that learned heads find, and what fixing it does."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from recipes.comparison.summary import interval
from recipes.data import load_data
from recipes.data.images import ImageData, ImageSet
from recipes.training.network import Network, evaluate
from recipes.training.result import RunResult, trained_network
from recipes.training.settings import RunConfig
from recipes.verification.effective import (
    closed_form,
    effective_lambdas,
    fit_strength,
    limit_cosine,
    rms,
)


@dataclass(frozen=True)
class SweepRun:
    """Results of one trained network, all of them JSON values.

    Attributes:
        share: p of its training images.
        head: its classifier head.
        seed: of the run.
        cosine: between the class vectors of label 0 of the two tasks, each less its task's mean.
        equal: test accuracy on images with equal labels, mean of both tasks.
        different: on images with different labels.
        effective: see :func:`~recipes.verification.effective.effective_lambdas`; None for heads
            that are not learned.
    """

    share: float
    head: str
    seed: int
    cosine: float
    equal: float
    different: float
    effective: dict[str, float] | None

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
    same = _same(data.test)
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


def _same(data: ImageSet) -> Tensor:
    return data.labels[:, 0] == data.labels[:, 1]


def summarise(runs: Sequence[SweepRun]) -> dict[str, Any]:
    """Put the runs of a sweep beside each other and beside theory.

    Args:
        runs: of several heads, each with the same shares and seeds.

    Returns:
        JSON values: ``shares``; ``heads``, for each a list with a record a share of intervals over
        seeds (:func:`recipes.comparison.summary.interval`): ``cosine``, ``at_share``, ``equal``,
        ``different``, ``balanced``, and for learned heads medians of the effective λ's; ``fits``,
        for each learned head the one number λ_W λ_H N whose curve is nearest (``strength``), and
        root mean squares of the mean cosines less that curve (``rms``), less its limit
        (``rms_from_limit``), less the closed form with λ's from the logit gaps (``rms_from_gaps``);
        and ``runs``.
    """
    shares = sorted({run.share for run in runs})
    heads = list(dict.fromkeys(run.head for run in runs))
    cells = {
        head: [_cell([r for r in runs if r.head == head and r.share == p]) for p in shares]
        for head in heads
    }
    fits = {}
    for head in heads:
        if head.startswith("learned"):
            fits[head] = _fit(shares, cells[head])
    return {
        "shares": shares,
        "heads": cells,
        "fits": fits,
        "runs": [asdict(run) for run in runs],
    }


def _cell(runs: Sequence[SweepRun]) -> dict[str, Any]:
    measures = ("cosine", "at_share", "equal", "different", "balanced")
    cell: dict[str, Any] = {name: interval([getattr(r, name) for r in runs]) for name in measures}
    found = [run.effective for run in runs if run.effective is not None]
    if found:
        cell["effective"] = {
            name: float(torch.tensor([f[name] for f in found]).median()) for name in found[0]
        }
    return cell


def _fit(shares: Sequence[float], cells: Sequence[dict[str, Any]]) -> dict[str, float]:
    cosines = [cell["cosine"]["mean"] for cell in cells]
    strength = fit_strength(shares, cosines)
    read = [cell["effective"]["strength_equal"] for cell in cells]

    def less(others: Iterable[float]) -> float:
        return rms(c - o for c, o in zip(cosines, others, strict=True))

    return {
        "strength": strength,
        "rms": less(closed_form(shares, strength)),
        "rms_from_limit": less(map(limit_cosine, shares)),
        "rms_from_gaps": less(closed_form([p], c)[0] for p, c in zip(shares, read, strict=True)),
    }
