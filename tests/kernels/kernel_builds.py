"""The project's build hook, as a module."""

import importlib.util
from pathlib import Path

ROOT = Path(__file__).parents[2]


def build_module():
    """hatch_build.py, which is not part of a package."""
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
