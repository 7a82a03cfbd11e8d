"""Provenance of a result: the code, the libraries and the machine."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import datetime, timezone
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

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


def provenance(device: torch.device | str) -> dict[str, Any]:
    """JSON values that say what produced a result and when.

    Args:
        device: where the work was done.
    """
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": versions(),
        "device": device_name(torch.device(device)),
        "cpu_threads": torch.get_num_threads(),
    }


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
