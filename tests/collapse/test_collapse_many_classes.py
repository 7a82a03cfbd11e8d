import math
import sys

import numpy as np
import pytest
import torch
from collapse_reference import nc1, unit, within_between

from etf_heads.collapse import ManyClassCollapse, one_versus_rest_margin
from etf_heads.geometry import simplex_etf

pytestmark = pytest.mark.recipes  # SciPy


def distance_to_hull(point, others):
    minimize = pytest.importorskip("scipy.optimize").minimize
    n = len(others)
    found = minimize(
        lambda a: ((a @ others - point) ** 2).sum(),
        np.full(n, 1 / n),
        jac=lambda a: 2 * others @ (a @ others - point),
        bounds=[(0, 1)] * n,
        constraints={"type": "eq", "fun": lambda a: a.sum() - 1, "jac": np.ones_like},
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 1000},
    )
    return math.sqrt(found.fun)


@pytest.mark.parametrize(("classes", "dim"), [(6, 3), (12, 4), (5, 10)])
def test_margin_agrees_with_a_general_solver(classes, dim):
    generator = torch.Generator().manual_seed(classes)
    vectors = torch.randn(classes, dim, generator=generator, dtype=torch.float64)
    units = unit(vectors.numpy())
    margins = [distance_to_hull(units[k], np.delete(units, k, axis=0)) for k in range(classes)]
    assert one_versus_rest_margin(vectors) == pytest.approx(min(margins), rel=1e-5, abs=1e-6)


def test_margin_of_many_classes_is_that_over_all_others():
    """More others than the first ones tried, with some vectors inside the hull or twice."""
    nnls = pytest.importorskip("scipy.optimize").nnls
    generator = torch.Generator().manual_seed(0)
    for dim, inside in ((6, False), (20, False), (6, True)):
        vectors = torch.randn(400, dim, generator=generator, dtype=torch.float64)
        if inside:
            vectors[7] = vectors[1:4].sum(0)
        units = unit(vectors.numpy())
        distances = []
        for k in range(400):
            others = np.delete(units, k, axis=0) - units[k]
            system = np.vstack([others.T, np.ones(399)])
            shares = nnls(system, np.eye(dim + 1)[-1])[0]
            distances.append(np.linalg.norm(shares / shares.sum() @ others))
        assert one_versus_rest_margin(vectors) == pytest.approx(min(distances), rel=1e-9)


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_margin_of_a_simplex_etf(classes):
    # The others' average is -w/(K-1): the distance is K/(K-1).
    etf = simplex_etf(classes, classes + 1)
    assert one_versus_rest_margin(etf) == pytest.approx(classes / (classes - 1), rel=1e-12)


def test_margin_of_a_vector_inside_the_hull_of_the_others():
    vectors = torch.tensor([[1.0, 0], [0, 1], [0.6, 0.8], [1, 0]])  # two are the same
    assert one_versus_rest_margin(vectors) == pytest.approx(0, abs=1e-12)
    assert math.isnan(one_versus_rest_margin(torch.zeros(3, 2)))


def test_agrees_with_the_reference():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(9).repeat(10)[labels_but(4)]
    centres = torch.randn(9, 3, generator=generator, dtype=torch.float64)
    features = centres[labels] + 0.3 * torch.randn(len(labels), 3, generator=generator).double()
    weight = centres + 0.3 * torch.randn(9, 3, generator=generator).double()
    measure = ManyClassCollapse(3, 9)
    for f, y in zip(features.split(13), labels.split(13), strict=True):
        measure.update(f, y)
    seen, means, within, between, _ = within_between(features.numpy(), labels.tolist())
    cosines = (unit(means) * unit(weight.numpy()[seen])).sum(1)
    margins = {"means": one_versus_rest_margin(torch.tensor(means))}
    margins["weights"] = one_versus_rest_margin(weight)
    expected = {
        "gnc1": nc1(within, between, len(seen)),
        "gnc1_ratio": np.trace(within) / np.trace(between),
        "gnc3": (1 - cosines).mean(),
        **{f"gnc2_margin_{name}": margin for name, margin in margins.items()},
        **{f"gnc2_{name}": 1 - margin / (9 / 8) for name, margin in margins.items()},
    }
    assert measure.compute(weight, reference=simplex_etf(9)) == pytest.approx(expected, rel=1e-6)
    assert set(measure.compute()) == {"gnc1", "gnc1_ratio", "gnc2_margin_means"}


def labels_but(absent):
    return torch.arange(9).repeat(10) != absent


def test_without_scipy(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    with pytest.raises(ImportError, match=r'pip install "etf_heads\[recipes\]"'):
        one_versus_rest_margin(torch.eye(3))
