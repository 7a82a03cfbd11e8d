"""Operations on whole models: a fixed head, fewer features, tuning, decay, what that saved.

The libraries that models come from are not imported, but for transformers by
:func:`from_pretrained` when it is called: models are known by what they have.
"""

from etf_heads.surgery._adapter import HeadAdapter, TaskOutputs
from etf_heads.surgery._configuration import update_config
from etf_heads.surgery._costs import ModelCosts, model_costs
from etf_heads.surgery._decay import decay_groups
from etf_heads.surgery._locate import find_heads
from etf_heads.surgery._merge import merge
from etf_heads.surgery._narrow import narrow_features
from etf_heads.surgery._one_task import one_task_view
from etf_heads.surgery._pretrained import from_pretrained
from etf_heads.surgery._replace import replace_head
from etf_heads.surgery._saved import load_model, save_model
from etf_heads.surgery._savings import Savings, savings
from etf_heads.surgery._tune import tune_layer

__all__ = [
    "HeadAdapter",
    "ModelCosts",
    "Savings",
    "TaskOutputs",
    "decay_groups",
    "find_heads",
    "from_pretrained",
    "load_model",
    "merge",
    "model_costs",
    "narrow_features",
    "one_task_view",
    "replace_head",
    "save_model",
    "savings",
    "tune_layer",
    "update_config",
]
