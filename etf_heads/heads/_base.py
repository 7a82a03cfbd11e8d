"""The base class of all heads: class vectors that are not learned, and what is around them."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from etf_heads._labels import check_range
from etf_heads._precision import as_autocast, at_least_float32, check_dtype, gathered
from etf_heads._recognised import Recognised
from etf_heads._spec import Spec, Specified, describe
from etf_heads._tasks import Tasks, TaskSpec, positive_int
from etf_heads._tracing import call_recorded, is_symbolic, is_traced
from etf_heads.heads._feature_norm import (
    FeatureNorm,
    folded,
    make_norm,
    norm_name,
    normalised,
)
from etf_heads.heads._linear import linear_of

_BLOCK = 2**22  # numbers of class vectors, or of logits, at a time in topk


class Head(Recognised, Specified):
    r"""A classifier whose class vectors W = s F are not learned; subclasses give the frame F.

    Subclasses implement :meth:`scores`, :meth:`frame` and :meth:`frame_rows`, and inherit
    everything else.

    Args:
        in_features: d.
        tasks: the tasks that the rows of F belong to: K for one task, class counts by name or in
            order for several. Logits come as a tensor, a dict or a tuple, to match.
        bias: whether to learn a bias a class, starting at zero.
        scale: s, positive: the length of class vectors of a frame with unit rows.
        learn_scale: whether s is a parameter (one number) that starts there.
        feature_norm: normalisation of the features before the head, see :func:`feature_norm`.
        device: of parameters and buffers.
        dtype: of parameters and buffers, and of :attr:`weight`.

    Attributes:
        tasks: as :class:`~etf_heads.Tasks`.
        largest_weight: most numbers that :attr:`weight` may have; more raise an error, since a
            dense matrix of many classes fits into no memory.

    Shape:
        features (..., d) to one tensor of logits (..., K_t) a task: in a dict when tasks have
        names, in a tuple when they are listed, by itself for one task given by its class count.

    Raises:
        ValueError: if an option is not possible.
    """

    largest_weight = 2**30
    _like: Tensor

    def __init__(
        self,
        in_features: int,
        tasks: TaskSpec | Tasks,
        *,
        bias: bool = False,
        scale: float = 1.0,
        learn_scale: bool = False,
        feature_norm: FeatureNorm = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_dtype(dtype)
        if not (math.isfinite(scale) and scale > 0):
            raise ValueError(f"scale must be a positive finite number, got {scale!r}")
        self.tasks = Tasks.parse(tasks)
        self.in_features = positive_int(in_features, "in_features")
        self.out_features = self.tasks.total
        self.norm = make_norm(feature_norm, in_features, device=device, dtype=dtype)
        # An empty tensor that .to(...) moves along: the only way for a module without tensors
        # to know which device and dtype its dense form should have.
        self.register_buffer("_like", torch.empty(0, device=device, dtype=dtype), persistent=False)
        # One entry, not none: fully_shard refuses scalar parameters.
        self.scale = nn.Parameter(self._like.new_tensor([scale])) if learn_scale else float(scale)
        self._initial_scale = float(scale)
        self.bias = nn.Parameter(self._like.new_zeros(self.out_features)) if bias else None

    def options(self) -> dict[str, Any]:
        """The arguments of the constructor that all heads share, but for the device."""
        learned = isinstance(self.scale, nn.Parameter)
        return {
            "bias": self.bias is not None,
            "scale": self._initial_scale if learned else self.scale,
            "learn_scale": learned,
            "feature_norm": norm_name(self.norm, self.in_features),
            "dtype": self._like.dtype,
        }

    def arguments(self) -> dict[str, Any]:
        """The arguments of the constructor, but for the device."""
        own = super().arguments()
        return own | {name: value for name, value in self.options().items() if name in own}

    def definition(self) -> Spec:
        """The specification of the head, as far as JSON can hold it."""
        return describe(self, partly=True)

    def scores(self, features: Tensor) -> Tensor:
        """Products F h: (..., d) -> (..., sum K_t)."""
        raise NotImplementedError

    def frame(self) -> Tensor:
        """F itself, shape (sum K_t, d), in the precision it is kept in."""
        raise NotImplementedError

    def frame_rows(self, indices: Tensor, dtype: torch.dtype) -> Tensor:
        """Rows of F: indices (...) of classes, of all tasks side by side -> (..., d)."""
        raise NotImplementedError

    def reset_parameters(self) -> None:
        """Reset parameters to their initial values, and rebuild buffers from their definition."""
        with torch.no_grad():
            if isinstance(self.scale, nn.Parameter):
                self.scale.fill_(self._initial_scale)
            if self.bias is not None:
                self.bias.zero_()

    def forward(self, features: Tensor) -> Tensor | dict[str, Tensor] | tuple[Tensor, ...]:
        """Logits: (..., d) -> (..., K_t), one tensor a task."""
        if (recorded := call_recorded(self, features)) is not None:
            return recorded
        return self.tasks.split(self.all_logits(features))

    def all_logits(self, features: Tensor) -> Tensor:
        """Logits of all tasks side by side: (..., d) -> (..., sum K_t)."""
        return self._finish(self.scores(self.prepare(features)))

    def all_softmax_logits(self, features: Tensor) -> Tensor:
        """The logits up to a constant a task, if that costs less.

        A softmax, and the gradient of a loss on it, do not depend on the constant.
        """
        return self.all_logits(features)

    def prepare(self, features: Tensor) -> Tensor:
        """Checked and normalised features, the input of :meth:`scores`."""
        self._check_size(features)
        return features if self.norm is None else normalised(self.norm, features)

    def _check_size(self, features: Tensor) -> None:
        if not is_symbolic(features) and features.shape[-1] != self.in_features:
            raise ValueError(
                f"features have {features.shape[-1]} entries, the head takes {self.in_features}"
            )

    def _finish(self, scores: Tensor) -> Tensor:
        return as_autocast(self._affine(scores, scaled=False))

    def _affine(self, scores: Tensor, *, scaled: bool) -> Tensor:
        """Scores times s, unless they are that already, plus the bias."""
        if not isinstance(self.scale, float):  # a parameter, or what stands for it in a trace
            scores = scores * self.scale.to(scores.dtype)
        elif not scaled and self.scale != 1.0:
            scores = scores * self.scale
        return scores if self.bias is None else scores + self.bias.to(scores.dtype)

    @property
    def weight(self) -> Tensor:
        """Dense class vectors W = s F, shape (sum K_t, d), computed on each access.

        With parameters sharded by FSDP2, all processes must access it together.

        Raises:
            ValueError: if it has more numbers than :attr:`largest_weight`.
        """
        size = self.out_features * self.in_features
        if size > self.largest_weight:
            raise ValueError(
                f"weight has {size:,} numbers for {self.out_features:,} classes of "
                f"{self.in_features} features, more than {self.largest_weight:,}: take "
                "rows(labels), or set largest_weight"
            )
        return self._scaled(self.frame())

    def task_weight(self, task: str | int) -> Tensor:
        """Dense class vectors of one task, shape (K_t, d), made on request."""
        return self.weight[self.tasks.slices[self.tasks.index(task)]]

    def rows(self, labels: Tensor, task: str | int | None = None) -> Tensor:
        """Class vectors of labels, without the dense :attr:`weight`: (...) -> (..., d).

        O(d) each for a fixed head; differentiable in the parameters of the head.

        Args:
            labels: integers from 0 to K_t - 1; on a CPU others are refused.
            task: whose labels they are, by name or position; needed where there are several.

        Raises:
            ValueError: if a label is out of range, or there is no such task.

        Example:
            >>> from etf_heads import CompoundETFHead
            >>> head = CompoundETFHead(8, {"shape": 3, "colour": 4})
            >>> labels = torch.tensor([2, 0])
            >>> rows = head.rows(labels, "colour")
            >>> torch.allclose(rows, head.task_weight("colour")[labels])
            True
        """
        if task is None and len(self.tasks) > 1:
            raise ValueError(f"task is required: one of {list(self.tasks.labels)}")
        position = self.tasks.index(0 if task is None else task)
        if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
            raise ValueError(f"labels must be a tensor of integers, got {labels.dtype}")
        if labels.device.type == "cpu" and not is_traced():
            check_range(labels.unsqueeze(-1), Tasks((self.tasks.sizes[position],)))
        indices = labels.long() + self.tasks.slices[position].start
        return self._scaled(self.frame_rows(indices, at_least_float32(self._like.dtype)))

    def _scaled(self, frame: Tensor) -> Tensor:
        scale = gathered(self.scale) if isinstance(self.scale, nn.Parameter) else self.scale
        return gathered(frame).to(self._like.dtype) * scale

    @torch.no_grad()
    def topk(self, features: Tensor, k: int, task: str | int | None = None) -> Any:
        """The k largest logits and their classes, as ``torch.topk`` of the logits gives them.

        Logits are made in blocks of classes, in memory that does not grow with K. Fixed heads
        make theirs by fast products; codes of many bases make none: they search their bases one by
        one, in O(samples x d) memory for any K. The best one alone (k = 1) of a Kerdock code takes
        a few transforms instead of one a basis wherever they prove that no other class is better,
        which they do from a cosine of about 0.35 on (d = 1,024); the search is exact anyway.
        Nothing of it is differentiated.

        Args:
            features: (..., d).
            k: how many, up to K_t.
            task: by name or position; None for all.

        Returns:
            ``(values, indices)`` of shape (..., k), one such pair a task for several tasks.

        Raises:
            ValueError: if k is not possible, or there is no such task.

        Example:
            >>> from etf_heads import ETFHead
            >>> head = ETFHead(8, 4)
            >>> values, classes = head.topk(head.rows(torch.tensor([3, 0])), 2)
            >>> classes[:, 0]
            tensor([3, 0])
        """
        if task is None:
            return self.tasks.pack(self.topk(features, k, t) for t in range(len(self.tasks)))
        position = self.tasks.index(task)
        classes = self.tasks.sizes[position]
        if not 1 <= positive_int(k, "k") <= classes:
            raise ValueError(f"k={k}: there are {classes} classes")
        return torch.return_types.topk(self._best(features, k, position))

    def _best(self, features: Tensor, k: int, position: int) -> tuple[Tensor, Tensor]:
        """The k largest logits of a task, and their classes: (..., k) each."""
        prepared = self.prepare(features)
        rows = self.tasks.slices[position]
        scale = gathered(self.scale) if isinstance(self.scale, nn.Parameter) else self.scale
        step = max(k, _BLOCK // max(self.in_features, prepared[..., 0].numel()))
        values = prepared.new_empty(*prepared.shape[:-1], 0)
        classes = torch.empty_like(values, dtype=torch.int64)
        for start in range(rows.start, rows.stop, step):
            block = torch.arange(start, min(start + step, rows.stop), device=prepared.device)
            logits = prepared @ self.frame_rows(block, prepared.dtype).mT * scale
            if self.bias is not None:
                logits = logits + gathered(self.bias)[block]
            found, places = logits.topk(min(k, len(block)))
            values, order = torch.cat([values, found], -1).topk(k)
            known = torch.cat([classes, block[places] - rows.start], -1)
            classes = known.gather(-1, order)
        return values, classes

    def to_linear(self, bias: bool | None = None) -> nn.Linear | nn.ModuleDict:
        """An ``nn.Linear`` with the same logits, for exporters and other tools.

        For several tasks, one each in an ``nn.ModuleDict``, by task name (or "0", "1", ...). A
        "batch" normalisation is folded in with its running statistics (as in eval mode).

        Args:
            bias: True for layers with a bias, zero where there is none, as most architectures
                load it; False for layers without one; None for what the head needs.

        Raises:
            ValueError: if another normalisation stands before the head, ``bias=False`` would lose
                a bias that is not zero, or a task has a name that no module can have, such as
                "a.b".
        """
        linears = self._linears(bias)
        if self.tasks.single:
            return linears[0]
        try:
            return nn.ModuleDict(dict(zip(self.tasks.labels, linears, strict=True)))
        except KeyError as error:
            raise ValueError(
                f"a task name is not a valid module name ({error}): rename it, or use no names"
            ) from error

    def _linears(self, with_bias: bool | None = None) -> list[nn.Linear]:
        """One linear layer a task, with the logits that this head has in eval mode."""
        weight, bias = self._folded()
        if with_bias and bias is None:
            bias = weight.new_zeros(len(weight))
        if with_bias is False and bias is not None:
            if bias.any():
                raise ValueError(
                    "bias=False loses a bias that is not zero: the head's own, or what a batch "
                    "normalisation folds into"
                )
            bias = None
        rows = self.tasks.slices
        return [linear_of(weight[own], None if bias is None else bias[own]) for own in rows]

    @torch.no_grad()
    def _folded(self) -> tuple[Tensor, Tensor | None]:
        weight, norm = self.weight, self.norm
        bias = None if self.bias is None else gathered(self.bias)
        if norm is None:
            return weight, bias
        weight, shift = folded(norm, weight)
        return weight, shift if bias is None else shift + bias

    def extra_repr(self) -> str:
        """Sizes and options, for ``print(module)``."""
        learned = "learned from " if isinstance(self.scale, nn.Parameter) else ""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"bias={self.bias is not None}, scale={learned}{self.options()['scale']:g}"
        )
