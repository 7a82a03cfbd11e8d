"""Geometric complexity of a function on data."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from etf_heads._precision import at_least_float32
from etf_heads._tasks import positive_int


def geometric_complexity(
    f: Callable[[Tensor], Tensor],
    x: Tensor,
    probes: int | None = None,
    *,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Mean squared norm of the Jacobian, :math:`\frac1B \sum_i |\partial f/\partial x_i|_F^2`.

    Dherin, Munn, Rosca and Barrett, "Why neural networks find simple solutions: the many
    regularizers of geometric complexity" (NeurIPS 2022). Munn, Dherin and Gonzalvo, "The impact of
    geometric complexity on neural collapse in transfer learning" (NeurIPS 2024) bound the collapse
    of features by it: where the inputs of each class obey a Poincaré inequality with the constant
    c, their features have the variance :math:`\sigma_k^2 \le c\, GC_k`, so that

    .. math:: \frac{\sigma_k^2 + \sigma_j^2}{2 |\mu_k - \mu_j|^2}
              \le c\, \frac{GC_k + GC_j}{2 |\mu_k - \mu_j|^2},

    on whose left is the ``cdnv`` of :class:`SingleTaskCollapse`. A finite sample has no such
    constant: what can be seen of it is a trend.

    Exactly, it takes a backward pass an output. With n probes it takes n passes: for random signs
    v, :math:`\mathbb E |J^\top v|^2 = |J|_F^2` (Hutchinson), with a variance a sample and probe of
    :math:`2 (|J J^\top|_F^2 - \sum_i (J J^\top)_{ii}^2)`.

    Args:
        f: a function of each sample alone, such as a network up to its features, in evaluation
            mode: (B, ...) to (B, ...).
        x: (B, ...), floating.
        probes: number of random directions; None for all outputs, which is exact.
        generator: of the signs, on the device of x.

    Returns:
        A number, in the squared units of f over those of x. It can be differentiated, as a
        penalty, where gradients are enabled; to measure, call it under ``torch.no_grad()``, which
        spends less memory.

    Raises:
        ValueError: if x is not floating or empty, f has no output a sample, or does not depend on
            x by operations that autograd sees, or is a module with a batch normalisation that
            makes each output depend on the whole batch.

    Example:
        >>> A = torch.tensor([[1.0, 2.0], [0.0, 3.0]])
        >>> geometric_complexity(lambda x: x @ A.T, torch.randn(5, 2))  # |A|², wherever x is
        tensor(14.)
    """
    if not isinstance(x, Tensor) or not x.is_floating_point() or x.ndim < 1 or not x.numel():
        raise ValueError(f"x must be a floating tensor with samples in it, got {_described(x)}")
    _refuse_batch_statistics(f)
    differentiable = torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
    with torch.inference_mode(False), torch.enable_grad():
        leaf = x.clone() if x.is_inference() else x
        leaf = leaf if leaf.requires_grad and differentiable else leaf.detach().requires_grad_()
        outputs = f(leaf)
        if not isinstance(outputs, Tensor) or outputs.ndim < 1 or len(outputs) != len(x):
            raise ValueError(
                f"f must give one output a sample, of shape ({len(x)}, ...); got "
                f"{_described(outputs)}"
            )
        if not outputs.requires_grad:
            raise ValueError(
                "the outputs of f do not depend on x, as far as autograd sees: is there a detach, "
                "or a torch.no_grad, in it?"
            )
        rows = outputs.reshape(len(x), -1)
        count = rows.shape[1] if probes is None else positive_int(probes, "probes")
        total = rows.new_zeros((), dtype=at_least_float32(rows.dtype))
        for index in range(count):
            if probes is None:
                direction = torch.zeros_like(rows)
                direction[:, index] = 1
            else:
                bits = torch.randint(2, rows.shape, generator=generator, device=rows.device)
                direction = (2 * bits - 1).to(rows.dtype)
            (gradient,) = torch.autograd.grad(
                rows, leaf, direction, retain_graph=True, create_graph=differentiable
            )
            total = total + gradient.to(total.dtype).square().sum()
        total = total / (len(x) * (1 if probes is None else count))
    return total if differentiable else total.detach()


def _described(value: object) -> str:
    if isinstance(value, Tensor):
        return f"{value.dtype} of shape {tuple(value.shape)}"
    return type(value).__name__


def _refuse_batch_statistics(f: object) -> None:
    """ValueError for modules, or methods of theirs, whose outputs depend on other samples."""
    module = getattr(f, "__self__", f)
    if not isinstance(module, nn.Module):
        return
    for name, part in module.named_modules():
        if isinstance(part, _BatchNorm) and (part.training or part.running_mean is None):
            where = f"{name!r} of f" if name else "f"
            raise ValueError(
                f"{where} is a {type(part).__name__} that takes the mean of the batch, so that "
                "outputs depend on other samples: call eval() first"
            )
