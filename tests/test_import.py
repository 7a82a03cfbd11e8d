"""Importing the package costs next to nothing over importing torch, and needs the core only."""

import subprocess
import sys

import pytest

import etf_heads

OPTIONAL = (
    *("torchmetrics", "geoopt", "sklearn", "accelerate", "matplotlib"),
    *("timm", "torchvision", "transformers"),
)
SUBPACKAGES = (
    *("codes", "collapse", "geometry", "heads"),
    *("losses", "orientation", "surgery", "theory"),
)


def printed(code):
    """What a new interpreter prints, in words."""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return run.stdout.split()


def loaded_by(statement):
    """Modules that a statement loads beyond those of torch and safetensors."""
    return printed(
        "import sys, torch, safetensors.torch; before = set(sys.modules)\n"
        f"{statement}\n"
        "print(*sorted(set(sys.modules) - before))"
    )


@pytest.mark.parametrize(
    "statement",
    [
        "import etf_heads",
        "import etf_heads; etf_heads.ETFHead(8, 3)(torch.randn(2, 8))",
        "import etf_heads; etf_heads.NearestETFHead(8, 3)(torch.randn(3, 8), torch.arange(3))",
        "import etf_heads; etf_heads.losses.CompoundCrossEntropy",
    ],
)
def test_it_loads_its_own_modules_and_no_others(statement):
    others = [name for name in loaded_by(statement) if name.split(".")[0] != "etf_heads"]
    # Nothing of torch's compiler, sympy or numpy; a few lazy modules of torch or Python at most.
    assert len(others) <= 5, others


def test_import_loads_no_optional_library():
    assert not {name.split(".")[0] for name in loaded_by("import etf_heads")} & set(OPTIONAL)


def test_every_subpackage_is_an_attribute():
    code = "import etf_heads; print(*(getattr(etf_heads, n).__name__ for n in {}))"
    assert printed(code.format(SUBPACKAGES)) == [f"etf_heads.{name}" for name in SUBPACKAGES]
    assert set(SUBPACKAGES) < set(dir(etf_heads))


def test_measures_and_losses_wait_for_their_first_use():
    loaded = loaded_by("import etf_heads")
    assert not {"etf_heads.collapse", "etf_heads.losses"} & set(loaded)


def test_unknown_attributes_are_errors():
    with pytest.raises(AttributeError, match="module 'etf_heads' has no attribute 'loses'"):
        etf_heads.loses  # noqa: B018


def test_public_names_exist():
    for name in etf_heads.__all__:
        assert getattr(etf_heads, name).__doc__
