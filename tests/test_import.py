"""Importing the package costs next to nothing over importing torch, and needs the core only."""

import json
import subprocess
import sys

import pytest

import etf_heads

OPTIONAL = (
    *("torchmetrics", "geoopt", "sklearn", "accelerate", "matplotlib"),
    *("timm", "torchvision", "transformers"),
)
SUBPACKAGES = (
    *("codes", "collapse", "geometry", "heads", "kernels"),
    *("losses", "orientation", "surgery", "theory"),
)
STATEMENTS = (
    "import etf_heads",
    "etf_heads.ETFHead(8, 3)(torch.randn(2, 8))",
    "etf_heads.NearestETFHead(8, 3)(torch.randn(3, 8), torch.arange(3))",
    "etf_heads.losses.CompoundCrossEntropy",
)
PROGRAM = f"""
import json, sys, torch, safetensors.torch
before, loaded = set(sys.modules), []
for statement in {STATEMENTS}:
    exec(statement)
    loaded.append(sorted(set(sys.modules) - before))
print(json.dumps(loaded))
"""


@pytest.fixture(scope="module")
def loaded():
    """Modules of a new interpreter beyond those of torch and safetensors, by the last statement."""
    command = [sys.executable, "-c", PROGRAM]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    return dict(zip(STATEMENTS, json.loads(run.stdout), strict=True))


@pytest.mark.parametrize("statement", STATEMENTS)
def test_it_loads_its_own_modules_and_no_others(statement, loaded):
    others = [name for name in loaded[statement] if name.split(".")[0] != "etf_heads"]
    # Nothing of torch's compiler, sympy or numpy; a few lazy modules of torch or Python at most.
    assert len(others) <= 5, others


def test_import_loads_no_optional_library(loaded):
    assert not {name.split(".")[0] for name in loaded["import etf_heads"]} & set(OPTIONAL)


@pytest.mark.parametrize("name", SUBPACKAGES)
def test_every_subpackage_is_an_attribute(name, monkeypatch):
    if name in etf_heads._LAZY:
        monkeypatch.delattr(etf_heads, name, raising=False)  # which an import of it has set
    assert getattr(etf_heads, name).__name__ == f"etf_heads.{name}"
    assert name in dir(etf_heads)


def test_measures_and_losses_wait_for_their_first_use(loaded):
    assert not {"etf_heads.collapse", "etf_heads.losses"} & set(loaded["import etf_heads"])


def test_unknown_attributes_are_errors():
    with pytest.raises(AttributeError, match="module 'etf_heads' has no attribute 'loses'"):
        etf_heads.loses  # noqa: B018


def test_public_names_exist():
    for name in etf_heads.__all__:
        assert getattr(etf_heads, name).__doc__
