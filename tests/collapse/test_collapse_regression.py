import numpy as np
import pytest
import torch

from etf_heads.collapse import RegressionCollapse


def case(n=300, dim=7, targets=3):
    generator = torch.Generator().manual_seed(4)
    features = torch.randn(n, dim, generator=generator, dtype=torch.float64) + 3
    mix = torch.randn(targets, targets, generator=generator, dtype=torch.float64)
    labels = torch.randn(n, targets, generator=generator, dtype=torch.float64) @ mix - 1
    weight = torch.randn(targets, dim, generator=generator, dtype=torch.float64)
    return features, labels, weight


def reference(features, labels, weight):
    h = features - features.mean(0)
    n = labels.shape[1]
    total = (h**2).sum()
    leading = np.linalg.svd(h, full_matrices=False)[2][:n]
    rows = np.linalg.qr(weight.T)[0]
    values, basis = np.linalg.eigh(np.cov(labels.T, bias=True).reshape(n, n))
    root = basis @ np.diag(np.sqrt(values)) @ basis.T
    gram = weight @ weight.T
    gaps = []
    for gamma in np.linspace(0, values.min(), 20001)[:-1]:
        shifted = root - np.sqrt(gamma) * np.eye(n)
        gap = gram / np.linalg.norm(gram) - shifted / np.linalg.norm(shifted)
        gaps.append((gap**2).sum())
    return {
        "nrc1": ((h - h @ leading.T @ leading) ** 2).sum() / total,
        "nrc2": ((h - h @ rows @ rows.T) ** 2).sum() / total,
        "nrc3": min(gaps),
    }


def fed(features, labels):
    measure = RegressionCollapse(features.shape[1], labels.shape[1])
    for h, y in zip(features.split(37), labels.split(37), strict=True):
        measure.update(h, y)
    return measure


@pytest.mark.parametrize("targets", [1, 2, 3])
def test_agrees_with_the_reference(targets):
    features, labels, weight = case(targets=targets)
    values = fed(features, labels).compute(weight)
    # The grid over γ is only so fine: it can be above the minimum, never below.
    expected = reference(features.numpy(), labels.numpy(), weight.numpy())
    assert values["nrc3"] <= expected["nrc3"] + 1e-12
    assert values == pytest.approx(expected, rel=1e-6, abs=1e-9)
    assert set(fed(features, labels).compute()) == {"nrc1"}


@pytest.mark.parametrize("share", [0.0, 0.5, 0.95])
def test_zero_at_the_optimum(share):
    # THEORY section 3: WWᵀ is proportional to Σ^½ - √γ I, features to its inverse on the targets.
    _, labels, _ = case()
    centred = labels - labels.mean(0)
    values, basis = torch.linalg.eigh(centred.T @ centred / len(labels))
    gram = basis * (values.sqrt() - share * values[0].sqrt()) @ basis.T
    rotation = torch.linalg.qr(torch.randn(7, 7, dtype=torch.float64)).Q[:3]
    half = torch.linalg.cholesky(gram)
    weight = half @ rotation
    features = centred @ torch.linalg.inv(half).T @ rotation
    results = fed(features + 5, labels).compute(weight)
    assert max(results.values()) < 1e-10


def test_a_minimum_inside_the_interval():
    _, labels, _ = case()
    centred = labels - labels.mean(0)
    values, basis = torch.linalg.eigh(centred.T @ centred / len(labels))
    roots = values.sqrt() - 0.6 * values[0].sqrt()
    weight = (basis * (roots + 0.01).sqrt()) @ torch.eye(3, 7, dtype=torch.float64)
    features = case()[0]
    expected = reference(features.numpy(), labels.numpy(), weight.numpy())["nrc3"]
    assert fed(features, labels).compute(weight)["nrc3"] == pytest.approx(expected, rel=1e-4)


def test_values_without_variation_are_nan():
    features, labels, weight = case()
    same = torch.ones_like(features)
    assert np.isnan(list(fed(same, labels).compute(weight).values())[:2]).all()
    assert np.isnan(fed(features, torch.ones_like(labels)).compute(weight)["nrc3"])
    flat = fed(features, labels).compute(torch.zeros_like(weight))
    assert np.isnan([flat["nrc2"], flat["nrc3"]]).all()


def test_bad_input():
    features, labels, _ = case()
    with pytest.raises(ValueError, match="num_targets=8 exceeds num_features=7"):
        RegressionCollapse(7, 8)
    measure = RegressionCollapse(7, 3)
    with pytest.raises(ValueError, match=r"labels has shape \(300, 2\), expected \(batch, 3\)"):
        measure.update(features, labels[:, :2])
    with pytest.raises(ValueError, match="300 features but 299 labels"):
        measure.update(features, labels[:-1])
    with pytest.raises(ValueError, match="NaN or infinite"):
        measure.update(features, labels * float("nan"))
    with pytest.raises(ValueError, match="seen no data"):
        measure.class_statistics()
    measure.update(features, labels)
    with pytest.raises(ValueError, match=r"weight has shape \(3, 6\), expected \(3, 7\)"):
        measure.compute(torch.zeros(3, 6))


def test_one_target_may_be_flat():
    features, labels, weight = case(targets=1)
    flat = RegressionCollapse(7, 1)
    flat.update(features, labels[:, 0])
    head = torch.nn.Linear(7, 1).double()
    head.weight.data = weight
    column = RegressionCollapse(7, 1)
    column.update(features, labels)
    assert flat.compute(head) == column.compute(weight)
    assert flat.compute(head)["nrc3"] == 0.0
