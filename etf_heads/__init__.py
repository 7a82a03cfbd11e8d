"""Classifier heads of fixed geometry: same accuracy, nothing to learn, nothing to store.

Importing this needs torch and safetensors only, and costs little more than they do. All
subpackages are attributes, imported when first used: ``etf_heads.geometry``, ``.orientation``,
``.codes``, ``.theory``, ``.heads``, ``.losses``, ``.surgery``, ``.kernels`` (compiled code, where
there is any), and ``.collapse``, which needs torchmetrics.
"""

import importlib
from typing import TYPE_CHECKING, Any

from etf_heads._tasks import Tasks
from etf_heads.heads import (
    ClassMeanHead,
    CompoundETFHead,
    CorrelatedETFHead,
    ETFHead,
    NearestETFHead,
    PrototypeHead,
    SphericalCodeHead,
)
from etf_heads.surgery import (
    from_pretrained,
    load_model,
    narrow_features,
    replace_head,
    save_model,
    savings,
)

if TYPE_CHECKING:
    from etf_heads import collapse as collapse
    from etf_heads import kernels as kernels
    from etf_heads import losses as losses

__version__ = "0.1.0"

__all__ = [
    "ClassMeanHead",
    "CompoundETFHead",
    "CorrelatedETFHead",
    "ETFHead",
    "NearestETFHead",
    "PrototypeHead",
    "SphericalCodeHead",
    "Tasks",
    "from_pretrained",
    "load_model",
    "narrow_features",
    "replace_head",
    "save_model",
    "savings",
]

_LAZY = ("collapse", "kernels", "losses")

if not TYPE_CHECKING:  # type checkers would take any name for one of this module

    def __getattr__(name: str) -> Any:
        if name in _LAZY:
            return importlib.import_module(f"{__name__}.{name}")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
