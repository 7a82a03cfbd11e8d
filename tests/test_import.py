"""Importing the package costs little over importing torch, and needs the core only."""

import subprocess
import sys

import etf_heads

OPTIONAL = (
    *("torchmetrics", "geoopt", "sklearn", "accelerate", "matplotlib"),
    *("timm", "torchvision", "transformers"),
)


def test_import_loads_no_optional_library():
    code = "import sys, etf_heads; print(*sorted({m.split('.')[0] for m in sys.modules}))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not set(OPTIONAL) & set(run.stdout.split())


def test_public_names_exist():
    for name in etf_heads.__all__:
        assert getattr(etf_heads, name).__doc__
