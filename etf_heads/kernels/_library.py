"""The compiled library: loaded once, and turned on and off."""

from __future__ import annotations

import ctypes
import os
import warnings
from importlib.util import find_spec
from pathlib import Path

import torch

_ABI = 3
_SIGNATURES = {
    # i: int64, p: pointer, d: double
    "etf_heads_cross_entropy": "ipipiiiiipdidpipi",
    "etf_heads_cross_entropy_backward": "ippiiiiippi",
    "etf_heads_bases": "ipiiipiipppii",
}
_TYPES = {"i": ctypes.c_int64, "p": ctypes.c_void_p, "d": ctypes.c_double}
# Numbers to work on from which on there are threads. With fewer, two of them on a machine that was
# not idle took from 0.9 to 3.6 times as long as one.
_PARALLEL = 2**22
_ERRORS = {
    1: ValueError("labels are out of range"),
    2: MemoryError("no memory for the scores of a few samples"),
    3: ValueError("features must be of float32, float64 or bfloat16"),
}

DTYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2}
"""Dtypes by the numbers that functions of the library know them by."""


class _State:
    """The library, if there is one, whether it is used, and why not."""

    library: ctypes.CDLL | None = None
    enabled = False
    status = ""
    triton = False


def load(folder: Path = Path(__file__).parent) -> None:
    """Load the library from a folder, for the processor at hand."""
    _State.library, _State.enabled = None, False
    if os.environ.get("ETF_HEADS_KERNELS") == "0":
        _State.status = "off: ETF_HEADS_KERNELS=0"
        return
    capability = torch.backends.cpu.get_cpu_capability()
    variant = "-avx2" if capability in ("AVX2", "AVX512") else ""
    path = folder / f"libkernels{variant}.so"
    if not path.exists():
        _State.status = f"not compiled: no {path.name} in {folder}"
        return
    try:
        library = ctypes.CDLL(str(path))
        version = library.etf_heads_abi()
        for name, letters in _SIGNATURES.items():
            getattr(library, name).argtypes = [_TYPES[letter] for letter in letters]
    except (OSError, AttributeError) as error:
        version, reason = None, str(error)
    else:
        reason = f"it is of version {version}, not {_ABI}: install the package again"
    if version != _ABI:
        _State.status = f"not loaded: {path}: {reason}"
        warnings.warn(
            f"etf_heads computes without its compiled kernels: {_State.status}",
            RuntimeWarning,
            stacklevel=2,
        )
        return
    _State.library, _State.enabled = library, True
    _State.status = f"on: {path}"


def library() -> ctypes.CDLL:
    """The library, which must be there."""
    assert _State.library is not None  # noqa: S101
    return _State.library


def check(status: int) -> None:
    """Raise the error that a function of the library returned, if it did."""
    if status:
        raise _ERRORS[status]


def threads(numbers: int) -> int:
    """How many to work with on so many numbers."""
    return torch.get_num_threads() if numbers >= _PARALLEL else 1


def is_enabled() -> bool:
    """Whether compiled kernels are there, and turned on.

    Example:
        >>> before = is_enabled()
        >>> enable(False)
        >>> is_enabled()
        False
        >>> enable(before)
    """
    return _State.enabled


def enable(on: bool = True) -> None:
    """Turn compiled kernels on or off, in this process; they are on where they are there.

    Raises:
        ValueError: if there are none to turn on, with the reason.
    """
    if on and _State.library is None:
        raise ValueError(
            f"no compiled kernels ({_State.status}): install etf_heads from source on a machine "
            "with a C++ compiler"
        )
    _State.enabled = on


def enable_experimental_triton(on: bool = True) -> None:
    """Turn on, or off, the loss of tiled heads in Triton for features on a CUDA device.

    It is off unless a user turns it on: its results are tested in Triton's interpreter on a CPU,
    and nobody has measured whether it saves time on a GPU. A label out of range makes the loss NaN.

    Raises:
        ValueError: if Triton is not installed.

    Example:
        >>> enable_experimental_triton(False)
    """
    if on and find_spec("triton") is None:
        raise ValueError("there is no Triton: it comes with torch for CUDA")
    _State.triton = on


def is_enabled_for(device: str) -> bool:
    """Whether tiled heads have a kernel for a kind of device."""
    return _State.enabled if device == "cpu" else _State.triton and device == "cuda"


def status() -> str:
    """In words: "on: " and the library; or "off", "not compiled" or "not loaded", and why.

    Example:
        >>> status().split(":")[0] in ("on", "off", "not compiled", "not loaded")
        True
    """
    return _State.status if _State.enabled or _State.library is None else "off: by enable(False)"


load()
