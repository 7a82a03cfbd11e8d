"""Specifications of heads: enough to make one again, and to notice if it came out different."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from etf_heads._spec import Spec, describe, identity, make
from etf_heads.heads._base import Head
from etf_heads.heads._feature_norm import BatchFeatureNorm

_PROBES = 4
_ALL_ROWS = 2**20  # up to here the fingerprint is of all class vectors, beyond of some
_SOME_ROWS = 256
_TOLERANCE = 1e-4  # float32 rounding is far below, another frame far above


@torch.no_grad()
def to_spec(head: Head) -> Spec:
    r"""The specification of a head: JSON values that :func:`from_spec` makes it from.

    It has the class and its arguments, for the code and the orientation too, and a fingerprint
    of the frame: the :math:`4 \times 4` numbers :math:`A^\top F B` for fixed A and B, with 256
    rows of F where there are more than a million. What the head stores (a given matrix, class
    means, a bias) is in its ``state_dict`` and not in here.

    Args:
        head: any head of this package, or a subclass of :class:`Head` that keeps the arguments
            of its constructor under their own names.

    Raises:
        ValueError: if a head made from it would not be the same, or the frame has NaNs.

    Example:
        >>> from etf_heads import ETFHead
        >>> spec = to_spec(ETFHead(8, 3, scale=2.0))
        >>> spec["class"], spec["arguments"]["orientation"]["class"], spec["arguments"]["scale"]
        ('ETFHead', 'TiledOrientation', 2.0)
    """
    spec = describe(head)
    if _makes_itself(spec):
        _check_nothing_is_lost(head, make(spec, in_features=head.in_features))
    fingerprint = _fingerprint(head)
    if not fingerprint.isfinite().all():
        raise ValueError(f"the class vectors of {head} are not finite: nothing worth saving")
    return spec | {"frame": fingerprint.tolist()}


def from_spec(spec: Any, in_features: int) -> Head:
    """A head of a specification, on the meta device, where what it stores has shapes only.

    Move it with ``to_empty(device=...)``, load its ``state_dict``, and :func:`check_frame`.

    Args:
        spec: from :func:`to_spec`. It may come from anywhere: no code in it is run, only
            classes that are defined already are used, and sizes are bounded by ``in_features``.
        in_features: d, the size of the features that the head is for.

    Raises:
        ValueError: if it is not the specification of a head of that size.

    Example:
        >>> from etf_heads import ETFHead
        >>> head = from_spec(to_spec(ETFHead(8, 3)), in_features=8).to_empty(device="cpu")
        >>> torch.equal(head.weight, ETFHead(8, 3).weight)
        True
    """
    head = make(_without(spec, "frame"), in_features=in_features)
    if not isinstance(head, Head) or head.in_features != in_features:
        raise ValueError(f"not the specification of a head of {in_features} features: {spec!r:.80}")
    return head


def same_head(spec: Any, other: Any) -> bool:
    """Whether heads of two specifications have the same logits, if their ``state_dict`` is equal.

    Precision does not count, nor does which class chose code and orientation, nor how heads that
    observe go on observing.
    """
    return bool(identity(spec) == identity(other))


@torch.no_grad()
def check_frame(head: Head, spec: Any) -> None:
    """Compare the class vectors of a head, its state loaded, with those of a specification.

    Raises:
        ValueError: if they are others.
    """
    try:
        expected = torch.tensor(spec["frame"], dtype=torch.float64)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"the fingerprint of the frame is missing or damaged: {error}") from error
    found = _fingerprint(head)
    if expected.shape != found.shape or not (expected - found).abs().max() <= _TOLERANCE:
        raise ValueError(
            f"the class vectors of {type(head).__name__} are not those that were saved: the "
            "stored tensors do not belong to the specification, or this version of the package "
            "or of torch makes others from it"
        )


def _fingerprint(head: Head) -> Tensor:
    """(4, 4) numbers of order one that turning or permuting the class vectors changes."""
    device = head._like.device
    dtype = torch.float32 if device.type == "mps" else torch.float64  # which MPS has not
    features = _probe(head.in_features).to(device, dtype)
    if head.out_features <= _ALL_ROWS:
        scores = head.scores(features).cpu().double()
    else:
        some = torch.arange(_SOME_ROWS, device=device) * (head.out_features - 1) // (_SOME_ROWS - 1)
        scores = (features @ head.frame_rows(some, dtype).mT).cpu().double()
    return scores @ _probe(scores.shape[1]).mT / scores.shape[1] ** 0.5


def _probe(size: int) -> Tensor:
    rows = torch.arange(1, _PROBES + 1, dtype=torch.float64, device="cpu")[:, None]
    entries = torch.arange(1, size + 1, dtype=torch.float64, device="cpu")
    # Quadratic phases: no period, no generator whose draws a version of torch may change.
    return torch.cos(entries * (entries + rows) * 1.618033988749895)


def _makes_itself(spec: Spec) -> bool:
    """Whether all of it can be made from JSON: not with a normalisation of the user's own."""
    norm = spec["arguments"].get("feature_norm")
    return norm is None or isinstance(norm, str)


def _check_nothing_is_lost(head: Head, twin: Head) -> None:
    lost = sorted(vars(head).keys() ^ vars(twin).keys())
    # A file brings the plain normalisation back; that of several processes is converted again.
    printed = repr(head).replace(nn.SyncBatchNorm.__name__, BatchFeatureNorm.__name__)
    if lost or printed != repr(twin):
        raise ValueError(
            f"{type(head).__name__} would not come back the same from a file: "
            f"{lost or repr(twin)}; give it from_arguments() and arguments() that keep all of it"
        )


def _without(spec: Any, key: str) -> Any:
    return {k: v for k, v in spec.items() if k != key} if isinstance(spec, dict) else spec
