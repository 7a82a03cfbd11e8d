"""The angles between class vectors: matrices C of few columns, mostly never stored.

Every head is ``logits = s * C (Uᵀ h)``; a code is the C, and says which tasks its rows are for. A
new one is a subclass of :class:`Code` in a file of its own and a row of the table ``CODES`` in
``tests/cases.py``, which gives it every check; :class:`~etf_heads.heads.FixedHead` makes a head
of it.
"""

from etf_heads._tasks import Tasks
from etf_heads.codes._assigned import AssignedCode
from etf_heads.codes._base import Code
from etf_heads.codes._bases import BasesCode
from etf_heads.codes._choice import spherical_code
from etf_heads.codes._cross_polytope import CrossPolytopeCode
from etf_heads.codes._gram import GramCode, gram_rank
from etf_heads.codes._kerdock import DelsarteGoethalsCode, GoldCode, KerdockCode
from etf_heads.codes._multi_centre import MultiCentreCode
from etf_heads.codes._simplex import CrossTask, SimplexCode

__all__ = [
    "AssignedCode",
    "BasesCode",
    "Code",
    "CrossPolytopeCode",
    "CrossTask",
    "DelsarteGoethalsCode",
    "GoldCode",
    "GramCode",
    "KerdockCode",
    "MultiCentreCode",
    "SimplexCode",
    "Tasks",
    "gram_rank",
    "spherical_code",
]
