"""U learned with the network, on the manifold of matrices with orthonormal columns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from etf_heads._geoopt import import_geoopt
from etf_heads._precision import at_least_float32
from etf_heads.orientation._dense import DenseOrientation, check_orthonormal
from etf_heads.orientation._tiled import TiledOrientation


class StiefelOrientation(DenseOrientation):
    r"""Orthonormal columns that a Riemannian optimiser learns; ``orientation="learned"``.

    The code keeps its angles while the frame turns: the head learns where it stands, and
    nothing else. The parameter ``basis`` is a ``geoopt.ManifoldParameter`` on
    ``EuclideanStiefel``, so give the whole network to an optimiser of geoopt, which treats other
    parameters as usual::

        head = ETFHead(512, 100, orientation="learned")
        optimizer = geoopt.optim.RiemannianAdam(model.parameters(), lr=1e-3, stabilize=100)

    An ordinary optimiser leaves the manifold, and the head is an ETF no longer.

    Args:
        in_features: d.
        columns: n, at most d.
        start: orthonormal columns (d, n) to start from; those of :class:`TiledOrientation` when
            None.
        device: where the matrix lives.
        dtype: what it is kept in; float32 where this is less.

    Raises:
        ValueError: if start has another shape.

    Example:
        >>> orientation = StiefelOrientation(6, 3)
        >>> [name for name, _ in orientation.named_parameters()]
        ['basis']
    """

    def __init__(
        self,
        in_features: int,
        columns: int,
        start: Tensor | None = None,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_features, columns)
        if start is not None and start.shape != (in_features, columns):
            raise ValueError(
                f"start has shape {tuple(start.shape)}, expected {(in_features, columns)}"
            )
        wide = at_least_float32(dtype or torch.get_default_dtype())
        like = torch.empty(0, device=device, dtype=wide)
        if start is None:
            start = TiledOrientation(in_features, columns).matrix(device=like.device)
        elif not start.is_meta:
            check_orthonormal(start)
        basis = start.detach().to(like, copy=True)
        self.basis = _on_manifold(basis.contiguous())

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Set the matrix to that of :class:`TiledOrientation`."""
        tiled = TiledOrientation(self.in_features, self.columns)
        self.basis.copy_(tiled.matrix(device=self.basis.device))

    def arguments(self) -> dict[str, Any]:
        """Sizes, and what the matrix is kept in; its values are in ``state_dict``."""
        return {
            "in_features": self.in_features,
            "columns": self.columns,
            "dtype": self.basis.dtype,
        }

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> StiefelOrientation:
        before, trained = self.basis.detach(), self.basis.requires_grad
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if not hasattr(self.basis, "manifold"):  # to some devices torch makes a plain parameter
            self.basis = _on_manifold(self.basis.detach(), trained)
        if self.basis.dtype != at_least_float32(self.basis.dtype):
            self.basis.data = before.to(self.basis.device)
        return self


def _on_manifold(matrix: Tensor, requires_grad: bool = True) -> Any:
    geoopt = import_geoopt()
    # Its constructor checks the values, which the meta device has not.
    parameter = matrix.as_subclass(geoopt.ManifoldParameter).requires_grad_(requires_grad)
    parameter.manifold = geoopt.EuclideanStiefel()
    return parameter
