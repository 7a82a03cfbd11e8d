"""The laws of every code: its products and its rows are those of its matrix."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from etf_heads.codes import GramCode, SimplexCode
from etf_heads.geometry import compound_etf, helmert, simplex_etf

EXACT = {"rtol": 0, "atol": 1e-13}


@given(
    tasks=st.lists(st.integers(2, 9), min_size=1, max_size=5),
    fewer=st.integers(0, 12),
    cross_task=st.sampled_from(["orthogonal", "independent"]),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.bfloat16]),
)
def test_rows_of_a_simplex_code_are_those_of_its_matrix(tasks, fewer, cross_task, dtype):
    total = sum(tasks)
    least = max(tasks) - 1 if cross_task == "independent" else total - len(tasks)
    code = SimplexCode(tasks, cross_task=cross_task).fitting(max(least, total - fewer))
    indices = torch.randint(total, (2, 7))
    rows = code.vectors(indices, dtype=dtype)
    assert rows.dtype == dtype
    assert rows.shape == (2, 7, code.columns)
    expected = code.matrix()[indices]
    torch.testing.assert_close(rows.double(), expected, rtol=0, atol=2 * torch.finfo(dtype).eps)


def test_a_simplex_code_by_its_definition():
    torch.testing.assert_close(SimplexCode(5).matrix(), simplex_etf(5), **EXACT)
    torch.testing.assert_close(SimplexCode(5, 4).matrix(), (5 / 4) ** 0.5 * helmert(5), **EXACT)
    torch.testing.assert_close(SimplexCode([3, 4]).matrix(), compound_etf([3, 4]), **EXACT)
    torch.testing.assert_close(SimplexCode([3, 4], 5).matrix(), compound_etf([3, 4], 5), **EXACT)


@pytest.mark.parametrize(
    ("in_features", "cross_task", "columns"),
    [
        *((9, "orthogonal", 9), (8, "orthogonal", 7), (7, "orthogonal", 7), (100, "orthogonal", 9)),
        *((9, "independent", 9), (8, "independent", 7), (6, "independent", 6)),
        (4, "independent", 4),
    ],
)
def test_a_simplex_code_takes_the_columns_that_there_is_room_for(in_features, cross_task, columns):
    code = SimplexCode([4, 5], cross_task=cross_task)
    assert code.fitting(in_features).columns == columns


def test_columns_that_were_asked_for_stay():
    code = SimplexCode([4, 5], 7)
    assert code.fitting(100) is code
    with pytest.raises(ValueError, match="the code has 7 columns, the orientation 9"):
        code.fitting(100, 9)


def test_a_gram_matrix_is_decomposed_once(monkeypatch):
    calls = []
    eigh = torch.linalg.eigh
    monkeypatch.setattr(torch.linalg, "eigh", lambda a: calls.append(len(a)) or eigh(a))
    monkeypatch.setattr(torch.linalg, "eigvalsh", lambda a: calls.append(len(a)))
    frame = compound_etf([3, 4])
    code = GramCode(frame @ frame.T, [3, 4])
    for in_features, columns in ((100, 7), (7, 7), (6, 5), (5, 5)):
        fitted = code.fitting(in_features)
        assert fitted.columns == columns
        torch.testing.assert_close(fitted.matrix() @ fitted.matrix().T, frame @ frame.T, **EXACT)
        assert fitted.fitting(in_features) is fitted
    assert calls == [7]
    with pytest.raises(ValueError, match=r"in_features=4 is too small .* span 5 dimensions: 5 ne"):
        code.fitting(4)
    with pytest.raises(ValueError, match="takes 5 to 7 columns, the orientation has 8"):
        code.fitting(100, 8)
