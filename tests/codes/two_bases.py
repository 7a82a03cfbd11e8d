"""A code of nobody's: what a user would write, in one file, with one row in ``tests/cases.py``."""

import torch

from etf_heads import Tasks
from etf_heads.codes import Code
from etf_heads.geometry import dct


class TwoBasesCode(Code):
    """The axes of d dimensions and the rows of a cosine transform: 2 d class vectors."""

    def __init__(self, tasks):
        tasks = Tasks.parse(tasks)
        super().__init__(tasks, columns=tasks.total // 2)

    def expand(self, coordinates):
        transform = dct(self.columns, dtype=coordinates.dtype, device=coordinates.device)
        return torch.cat([coordinates, coordinates @ transform.mT], dim=-1)
