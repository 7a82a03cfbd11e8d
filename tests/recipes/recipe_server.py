"""Made once, before processes are forked: modules, images, and no garbage to collect again."""

import gc
import sys
from importlib import import_module
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))  # in Python 3.11 a server has no path of pytest's
from recipe_runs import TINY

from recipes.data import load_data

torch.set_num_threads(1)  # threads do not outlive a fork
for name in ("aggregation", "autojac", "scalarization"):
    import_module(f"torchjd.{name}")
for name in ("aggregated", "equal", "scalarized"):
    import_module(f"recipes.training.strategies.{name}")
load_data(TINY.data, TINY)
gc.collect()
gc.freeze()
