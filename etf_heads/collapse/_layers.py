"""Collapse at several depths of a network at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from etf_heads.collapse._metric import CollapseMetric

if TYPE_CHECKING:
    from typing_extensions import Self


class LayerwiseCollapse:
    """One measure for each of several modules of a model, fed by forward hooks.

    "Cascading collapse": how early in the network do features collapse? Run the model as usual;
    hooks see the output of the named modules, and :meth:`update` adds the labels of the batch.
    Use it as a context manager, or call :meth:`remove`, and no hook stays behind.

    Args:
        model: whose modules to watch.
        layers: their names, as in ``model.named_modules()``.
        measure: makes the measure of a layer from its number of features, such as
            ``lambda dim: SingleTaskCollapse(dim, 10)``.
        pool: makes (B, d) features from a module's output; :func:`pooled` by default.

    Raises:
        ValueError: if the model has no module of some name.

    Example:
        >>> import torch
        >>> from etf_heads.collapse import SingleTaskCollapse
        >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))
        >>> images, labels = torch.randn(8, 1, 8, 8), torch.arange(8) % 2
        >>> with LayerwiseCollapse(model, ["0", "3"], lambda d: SingleTaskCollapse(d, 2)) as layers:
        ...     _ = model(images)
        ...     layers.update(labels)
        >>> {name: measure.num_features for name, measure in layers.measures.items()}
        {'0': 4, '3': 5}
        >>> sorted(layers.compute()["3"])[:3]
        ['cdnv', 'nc1', 'nc1_ratio']
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[str],
        measure: Callable[[int], CollapseMetric],
        *,
        pool: Callable[[Any], Tensor] | None = None,
    ) -> None:
        modules = dict(model.named_modules(remove_duplicate=False))
        unknown = [name for name in layers if name not in modules]
        if unknown or not layers:
            raise ValueError(
                f"layers={list(layers)}: the model has no modules {unknown}; choose from the "
                f"names in dict(model.named_modules())"
            )
        self.layers = tuple(layers)
        self.measures: dict[str, CollapseMetric] = {}
        self._make, self._pool = measure, pool or pooled
        self._features: dict[str, Tensor] = {}
        self._hooks: list[RemovableHandle] = [
            modules[name].register_forward_hook(self._keeper(name)) for name in self.layers
        ]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def remove(self) -> None:
        """Take the hooks off the model; the measures stay."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        self._features.clear()

    def update(self, labels: Any) -> None:
        """Take in the labels of the batch that the model has just seen.

        Raises:
            ValueError: if some layer has not run since the last update.
        """
        missing = [name for name in self.layers if name not in self._features]
        if missing:
            raise ValueError(
                f"layers {missing} have not run since the last update: call the model on a batch "
                f"first, then update with its labels"
            )
        for name in self.layers:
            features = self._features.pop(name)
            if name not in self.measures:
                self.measures[name] = self._make(features.shape[1]).to(features.device)
            self.measures[name].update(features, labels)

    def compute(self) -> dict[str, dict[str, float]]:
        """{layer: {name: value}} in the order of the layers, of all processes together.

        Class vectors belong to the last layer only: for the measures that need them, call
        ``measures[layer].compute(weight)``.

        Raises:
            ValueError: before there is data.
        """
        if not self.measures:
            raise ValueError("LayerwiseCollapse has seen no data: call update first")
        return {name: measure.compute() for name, measure in self.measures.items()}

    def ranks(self, share: float = 0.05, *, centred: bool = True) -> dict[str, int]:
        """{layer: rank of its class means}: singular values above a share of the largest.

        Full collapse has K - 1, or K where means are not centred; deeper minima of regularised
        networks have less (the low-rank bias of :class:`~etf_heads.theory
        .DeepUnconstrainedFeatureModel`, whose ``ranks`` are not centred).

        Args:
            share: from 0 to 1.
            centred: whether to take the mean of all class means off.

        Raises:
            ValueError: before there is data.
        """
        if not self.measures:
            raise ValueError("LayerwiseCollapse has seen no data: call update first")
        found = {}
        for name, measure in self.measures.items():
            statistics = measure.class_statistics()
            means = statistics.centred_means if centred else statistics.means
            values = torch.linalg.svdvals(means)
            found[name] = int((values > share * values[0]).sum())
        return found

    def reset(self) -> None:
        """Forget the data; the hooks stay."""
        self._features.clear()
        for measure in self.measures.values():
            measure.reset()

    def _keeper(self, name: str) -> Callable[[nn.Module, Any, Any], None]:
        def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
            self._features[name] = self._pool(output).detach()

        return keep


def pooled(output: Any) -> Tensor:
    """(B, d) features of a module's output.

    (B, d) stays as it is; images (B, d, H, W) and volumes are averaged over space; sequences
    (B, T, d) over their tokens. Of a mapping (as of transformers) the first value counts, and of
    a tuple the first entry.

    Raises:
        ValueError: for anything else.

    Example:
        >>> import torch
        >>> pooled(torch.ones(2, 3, 4, 4)).shape, pooled((torch.ones(2, 5, 3), None)).shape
        (torch.Size([2, 3]), torch.Size([2, 3]))
    """
    if isinstance(output, Mapping):
        output = next(iter(output.values()))
    elif isinstance(output, tuple):
        output = output[0]
    if isinstance(output, Tensor) and output.ndim >= 2:
        if output.ndim == 2:
            return output
        return output.mean(1) if output.ndim == 3 else output.flatten(2).mean(2)
    raise ValueError(
        f"no features in a layer's output of type {type(output).__name__}: give "
        f"pool=, a function from its output to a (B, d) tensor"
    )
