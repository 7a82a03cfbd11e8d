"""Pictures of collapse; matplotlib is loaded when the first one is drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor
from torchmetrics import Metric

from etf_heads._tasks import Tasks, TaskSpec
from etf_heads.collapse import _frames as frames
from etf_heads.collapse._labels import check_features
from etf_heads.collapse._separation import separation_law
from etf_heads.collapse._statistics import ClassStatistics
from etf_heads.collapse._vectors import class_vectors

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BLACK = "#111111"

Values = Mapping[str, float]
"""The result of a measure's ``compute``."""


class PlottedMetric(Metric):
    """A metric whose ``compute`` returns named values, and which draws them."""

    def plot(
        self, val: Values | Sequence[Values] | None = None, ax: Axes | None = None
    ) -> tuple[Figure, Axes]:
        """Draw a result of ``compute``, or a curve over several, as :func:`plot_values` does.

        Args:
            val: a result, or one an epoch; ``compute()`` when None.
            ax: where to draw; a new figure when None.
        """
        return plot_values(self.compute() if val is None else val, ax=ax)


def plot_values(
    values: Values | Sequence[Values], *, ax: Axes | None = None, over: str = "epoch"
) -> tuple[Figure, Axes]:
    """Bars of one result, or a curve for each measure over several, on a logarithmic axis.

    Collapse is a fall by orders of magnitude. A value that is not positive has no logarithm and
    leaves a gap in its curve, or no bar.

    Args:
        values: a result of ``compute``, or one an epoch.
        ax: where to draw; a new figure when None.
        over: label of the horizontal axis of curves.

    Raises:
        ImportError: without matplotlib.
        ValueError: if there is no result.
    """
    results = [values] if isinstance(values, Mapping) else list(values)
    if not results:
        raise ValueError("values is empty: give at least one result of compute")
    figure, ax = _axes(ax)
    names = list(dict.fromkeys(name for result in results for name in result))
    ax.set_yscale("log", nonpositive="mask")
    if len(results) == 1:
        ax.bar(range(len(names)), [results[0][name] for name in names])
        ax.set_xticks(range(len(names)), names, rotation=60, ha="right")
    else:
        for name in names:
            curve = [result.get(name, float("nan")) for result in results]
            ax.plot(range(1, len(curve) + 1), curve, marker=".", label=name)
        ax.set_xlabel(over)
        ax.legend(fontsize="small")
    ax.set_ylabel("distance from collapse")
    return figure, ax


def plot_layers(values: Sequence[float], *, ax: Axes | None = None) -> tuple[Figure, Axes]:
    """Separation fuzziness from layer to layer, and the law of equi-separation fitted to it.

    The axis is logarithmic, so that the law (:func:`separation_law`) is a straight line; the
    legend has its factor a layer and the correlation.

    Args:
        values: :func:`separation_fuzziness` of the layers in their order, the input first (0).
        ax: where to draw; a new figure when None.

    Raises:
        ImportError: without matplotlib.
        ValueError: as :func:`separation_law`.

    Example:
        >>> fig, ax = plot_layers([8.0, 4.0, 2.0])  # doctest: +SKIP
        >>> fig.savefig("layers.png")  # doctest: +SKIP
    """
    law = separation_law(values)
    figure, ax = _axes(ax)
    layers = range(len(values))
    fitted = [law["initial"] * law["rate"] ** layer for layer in layers]
    ax.set_yscale("log")
    ax.plot(layers, values, "o", label="fuzziness")
    label = f"factor {law['rate']:.2f} a layer, r = {law['correlation']:.3f}"
    ax.plot(layers, fitted, color=_BLACK, linewidth=0.8, label=label)
    ax.set_xlabel("layer")
    ax.legend(fontsize="small")
    return figure, ax


def plot_gram(
    weight: Tensor, tasks: TaskSpec | Tasks, *, ax: Axes | None = None
) -> tuple[Figure, Axes]:
    """Heat map of the cosines of all class vectors, each task's centred by its mean.

    Under collapse: ones on the diagonal, -1/(K_t - 1) within a task, 0 across tasks.

    Args:
        weight: (sum K_t, d) class vectors of all tasks below each other.
        tasks: class counts by task name, or in order; ``[K]`` for one task.
        ax: where to draw; a new figure when None.

    Raises:
        ImportError: without matplotlib.
    """
    tasks = Tasks.parse(tasks)
    vectors = class_vectors(weight, tasks, weight.shape[-1], torch.device("cpu"))
    units = torch.cat([frames.unit_rows(frames.centred(own)) for own in vectors])
    return plot_cosines(units @ units.T, tasks, ax=ax)


def plot_cosines(
    cosines: Tensor, tasks: TaskSpec | Tasks, *, ax: Axes | None = None, colorbar: bool = True
) -> tuple[Figure, Axes]:
    """Heat map of cosines that are known already, from blue (-1) to red (1).

    Args:
        cosines: (sum K_t, sum K_t) between the class vectors of all tasks; or (n, sum K_t), of
            other vectors with these. NaN stays white.
        tasks: class counts by task name, or in order; ``[K]`` for one task.
        ax: where to draw; a new figure when None.
        colorbar: whether to draw a colour bar; several heat maps may share one, of
            ``ax.images[0]``.

    Raises:
        ImportError: without matplotlib.
        ValueError: if the columns are not those of the tasks.
    """
    tasks = Tasks.parse(tasks)
    if cosines.ndim != 2 or cosines.shape[1] != tasks.total:
        raise ValueError(
            f"cosines of shape {tuple(cosines.shape)}: a column is needed for each of the "
            f"{tasks.total} classes"
        )
    figure, ax = _axes(ax)
    values = cosines.detach().cpu().numpy()
    image = ax.imshow(values, cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest")
    square = len(cosines) == tasks.total
    for rows in tasks.slices[1:]:
        if square:
            ax.axhline(rows.start - 0.5, color=_BLACK, linewidth=0.6)
        ax.axvline(rows.start - 0.5, color=_BLACK, linewidth=0.6)
    if tasks.names:
        middles = [(rows.start + rows.stop - 1) / 2 for rows in tasks.slices]
        ax.set_xticks(middles, tasks.names)
        if square:
            ax.set_yticks(middles, tasks.names)
    if colorbar:
        figure.colorbar(image, ax=ax, label="cosine")
    return figure, ax


def plot_class_plane(
    statistics: ClassStatistics,
    features: Tensor,
    labels: Tensor,
    classes: tuple[int, int, int],
    *,
    ax: Axes | None = None,
) -> tuple[Figure, Axes]:
    """Features of three classes, projected on the plane through their means.

    Under collapse each class is a point and the three are corners of an equilateral triangle.

    Args:
        statistics: keys are class labels.
        features: (B, d).
        labels: (B,) integers.
        classes: three labels that the statistics have seen.
        ax: where to draw; a new figure when None.

    Raises:
        ImportError: without matplotlib.
        ValueError: if one of the classes has no mean, or the three means lie on a line.
    """
    check_features(features, statistics.means.shape[1])
    seen = statistics.keys.tolist()
    if len(set(classes)) != 3 or not set(classes) <= set(seen):
        raise ValueError(f"classes={classes} must be three of those that have a mean: {seen}")
    corners = statistics.means[[seen.index(k) for k in classes]]
    origin = corners.mean(0)
    spread = torch.linalg.svd(corners - origin, full_matrices=False)
    axes = spread.Vh[:2].T
    if spread.S[1] <= 1e-12 * spread.S[0]:
        raise ValueError(f"the means of classes={classes} lie on one line: choose others")
    figure, ax = _axes(ax)
    for k, corner in zip(classes, corners, strict=True):
        own = features[labels == k].detach().to(corner.device).to(corner.dtype)
        points = (own - origin) @ axes
        drawn = ax.scatter(points[:, 0].cpu(), points[:, 1].cpu(), s=6, alpha=0.5, label=str(k))
        x, y = ((corner - origin) @ axes).tolist()
        ax.scatter(x, y, marker="X", s=80, color=drawn.get_facecolor()[0], edgecolor="black")
    ax.set_aspect("equal")
    ax.legend(title="class")
    return figure, ax


def _axes(ax: Axes | None) -> tuple[Figure, Axes]:
    if ax is not None:
        return cast("Figure", ax.figure), ax
    try:
        from matplotlib import pyplot as plt  # noqa: PLC0415 - not a core dependency
    except ImportError as error:
        raise ImportError('plots need matplotlib: pip install "etf_heads[recipes]"') from error
    return plt.subplots(layout="constrained")
