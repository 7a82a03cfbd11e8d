"""Which angles the class vectors make: matrices C of few columns, mostly never stored.

Every head is ``logits = s * C (Uᵀ h)``; a code is the C. A new one is a subclass of :class:`Code`.
"""

from etf_heads.codes._base import Code
from etf_heads.codes._gram import GramCode, gram_rank
from etf_heads.codes._simplex import CrossTask, SimplexCode

__all__ = ["Code", "CrossTask", "GramCode", "SimplexCode", "gram_rank"]
