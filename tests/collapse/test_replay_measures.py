"""Forgetting and buffer distortion against NumPy."""

import copy
import math
import re

import numpy as np
import pytest
import torch

from etf_heads.collapse import BufferDistortion, forgetting

CURRENT = [3, 4]


def data(n=300, dim=8, classes=5):
    """Features of five classes, of which classes 0 to 2 are in the buffer with 1, 4 and 30."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(classes, (n,), generator=generator)
    means = 2 * torch.randn(classes, dim, generator=generator).double() + 100
    spread = torch.randn(classes, dim, dim, generator=generator).double()
    noise = torch.randn(n, 1, dim, generator=generator).double()
    features = means[labels] + (noise @ spread[labels])[:, 0]
    chosen = [(labels == k).nonzero()[:size, 0] for k, size in ((0, 1), (1, 4), (2, 30))]
    return features, labels, torch.cat(chosen)


def fed(n=None, **options):
    features, labels, chosen = data()
    measure = BufferDistortion(8, 5, **options)
    for part in torch.arange(300).split(n or 300):
        measure.update(features[part], labels[part], "population")
    for part in chosen.split(n or 300):
        measure.update(1.5 * features[part], labels[part], "buffer")
    return measure


def effective_rank(rows):
    covariance = np.cov(rows.T, bias=True)
    return np.trace(covariance) ** 2 / np.trace(covariance @ covariance)


def expected(current):
    """The definitions, with dense matrices and a projection by least squares."""
    features, labels, chosen = data()
    x, y, b = features.numpy(), labels.numpy(), 1.5 * features[chosen].numpy()
    yb = labels[chosen].numpy()
    population = {k: x[y == k] for k in range(5)}
    buffer = {k: b[yb == k] for k in range(3)}
    centre = np.mean([rows.mean(0) for rows in population.values()], axis=0)
    stretch = [
        np.linalg.norm(buffer[k].mean(0) - centre) / np.linalg.norm(population[k].mean(0) - centre)
        for k in buffer
    ]
    ranks = [effective_rank(buffer[k]) / effective_rank(population[k]) for k in (1, 2)]
    values = {"inflation": np.mean(stretch), "effective_rank_ratio": np.mean(ranks)}
    if current is None:
        return values
    last = {k: population[k] if k in current else buffer.get(k) for k in range(5)}
    means = np.stack([rows.mean(0) for rows in last.values() if rows is not None])
    span = (means - means.mean(0)).T
    shares = []
    for k in sorted(set(population) - set(current)):
        old = population[k].mean(0) - centre
        inside = span @ np.linalg.lstsq(span, old, rcond=1e-10)[0]
        shares.append(inside @ inside / (old @ old))
    return values | {"old_mean_share": np.mean(shares)}


@pytest.mark.parametrize("current", [None, CURRENT, [4], [0, 4]])
def test_distortion_agrees_with_dense_matrices(current):
    assert fed().compute(current) == pytest.approx(expected(current), rel=1e-9)
    assert fed(7).compute(current) == pytest.approx(expected(current), rel=1e-9)


def test_parts_merge():
    first, second = BufferDistortion(8, 5), BufferDistortion(8, 5)
    features, labels, chosen = data()
    for measure, own in ((first, slice(None, 90)), (second, slice(90, None))):
        measure.update(features[own], labels[own], "population")
    second.update(1.5 * features[chosen], labels[chosen], "buffer")
    first.merge_state(second)
    assert first.compute(CURRENT) == pytest.approx(expected(CURRENT), rel=1e-9)


def test_common_offsets_and_float32_lose_nothing():
    features, labels, chosen = data()
    measure = BufferDistortion(8, 5)
    shifted = (features + 1e4).float()
    measure.update(shifted, labels, "population")
    measure.update(shifted[chosen], labels[chosen], "buffer")
    exact = BufferDistortion(8, 5, precision="float64")
    exact.update(shifted.double(), labels, "population")
    exact.update(shifted[chosen].double(), labels[chosen], "buffer")
    assert measure.compute(CURRENT) == pytest.approx(exact.compute(CURRENT), rel=1e-5)


def test_a_buffer_of_everything_is_not_distorted():
    features, labels, _ = data()
    measure = BufferDistortion(8, 5)
    for part in ("population", "buffer"):
        measure.update(features, labels, part)
    assert measure.compute(CURRENT) == pytest.approx(
        {"inflation": 1.0, "effective_rank_ratio": 1.0, "old_mean_share": 1.0}
    )


def test_without_a_buffer_two_current_classes_span_a_line():
    means = torch.tensor([[3.0, 4, 0], [-3.0, -4, 0], [1.0, 0, 0], [-1.0, 0, 0]])
    measure = BufferDistortion(3, 4)
    measure.update(means, torch.arange(4), "population")
    values = measure.compute(current=[2, 3])
    assert values["old_mean_share"] == pytest.approx(9 / 25)  # of (3, 4, 0) along (1, 0, 0)
    assert math.isnan(values["inflation"])
    assert math.isnan(values["effective_rank_ratio"])


def test_samples_without_a_label_are_left_out():
    features, labels, _ = data()
    measure = fed()
    nothing = torch.full_like(labels, -100)
    for part in ("population", "buffer"):
        measure.update(features, nothing, part)
    assert measure.compute(CURRENT) == fed().compute(CURRENT)


def test_classes_that_cannot_be_compared():
    features, labels, _ = data()
    measure = BufferDistortion(8, 5)
    measure.update(features, labels, "buffer")
    with pytest.raises(ValueError, match="0 classes of the population were seen: at least two"):
        measure.compute()
    measure.reset()
    some = labels < 3
    measure.update(features[some], labels[some], "population")
    assert set(measure.compute()) == {"inflation", "effective_rank_ratio"}
    with pytest.raises(ValueError, match=r"current has the classes \[4\].*it has \[0, 1, 2\]"):
        measure.compute(current=[2, 4])
    for current in ([], [0, 1, 2]):
        message = f"current={current} of the classes [0, 1, 2]: at least one"
        with pytest.raises(ValueError, match=re.escape(message)):
            measure.compute(current=current)
    measure.update(features, labels, "buffer")
    with pytest.raises(ValueError, match=r"the buffer has the classes \[3, 4\]"):
        measure.compute()


def test_bad_batches_leave_the_measure_as_it_was():
    measure, (features, labels, _) = fed(), data()
    before = copy.deepcopy(measure).compute(CURRENT)
    spoilt = features.clone()
    spoilt[-1, 0] = math.inf
    for arguments, message in (
        ((features, labels, "memory"), "part='memory' is unknown: choose from 'buffer'"),
        ((features[:, :3], labels, "buffer"), r"features has shape \(300, 3\)"),
        ((features, labels + 1, "buffer"), "labels"),
        ((spoilt, labels, "population"), "NaN or infinite"),
    ):
        with pytest.raises(ValueError, match=message):
            measure.update(*arguments)
    assert measure.compute(CURRENT) == before
    with pytest.raises(ValueError, match="num_classes"):
        BufferDistortion(8, 1)


def test_forgetting_is_a_mean_over_the_earlier_tasks():
    generator = np.random.default_rng(0)
    head, probe = generator.random((2, 5, 5))
    head[np.triu_indices(5, 1)] = math.nan  # tasks that are yet to come
    losses = {
        name: np.mean([accuracy[j, j] - accuracy[4, j] for j in range(4)])
        for name, accuracy in (("shallow", head), ("deep", probe))
    }
    assert forgetting(torch.from_numpy(head), probe.tolist()) == pytest.approx(losses)


@pytest.mark.parametrize(
    ("head", "probe", "message"),
    [
        (torch.eye(2), torch.eye(3), "head is of 2 sessions and probe of 3"),
        (torch.ones(1, 1), torch.ones(1, 1), r"head has shape \(1, 1\), expected \(T, T\)"),
        (torch.eye(3), torch.ones(3, 2), r"probe has shape \(3, 2\)"),
        ([[1.0], [1.0, 0.5]], torch.eye(2), "head must be a .* matrix of accuracies"),
        (100 * torch.eye(2), torch.eye(2), "head has accuracies outside .*not percentages"),
        (torch.eye(2), torch.tensor([[1.0, 0.0], [math.nan, 1.0]]), "probe has accuracies"),
    ],
)
def test_accuracies_that_are_none(head, probe, message):
    with pytest.raises(ValueError, match=message):
        forgetting(head, probe)
