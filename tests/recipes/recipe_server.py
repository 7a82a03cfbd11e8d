"""Made once, before processes are forked: images, and no garbage to collect again."""

import gc

import torch
from recipe_runs import TINY

from recipes.data import load_data

torch.set_num_threads(1)  # threads do not outlive a fork
load_data(TINY.data, TINY)
gc.collect()
gc.freeze()
