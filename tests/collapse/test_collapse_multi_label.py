"""Collapse of label sets, against NumPy one set at a time, and at the optimum of the theory."""

from itertools import combinations

import numpy as np
import pytest
import torch
from collapse_reference import within_between
from hypothesis import given
from hypothesis import strategies as st

from etf_heads.collapse import (
    ClassStatistics,
    MultiLabelCollapse,
    SingleTaskCollapse,
    multi_label_collapse,
)
from etf_heads.losses import PickAllLabelsCrossEntropy
from etf_heads.theory import multi_label_optimum


def hot(sets, classes):
    rows = torch.zeros(len(sets), classes, dtype=torch.int64)
    for row, members in zip(rows, sets, strict=True):
        row[list(members)] = 1
    return rows


def every_set(classes, sizes):
    return [s for m in sizes for s in combinations(range(classes), m)]


def samples(classes=4, dim=6, each=5, sizes=(1, 2, 3)):
    rng = np.random.default_rng(0)
    sets = every_set(classes, sizes) * each
    tags = rng.normal(size=(classes, dim))
    means = np.stack([tags[list(s)].sum(0) / len(s) ** 0.5 for s in sets])
    features = means + 0.3 * rng.normal(size=means.shape) + 2
    return torch.from_numpy(features), hot(sets, classes), sets


def angle(u, v):
    return np.arccos(np.clip(u @ v / np.linalg.norm(u) / np.linalg.norm(v), -1, 1))


def reference(features, sets, size):
    """NC_m and C_m by their definitions."""
    mean = {s: features[[t == s for t in sets]].mean(0) for s in set(sets)}
    centre = np.mean([m for s, m in mean.items() if len(s) == 1], axis=0)
    tags = {s[0]: m - centre for s, m in mean.items() if len(s) == 1}
    own = [s for s in mean if len(s) == size and set(s) <= set(tags)]
    left = [mean[s] - centre for s in own]
    right = [sum(tags[k] for k in s) for s in own]
    matching = np.mean([angle(u, v) for u, v in zip(left, right, strict=True)])
    others = np.mean(
        [angle(u, v) for i, u in enumerate(left) for j, v in enumerate(right) if i != j]
    )
    averages = np.concatenate(right) / size
    scale = np.linalg.lstsq(averages[:, None], np.concatenate(left), rcond=None)[0][0]
    return {f"nc_m/{size}": matching / others, f"tag_scale/{size}": scale}


@pytest.mark.parametrize("covariance", ["full", "trace"])
def test_values_against_numpy(covariance):
    features, labels, sets = samples(classes=5, sizes=(1, 2, 3, 4, 5))
    weight = torch.randn(5, 6, dtype=torch.float64)
    measure = MultiLabelCollapse(6, 5, covariance=covariance)
    for h, y in zip(features.split(17), labels.split(17), strict=True):
        measure.update(h, y)
    values = measure.compute(weight)
    for size in (2, 3, 4):
        expected = reference(features.numpy(), sets, size)
        assert {name: values.pop(name) for name in expected} == pytest.approx(expected, rel=1e-9)
    names = [str(s) for s in sets]
    _, _, within, between, _ = within_between(
        features, [sorted(set(names)).index(n) for n in names]
    )
    ratio = np.trace(within) / np.trace(between)
    assert values.pop("nc1_ratio") == pytest.approx(ratio, rel=1e-9)
    if covariance == "full":
        nc1 = np.trace(within @ np.linalg.pinv(between)) / len(set(sets))
        assert values.pop("nc1") == pytest.approx(nc1, rel=1e-9)
    alone = labels.sum(1) == 1
    single = SingleTaskCollapse(6, 5, covariance=covariance)
    single.update(features[alone], labels[alone].argmax(1))
    expected = single.compute(weight)
    expected = {n: v for n, v in expected.items() if n not in ("nc1", "nc1_ratio")}
    assert values == pytest.approx(expected, rel=1e-9)


@given(
    classes=st.integers(3, 6),
    sizes=st.sets(st.integers(1, 2), min_size=1, max_size=2),
    strength=st.floats(-3.5, -2.5),
    over_labels=st.sampled_from(["sum", "mean"]),
)
def test_the_optimum_of_the_theory_is_collapsed(classes, sizes, strength, over_labels):
    counts = {m: 3 + 2 * m for m in sizes | {1}}
    best = multi_label_optimum(classes, counts, 10**strength, 1e-3, over_labels, dim=classes)
    sets = every_set(classes, counts)
    labels = hot(sets, classes)
    measure = MultiLabelCollapse(classes, classes)
    measure.update(best.features(labels) + 3, labels)  # wherever the origin is
    values = measure.compute(best.class_vectors)
    scale = values.pop("tag_scale/2", None)
    assert max(values.values()) < 1e-6
    if 2 in sizes:
        assert scale == pytest.approx(best.tag_scales[2], rel=1e-9)
        assert values["nc_m/2"] < 1e-6


def test_loss_theory_and_measure_are_of_one_model():
    """The loss at the stated optimum is the stated objective, less the two norms."""
    counts, lambda_w, lambda_h = {1: 10, 2: 10}, 2e-3, 2e-4
    for over_labels in ("sum", "mean"):
        best = multi_label_optimum(4, counts, lambda_w, lambda_h, over_labels)
        labels = hot(every_set(4, counts), 4).repeat_interleave(10, dim=0)
        linear = torch.nn.Linear(3, 4, bias=False, dtype=torch.float64)
        linear.weight.data = best.class_vectors
        features = best.features(labels)
        loss = PickAllLabelsCrossEntropy(over_labels)(features, linear, labels)
        norms = lambda_w * linear.weight.square().sum() + lambda_h * features.square().sum()
        assert float((loss + norms).detach()) == pytest.approx(best.objective, rel=1e-12)
        measure = MultiLabelCollapse(3, 4)
        measure.update(features, labels)
        values = measure.compute(linear)
        assert values.pop("tag_scale/2") == pytest.approx(best.tag_scales[2], rel=1e-12)
        assert max(values.values()) < 1e-7


def test_many_classes_and_kinds_of_labels():
    """More classes than an integer has bits; sets of any size; samples without a label."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.rand(400, 90, generator=generator) < 0.02
    labels[:90] = torch.eye(90, dtype=torch.bool)
    features = torch.randn(400, 8, generator=generator, dtype=torch.float64)
    sets = [tuple(row.nonzero().flatten().tolist()) for row in labels]
    assert () in sets
    measure = MultiLabelCollapse(8, 90)
    for kind, h, y in zip(
        (torch.bool, torch.int64, torch.float32),
        features.split(150),
        labels.split(150),
        strict=True,
    ):
        measure.update(h, y.to(kind))
    assert len(measure.class_statistics().keys) == len(set(sets) - {()})
    kept = labels.any(1).numpy()
    expected = reference(features.numpy()[kept], [s for s in sets if s], 2)
    values = measure.compute()
    assert {name: values[name] for name in expected} == pytest.approx(expected, rel=1e-9)


def test_what_is_not_there_is_left_out():
    features, labels, _ = samples(sizes=(2, 3))
    measure = MultiLabelCollapse(6, 4)
    measure.update(features, labels)
    assert measure.compute(torch.eye(4, 6)).keys() == {"nc1", "nc1_ratio"}  # no single labels
    features, labels, sets = samples(classes=5, sizes=(1, 2))
    seen = [s for s in sets if s != (4,)]
    rows = [i for i, s in enumerate(sets) if s != (4,)]
    measure = MultiLabelCollapse(6, 5)
    measure.update(features[rows], labels[rows])
    values, expected = measure.compute(), reference(features[rows].numpy(), seen, 2)
    assert {name: values[name] for name in expected} == pytest.approx(expected, rel=1e-9)
    pair = samples(sizes=(1, 2))
    keep = [i for i, s in enumerate(pair[2]) if len(s) == 1 or s == (0, 1)]
    measure = MultiLabelCollapse(6, 4)
    measure.update(pair[0][keep], pair[1][keep])
    assert np.isnan(measure.compute()["nc_m/2"])  # of one set there is no other


def test_a_sample_of_many_sets(monkeypatch):
    features, labels, sets = samples(classes=12, dim=12, each=2, sizes=(1, 3))
    statistics = ClassStatistics.from_batch(features, labels @ (2 ** torch.arange(12)))
    rows = (statistics.keys[:, None] >> torch.arange(12)) % 2 == 1
    whole = multi_label_collapse(statistics, rows)
    assert whole["nc_m/3"] == pytest.approx(reference(features.numpy(), sets, 3)["nc_m/3"])
    monkeypatch.setattr("etf_heads.collapse._pairs.EXACT_CLASSES", 100)
    monkeypatch.setattr("etf_heads.collapse._pairs.SAMPLED_CLASSES", 60)
    some = multi_label_collapse(statistics, rows)
    assert some["nc_m/3"] == pytest.approx(whole["nc_m/3"], rel=0.02)
    assert some["nc_m/3"] != whole["nc_m/3"]


def test_bad_input():
    measure = MultiLabelCollapse(6, 4)
    features, labels, _ = samples()
    with pytest.raises(ValueError, match="seen no data"):
        measure.class_statistics()
    for wrong in (labels[:, :3], labels[:5], [0, 1]):
        with pytest.raises(ValueError, match=r"of 0 and 1 of shape \(70, 4\), one column a class"):
            measure.update(features, wrong)
    for value in (2, -100, -1):
        with pytest.raises(ValueError, match="labels must be 0 or 1"):
            measure.update(features, labels * value)
    with pytest.raises(ValueError, match=r"expected \(batch, 6\)"):
        measure.update(features[:, :5], labels)
    measure.update(features[:1], labels[:1])
    with pytest.raises(ValueError, match=r"only one label set were seen \(labels \[0\]\)"):
        measure.compute()
    measure.update(features, labels)
    with pytest.raises(ValueError, match=r"weight has shape \(3, 6\), expected \(4, 6\)"):
        measure.compute(torch.ones(3, 6))
    with pytest.raises(ValueError, match="num_classes"):
        MultiLabelCollapse(6, 1)
