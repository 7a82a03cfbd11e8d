"""The head of any number of classes."""

from __future__ import annotations

import torch

from etf_heads._tasks import Tasks, TaskSpec, positive_int
from etf_heads.codes import Code, spherical_code
from etf_heads.heads._feature_norm import FeatureNorm
from etf_heads.heads._fixed import FixedHead
from etf_heads.orientation import OrientationSpec


class SphericalCodeHead(FixedHead):
    r"""A classifier for more classes than dimensions, up to millions, without a weight matrix.

    A simplex ETF has room for d + 1 classes. Beyond that cross-entropy on unit features ends at a
    *softmax code* (Jiang et al., ICML 2024), unit vectors as far from each other as they fit. The
    codes here come close to it by formulas (:func:`~etf_heads.codes.spherical_code`): the simplex
    for K up to d + 1, the cross-polytope up to 2d, and Kerdock codes after that, with no cosine
    above :math:`1/\sqrt d` for K up to d(d + 2).

    Nothing is learned, and nothing is stored but K/2 bytes of signs outside of ``state_dict``.
    Logits are fast transforms; but few users want K logits a sample, so

    - :class:`~etf_heads.losses.CompoundCrossEntropy` takes features and makes none, in
      O(batch x d) memory for any K;
    - :meth:`topk` finds the best classes without them;
    - :meth:`rows` gives the class vectors of a batch, which is all that
      :class:`~etf_heads.losses.NTCE` needs;
    - :func:`~etf_heads.heads.assign_classes` decides which class gets which vector.

    Args:
        in_features: d.
        tasks_or_classes: K for one task; a mapping or sequence of class counts for several.
        bias: whether to learn a bias a class; losses and :meth:`topk` make logits then.
        code: another code of these tasks, such as :class:`~etf_heads.codes.GoldCode`.
        orientation: as in :class:`~etf_heads.ETFHead`.
        scale: s, the inverse of the softmax temperature. A top probability of p among K classes
            needs about :math:`\log (K p / (1 - p))`: 11.5 for K = 1,000 and 16 for 100,000 at
            p = 0.99.
        learn_scale: learn s (one number), from there.
        feature_norm: "unit" (default), "batch", "layer", a module, or None.
        device: as in ``nn.Linear``.
        dtype: as in ``nn.Linear``.

    Shape:
        features (..., d) to logits (..., K); a dict or tuple of (..., K_t) for several tasks.

    Raises:
        ValueError: if no code has so many vectors, or an option is not possible.

    Note:
        Which direction belongs to which class is arbitrary, so training takes longer than with a
        learned head until the network has found out, the more so the smaller d is for K.

    Example:
        >>> from etf_heads.losses import CompoundCrossEntropy
        >>> head = SphericalCodeHead(256, 50_000)
        >>> features = torch.randn(8, 256, requires_grad=True)
        >>> labels = torch.randint(50_000, (8,))
        >>> CompoundCrossEntropy()(features, head, labels).backward()
        >>> values, classes = head.topk(head.rows(labels), 1)
        >>> torch.equal(classes[:, 0], labels)
        True
    """

    def __init__(
        self,
        in_features: int,
        tasks_or_classes: TaskSpec | Tasks,
        bias: bool = False,
        *,
        code: Code | None = None,
        orientation: OrientationSpec | None = None,
        scale: float = 16.0,
        learn_scale: bool = False,
        feature_norm: FeatureNorm = "unit",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        tasks = Tasks.parse(tasks_or_classes, "tasks_or_classes")
        if code is None:
            in_features = positive_int(in_features, "in_features")
            code = spherical_code(tasks, in_features, device=device)
        elif code.tasks != tasks:
            raise ValueError(f"the code is of {code.tasks}, the head of {tasks}")
        super().__init__(
            in_features,
            code,
            orientation,
            bias,
            scale=scale,
            learn_scale=learn_scale,
            feature_norm=feature_norm,
            device=device,
            dtype=dtype,
        )
