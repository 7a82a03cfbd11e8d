"""Operations on whole models: give one a fixed head, narrow its features, say what that saved.

The libraries that models come from are never imported: models are known by what they have.
"""

from etf_heads.surgery._adapter import HeadAdapter, TaskOutputs
from etf_heads.surgery._locate import find_heads
from etf_heads.surgery._replace import replace_head
from etf_heads.surgery._saved import load_model, save_model

__all__ = [
    "HeadAdapter",
    "TaskOutputs",
    "find_heads",
    "load_model",
    "replace_head",
    "save_model",
]
