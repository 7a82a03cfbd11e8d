"""Fine-tuning of one layer, with a connection from it to the classifier."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _NormBase

from etf_heads.surgery._locate import channels_first, find_heads, width_and_classes

M = TypeVar("M", bound=nn.Module)


def tune_layer(
    model: M,
    layer: str,
    *,
    skip: bool = True,
    at: str | Sequence[str] | None = None,
    pool: Callable[[Any], Tensor] | None = None,
) -> M:
    r"""Freeze a pretrained model but for one layer and its classifier, in place.

    Li, Liu, Zhou, Lu, Fernandez-Granda, Zhu and Qu, "Understanding and improving transfer learning
    of deep models via neural collapse" (TMLR 2024): the more the features of a pretrained model
    collapse on the training data of a new task, the better it transfers, and tuning one layer (or
    block) in the middle is enough to make them. Skip connection layer fine-tuning adds the
    output of that layer to the last features, so that it is trained by a short way, too:

    .. math:: h = h_\text{last} + (\mathrm{pool}(h_\text{layer}),\, 0)

    with zeros up to the width d of the classifier. That form of the connection is our reading of
    the paper. Tune with an optimiser of the parameters that are left::

        model = tune_layer(replace_head(model, 20, feature_norm="batch"), "layer3.1")
        optimiser = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.01)

    Normalisations with running statistics that are frozen stay in evaluation mode, whatever
    ``model.train()`` says. Called again, it tunes another layer instead.

    Args:
        model: any model; changed in place.
        layer: name of the module to tune, as in ``model.named_modules()``.
        skip: whether to add the connection.
        at: name or names of the classifiers, as in :func:`find_heads`.
        pool: makes (B, c) features from the layer's output, c at most d; averages over space or
            tokens by default (:func:`etf_heads.collapse.pooled`).

    Returns:
        The model.

    Raises:
        ValueError: if there is no such module, nothing in it can be trained, or a classifier is
            part of it; in forward, if the layer has more features than the classifier takes.

    Note:
        Losses of features and head (:mod:`etf_heads.losses`) do not call the classifier, so the
        connection has no part in them: make logits and take their cross-entropy.

        Replace the head first: the connection ends at the classifier that is there. It has no
        parameters and is not in ``state_dict``: to use weights that were tuned with it, call this
        on the model that they were loaded into, too. ``torch.compile`` of torch
        2.13 fails on such a model, in Dynamo; that of 2.15 takes it.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 16), nn.Linear(16, 3))
        >>> model = tune_layer(model, "0", at="3")
        >>> [name for name, p in model.named_parameters() if p.requires_grad]
        ['0.weight', '0.bias', '3.weight', '3.bias']
        >>> x = torch.randn(5, 8)
        >>> output = model[0](x)
        >>> last = model[2](model[1](output)) + torch.cat([output, torch.zeros(5, 12)], dim=1)
        >>> torch.allclose(model(x), F.linear(last, model[3].weight, model[3].bias))
        True
    """
    heads = find_heads(model, at)
    tuned = _layer(model, layer, heads)
    parts = [tuned, *heads.values()]
    _undo(model)
    model.requires_grad_(False)
    own = {id(module) for part in parts for module in part.modules()}
    for module in model.modules():
        keeps = isinstance(module, _NormBase) and module.running_mean is not None
        if keeps and id(module) not in own:
            module.register_forward_pre_hook(_evaluate)
    for part in parts:
        part.requires_grad_(True)
    if skip:
        connection = _Connection(layer, pool)
        tuned.register_forward_hook(connection.keep)
        for head in heads.values():
            end = connection.add_to_channels if channels_first(head) else connection.add
            head.register_forward_pre_hook(end)
        model.register_forward_hook(connection.forget)
    return model


class _Connection:
    """The output of a layer, on its way to the classifiers; its methods are hooks.

    Args:
        layer: its name, for messages.
        pool: makes (B, c) features of it; None for the default.
    """

    def __init__(self, layer: str, pool: Callable[[Any], Tensor] | None) -> None:
        self.layer, self.pool = layer, pool
        self.output: Tensor | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"output": None}

    def keep(self, _module: nn.Module, _inputs: Any, output: Any) -> None:
        """Of the layer, after it ran."""
        if self.pool is None:
            from etf_heads.collapse import pooled  # noqa: PLC0415 - needs torchmetrics

            self.pool = pooled
        self.output = self.pool(output)

    def add(self, head: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        """Of a classifier of features (B, ..., d), before it runs."""
        features, *others = inputs
        extra = self._padded(head)
        return features + extra.reshape(len(extra), *[1] * (features.ndim - 2), -1), *others

    def add_to_channels(self, head: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        """Of a classifier of features (B, d, ...), before it runs."""
        features, *others = inputs
        extra = self._padded(head)
        return features + extra.reshape(*extra.shape, *[1] * (features.ndim - 2)), *others

    def forget(self, _module: nn.Module, _inputs: Any, _output: Any) -> None:
        """Of the model, after it ran."""
        self.output = None

    def _padded(self, head: nn.Module) -> Tensor:
        width, _ = width_and_classes(head)
        if self.output is None:
            raise ValueError(
                f"the classifier ran before the layer {self.layer!r} that is tuned: tune one that "
                "the features pass, or give skip=False"
            )
        if self.output.shape[1] > width:
            raise ValueError(
                f"the layer {self.layer!r} has {self.output.shape[1]} features, the classifier "
                f"takes {width}: give a pool that makes fewer, or skip=False"
            )
        return F.pad(self.output, (0, width - self.output.shape[1]))


def _layer(model: nn.Module, name: str, heads: Mapping[str, nn.Module]) -> nn.Module:
    """The module of this name, or ValueError."""
    modules = dict(model.named_modules(remove_duplicate=False))
    if not name or name not in modules:
        raise ValueError(
            f"layer={name!r}: {type(model).__name__} has no such module; choose a name of "
            "dict(model.named_modules())"
        )
    inside = {id(module) for module in modules[name].modules()}
    if within := [head for head, module in heads.items() if id(module) in inside]:
        raise ValueError(f"layer={name!r} contains the classifier {within[0]!r}, tuned anyway")
    if not any(True for _ in modules[name].parameters()):
        raise ValueError(f"layer={name!r} has no parameters to tune: {modules[name]}")
    return modules[name]


def _evaluate(module: nn.Module, _inputs: Any) -> None:
    """A hook of frozen normalisations, before they run."""
    module.training = False


def _undo(model: nn.Module) -> None:
    """Remove the hooks of an earlier call."""
    for module in model.modules():
        for hooks in (module._forward_hooks, module._forward_pre_hooks):
            for key, hook in list(hooks.items()):
                if hook is _evaluate or isinstance(getattr(hook, "__self__", None), _Connection):
                    del hooks[key]
