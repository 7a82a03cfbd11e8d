"""The laws of every code: its products and its rows are those of its matrix."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from etf_heads._spec import describe, make
from etf_heads.codes import DelsarteGoethalsCode, GoldCode, GramCode, KerdockCode, SimplexCode
from etf_heads.geometry import compound_etf, helmert, simplex_etf
from tests.cases import CODES, fits, widths

EXACT = {"rtol": 0, "atol": 1e-13}
each_code = pytest.mark.parametrize("name", CODES)


def fitted(name):
    """A row of the table in each of its widths."""
    code = CODES[name]()
    return [code.fitting(in_features) for in_features in widths(code)]


@each_code
def test_products_and_rows_are_those_of_the_matrix(name):
    for code in fitted(name):
        matrix = code.matrix()
        assert matrix.shape == (code.rows, code.columns) == (code.tasks.total, code.columns)
        z = torch.randn(2, 3, code.columns, dtype=torch.float64)
        torch.testing.assert_close(code(z), z @ matrix.T, **EXACT)
        assert torch.equal(code.expand(z[:, :0]), z.new_empty(2, 0, code.rows))
        indices = torch.randint(code.rows, (4, 3))
        torch.testing.assert_close(code.vectors(indices), matrix[indices], **EXACT)
        for dtype in (torch.float32, torch.bfloat16):
            rows = code.vectors(indices, dtype=dtype)
            tolerance = 2 * torch.finfo(dtype).eps
            torch.testing.assert_close(rows, matrix[indices].to(dtype), rtol=0, atol=tolerance)


@each_code
def test_gradients_are_right(name):
    for code in fitted(name):
        z = torch.randn(2, code.columns, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(code.expand, (z,))


@each_code
def test_angles_do_not_depend_on_the_columns_where_there_is_room(name):
    roomy, *narrower = reversed(fitted(name))
    if isinstance(getattr(roomy, "base", roomy), KerdockCode | GoldCode | DelsarteGoethalsCode):
        pytest.skip("with more columns there are smaller angles")
    gram = roomy.matrix() @ roomy.matrix().T
    for code in narrower:
        own = code.matrix() @ code.matrix().T
        for rows in code.tasks.slices:
            torch.testing.assert_close(own[rows, rows], gram[rows, rows], **EXACT)


@each_code
def test_what_does_not_fit_is_refused_with_the_width_that_does(name):
    code = CODES[name]()
    least = widths(code)[0]
    assert not fits(code, least - 1)
    with pytest.raises(ValueError, match=rf"in_features={least - 1} is too small .*{least} needed"):
        code.fitting(least - 1)
    for narrow in fitted(name):
        assert narrow.fitting(1000, narrow.columns).columns == narrow.columns
        with pytest.raises(ValueError, match=r"columns, the orientation (has )?1$"):
            narrow.fitting(1000, 1)


@each_code
def test_it_is_restored_from_its_specification(name):
    for code in fitted(name):
        twin = make(describe(code), in_features=code.columns).to_empty(device="cpu")
        twin.load_state_dict(code.state_dict())
        assert repr(twin) == repr(code)
        assert twin.tasks == code.tasks
        assert torch.equal(twin.matrix(), code.matrix())


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
