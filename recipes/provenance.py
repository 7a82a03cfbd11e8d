"""Provenance of a result: the code, the libraries and the machine."""

from __future__ import annotations

import os
import platform
import subprocess
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import distributions
from pathlib import Path

import torch

PACKAGES = (
    "torch",
    "torchvision",
    "pillow",
    "accelerate",
    "geoopt",
    "pymanopt",
    "torchmetrics",
    "timm",
    "scikit-learn",
    "numpy",
    "safetensors",
)


@dataclass(frozen=True)
class Provenance:
    """What produced a result, and when.

    Attributes:
        date: in UTC, ISO 8601.
        commit: see :func:`commit`.
        python: version.
        platform: operating system.
        packages: see :func:`versions`.
        device: name of the hardware.
        cpu_threads: of torch.
        processes: of a launch.
        mixed_precision: arithmetic of the forward pass.
    """

    date: str
    commit: str | None
    python: str
    platform: str
    packages: dict[str, str]
    device: str
    cpu_threads: int
    processes: int | None = None
    mixed_precision: str | None = None


def provenance(
    device: torch.device | str,
    *,
    processes: int | None = None,
    mixed_precision: str | None = None,
) -> Provenance:
    """The provenance of what is made now, on this device."""
    return Provenance(
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        commit=commit(),
        python=platform.python_version(),
        platform=platform.platform(),
        packages=versions(),
        device=device_name(torch.device(device)),
        cpu_threads=torch.get_num_threads(),
        processes=processes,
        mixed_precision=mixed_precision,
    )


def commit() -> str | None:
    """The checked-out commit, with "-dirty" when files differ from it; None without git."""
    here = Path(__file__).parent
    command = ["git", "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=here, capture_output=True, text=True, check=False)  # noqa: S603
    except FileNotFoundError:
        return None
    return done.stdout.strip() or None


def versions() -> dict[str, str]:
    """Versions of the packages that decide results, where installed."""
    return {found.name: found.version for found in distributions() if found.name in PACKAGES}


def device_name(device: torch.device) -> str:
    """The name of the hardware."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cores = f"{os.cpu_count()} cores"
    cpuinfo = Path("/proc/cpuinfo")
    if device.type == "cpu" and cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return f"{line.partition(':')[2].strip()}, {cores}"
    return f"{platform.processor() or device.type}, {cores}"
