import math

import numpy as np
import pytest
import torch
from collapse_reference import (
    angles,
    disagreement,
    nc1,
    simplex_distance,
    single_task,
    within_between,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from etf_heads.collapse import (
    SingleTaskCollapse,
    _frames,
    class_distance_normalised_variance,
    single_task_collapse,
)
from etf_heads.geometry import simplex_etf


def case(name):
    """features (N, d), labels (N,), weight (K, d)."""
    generator = torch.Generator().manual_seed(3)

    def randn(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    classes, dim = (9, 4) if name == "more classes than features" else (5, 8)
    labels = torch.arange(classes).repeat_interleave(20)
    if name == "imbalanced":
        counts = torch.tensor([50, 20, 5, 2, 1])
        labels = torch.arange(classes).repeat_interleave(counts)
    if name == "an absent class":
        labels = labels[labels != 2]
    features = randn(len(labels), dim)
    if name != "random":
        features += 2 * randn(classes, dim)[labels]
    return features, labels, randn(classes, dim) + 0.7  # class vectors not centred


CASES = ["random", "imbalanced", "an absent class", "more classes than features", "separated"]


@pytest.mark.parametrize("name", CASES)
def test_agrees_with_the_reference(name):
    features, labels, weight = case(name)
    measure = SingleTaskCollapse(features.shape[1], len(weight))
    for f, y in zip(features.split(13), labels.split(13), strict=True):
        measure.update(f, y)
    expected = single_task(features.numpy(), labels.tolist(), weight.numpy())
    assert measure.compute(weight) == pytest.approx(expected, rel=1e-6)
    without = {key for key in expected if "weights" not in key and "nc3" not in key}
    assert set(measure.compute()) == without


@pytest.mark.parametrize("name", CASES)
def test_the_published_definitions(name):
    """NC1 to NC3 as in the code of Papyan et al. and Zhu et al., once more in NumPy."""
    features, labels, weight = case(name)
    measure = SingleTaskCollapse(features.shape[1], len(weight), published=True)
    measure.update(features, labels)
    values = measure.compute(weight)
    names, means, within, _, _ = within_between(features.numpy(), labels.tolist())
    M, W = means - features.numpy().mean(0), weight.numpy()
    between, seen = M.T @ M / len(names), W[names]
    expected = {
        "nc1": nc1(within, between, len(names)),
        "nc1_ratio": np.trace(within) / np.trace(between),
        "nc3": ((seen / np.linalg.norm(seen) - M / np.linalg.norm(M)) ** 2).sum(),
        "nc3_product": simplex_distance(seen @ M.T),
    }
    for of, v in {"means": M, "weights": W}.items():
        length = np.linalg.norm(v, axis=1)
        expected |= {
            f"nc2_norms_{of}": length.std(ddof=1) / length.mean(),
            f"nc2_angles_{of}": angles(v),
            f"nc2_gram_{of}": simplex_distance(v @ v.T),
        }
    assert {key: values[key] for key in expected} == pytest.approx(expected, rel=1e-6)
    ours = SingleTaskCollapse(features.shape[1], len(weight))
    ours.update(features, labels)
    own = ours.compute(weight)
    assert own["cdnv"] == pytest.approx(values["cdnv"], rel=1e-9)
    assert own["nc2_norms_weights"] != pytest.approx(values["nc2_norms_weights"], rel=1e-3)
    if name == "imbalanced":
        assert own["nc1"] > 1.01 * values["nc1"]


@pytest.mark.parametrize("classes", [2, 3, 10])
@pytest.mark.parametrize("spare", [-1, 6])
def test_zero_under_full_collapse(classes, spare):
    etf = simplex_etf(classes, classes + spare)
    labels = torch.arange(classes).repeat(7)
    measure = SingleTaskCollapse(etf.shape[1], classes)
    measure.update(3 * etf[labels] + 5, labels)
    measure.update_out_of_distribution(torch.zeros(4, etf.shape[1]).double())
    values = measure.compute(0.2 * etf + 1)  # the same classifier: class vectors shifted alike
    assert len(values) == 11
    assert max(values.values()) < 1e-12


def test_angles_of_orthogonal_classes_are_known():
    labels = torch.arange(4)
    measure = SingleTaskCollapse(4, 4)
    measure.update(torch.eye(4).repeat(2, 1), labels.repeat(2))
    values = measure.compute(torch.eye(4)[[1, 0, 2, 3]])
    # Centred unit vectors are a simplex ETF; with two of four swapped, half of WMᵀ moves.
    assert values["nc2_angles_means"] == pytest.approx(0, abs=1e-12)
    assert values["nc3"] == pytest.approx(2 * 4 / 6)


def test_out_of_distribution_means():
    features, labels, _ = case("separated")
    elsewhere = torch.randn(30, 8, generator=torch.Generator().manual_seed(0)).double()
    measure = SingleTaskCollapse(8, 5)
    measure.update(features, labels)
    assert "nc5" not in measure.compute()
    for part in elsewhere.split(7):
        measure.update_out_of_distribution(part)
    means = np.stack([features[labels == k].mean(0) for k in range(5)])
    other = elsewhere.mean(0).numpy()
    cosines = means @ other / np.linalg.norm(means, axis=1) / np.linalg.norm(other)
    assert measure.compute()["nc5"] == pytest.approx(abs(cosines).mean(), rel=1e-9)
    with pytest.raises(ValueError, match="NaN or infinite"):
        measure.update_out_of_distribution(torch.full((1, 8), math.nan))


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("with_bias", [False, True])
def test_decisions_agree_with_the_reference(name, with_bias):
    features, labels, weight = case(name)
    bias = torch.linspace(-2, 2, len(weight)).double() if with_bias else None
    measure = SingleTaskCollapse(features.shape[1], len(weight), covariance="trace")
    measure.update(features, labels)
    decisions = measure.decisions(weight, bias)
    for f, y in zip(features.split(13), labels.split(13), strict=True):
        decisions.update(f, y)
    offset = bias if with_bias else torch.zeros(len(weight))
    expected = disagreement(features.numpy(), labels.tolist(), weight.numpy(), offset.numpy())
    values = decisions.compute()
    assert values["nc4"] == expected
    logits = features @ weight.T + offset
    hits = (logits.argmax(1) == labels).double().mean()
    assert values["classifier_accuracy"] == pytest.approx(float(hits))
    headless = measure.decisions()
    headless.update(features, labels)
    assert headless.compute() == {"centre_accuracy": values["centre_accuracy"]}


def test_decisions_take_weight_and_bias_of_a_module():
    features, labels, _ = case("separated")
    head = torch.nn.Linear(8, 5)
    measure = SingleTaskCollapse(8, 5)
    measure.update(features, labels)
    decisions = measure.decisions(head)
    decisions.update(features.float(), labels)
    weight, bias = (p.detach().double().numpy() for p in (head.weight, head.bias))
    assert decisions.compute()["nc4"] == disagreement(
        features.float().numpy(), labels.tolist(), weight, bias
    )
    assert measure.compute(head) == measure.compute(head.weight)
    with (
        pytest.warns(UserWarning, match="before the ``update``"),
        pytest.raises(ValueError, match="seen no data"),
    ):
        measure.decisions(head).compute()


def test_cdnv_of_two_points_by_hand():
    measure = SingleTaskCollapse(1, 2)
    measure.update(torch.tensor([[0.0], [2.0], [5.0], [9.0]]), torch.tensor([0, 0, 1, 1]))
    # Variances 1 and 4, means 1 and 7.
    statistics = measure.class_statistics()
    assert class_distance_normalised_variance(statistics) == pytest.approx(5 / 72)


@pytest.mark.parametrize("name", ["separated", "more classes than features"])
@settings(max_examples=10, deadline=None)
@given(st.floats(-150, 150))
def test_measures_do_not_depend_on_the_scale(name, exponent):
    features, labels, weight = case(name)
    scale = 10.0**exponent
    one, other = (SingleTaskCollapse(features.shape[1], len(weight)) for _ in range(2))
    one.update(features, labels)
    other.update(features * scale, labels)
    assert other.compute(weight * scale) == pytest.approx(one.compute(weight), rel=1e-9)


@pytest.mark.parametrize("shape", [(5, 8), (9, 4), (4, 4), (30, 3)])
def test_deviations_of_vectors_that_are_not_centred(shape):
    generator = torch.Generator().manual_seed(1)
    v, w = torch.randn(2, *shape, generator=generator, dtype=torch.float64) + 0.4
    assert _frames.gram_deviation(v) == pytest.approx(simplex_distance((v @ v.T).numpy()))
    assert _frames.product_deviation(v, w) == pytest.approx(simplex_distance((v @ w.T).numpy()))


def test_blocks_of_pairs_do_not_change_the_measures(monkeypatch):
    features, labels, weight = case("more classes than features")
    measure = SingleTaskCollapse(4, 9)
    measure.update(features, labels)
    whole = measure.compute(weight)
    monkeypatch.setattr("etf_heads.collapse._blocks._ENTRIES", 20)  # two rows at a time
    assert measure.compute(weight) == pytest.approx(whole, rel=1e-12)


def many_classes(classes=300, dim=7):
    generator = torch.Generator().manual_seed(2)
    labels = torch.arange(classes).repeat(3)
    means = torch.randn(classes, dim, generator=generator, dtype=torch.float64)
    noise = torch.randn(3 * classes, dim, generator=generator, dtype=torch.float64)
    return means[labels] + 0.3 * noise, labels, means + 0.2


SAMPLED = ("cdnv", "nc2_angles_means", "nc2_angles_weights")


def test_sampled_pairs_are_unbiased_and_their_standard_errors_true():
    features, labels, weight = many_classes()
    exact = SingleTaskCollapse(7, 300, compared_classes=300)
    exact.update(features, labels)
    statistics, values = exact.class_statistics(), exact.compute(weight)
    assert not any(name.endswith("_stderr") for name in values)
    errors = {name: [] for name in SAMPLED}
    for seed in range(200):
        own = single_task_collapse(statistics, weight, compared_classes=60, seed=seed)
        for name in SAMPLED:
            errors[name].append((own[name] - values[name]) / own[f"{name}_stderr"])
        rest = {n: v for n, v in own.items() if n not in SAMPLED and not n.endswith("_stderr")}
        assert rest == {name: values[name] for name in rest}
    for found in errors.values():  # of unit normal errors: the mean within 4, the spread within 15%
        assert abs(np.mean(found)) < 4 / math.sqrt(200)
        assert 0.85 < np.std(found) < 1.15


def test_more_classes_than_are_compared_are_sampled(monkeypatch):
    features, labels, weight = many_classes()
    monkeypatch.setattr("etf_heads.collapse._pairs.EXACT_CLASSES", 299)
    monkeypatch.setattr("etf_heads.collapse._pairs.SAMPLED_CLASSES", 50)
    measure = SingleTaskCollapse(7, 300)
    measure.update(features, labels)
    values = measure.compute(weight)
    assert {f"{name}_stderr" for name in SAMPLED} <= set(values)
    assert values == measure.compute(weight)  # the same draw each time
    other = SingleTaskCollapse(7, 300, seed=1)
    other.update(features, labels)
    assert other.compute(weight)["cdnv"] != values["cdnv"]
    with pytest.raises(ValueError, match="compared_classes must be a positive integer, got 0"):
        SingleTaskCollapse(7, 300, compared_classes=0)


@pytest.mark.parametrize(
    ("features", "labels", "message"),
    [
        (torch.zeros(4, 3), torch.tensor([0, 1, 2, 5]), "from 0 to 5, expected 0 to 4"),
        (torch.zeros(4, 3), torch.tensor([0, 1, -1, 2]), "labels run from -1 to 2"),
        (torch.zeros(4, 3), torch.zeros(3, dtype=torch.long), r"shape \(3,\), expected \(4,\)"),
        (torch.zeros(4, 3), torch.zeros(4), "tensor of integers, got torch.float32"),
        (torch.zeros(4, 3), [0, 1, 2, 3], "4 entries for 1 tasks"),
        (torch.zeros(4, 2), torch.zeros(4).long(), r"\(4, 2\), expected \(batch, 3\)"),
        (torch.zeros(4, 3, 1), torch.zeros(4).long(), "reshape or pool"),
        (torch.zeros(4, 3).long(), torch.zeros(4).long(), "floating dtype, got torch.int64"),
    ],
)  # fmt: skip
def test_bad_batches_are_refused_whole(features, labels, message):
    measure = SingleTaskCollapse(3, 5)
    with pytest.raises(ValueError, match=message):
        measure.update(features, labels)
    with pytest.raises(ValueError, match="seen no data"):
        measure.class_statistics()


def test_too_little_data_is_an_error():
    measure = SingleTaskCollapse(2, 3)
    with (
        pytest.warns(UserWarning, match="before the ``update``"),
        pytest.raises(ValueError, match="SingleTaskCollapse has seen no data: call update first"),
    ):
        measure.compute()
    measure.update(torch.randn(4, 2), torch.full((4,), 1))
    with pytest.raises(ValueError, match=r"only one class were seen \(label 1\)"):
        measure.compute()


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (torch.zeros(4, 2), r"weight has shape \(4, 2\), expected \(3, 2\)"),
        (torch.full((3, 2), math.nan), "weight has NaN"),
        ("fc", "weight must be a tensor, a module"),
        (torch.nn.ReLU(), "weight must be a tensor, a module"),
        (torch.zeros(3, 2, dtype=torch.long), "floating tensor"),
    ],
)
def test_bad_weights(weight, message):
    measure = SingleTaskCollapse(2, 3)
    measure.update(torch.randn(6, 2), torch.arange(3).repeat(2))
    with pytest.raises(ValueError, match=message):
        measure.compute(weight)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_features": 0, "num_classes": 3}, "num_features must be a positive integer"),
        ({"num_features": 2, "num_classes": 1}, "num_classes=1: a task needs at least 2"),
        (
            {"num_features": 2, "num_classes": 3, "covariance": "diagonal"},
            "covariance='diagonal' is unknown",
        ),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        SingleTaskCollapse(**arguments)


def test_a_zero_head_has_no_geometry():
    features, labels, _ = case("separated")
    measure = SingleTaskCollapse(8, 5)
    measure.update(features, labels)
    values = measure.compute(torch.zeros(5, 8))
    assert all(math.isnan(values[key]) for key in values if "weights" in key or "nc3" in key)
    assert values["nc1"] > 0
