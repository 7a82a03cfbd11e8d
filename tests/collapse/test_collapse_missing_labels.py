"""-100 is no label, in every measure; -1 is an error."""

import numpy as np
import pytest
import torch
from collapse_reference import disagreement, multi_task

from etf_heads.collapse import (
    ManyClassCollapse,
    MultiSourceCollapse,
    MultiTaskCollapse,
    SingleTaskCollapse,
    VarianceCollapse,
)

TASKS = {"a": 3, "b": 4}


def case(n=240, dim=9):
    generator = torch.Generator().manual_seed(7)
    labels = torch.stack([torch.randint(k, (n,), generator=generator) for k in TASKS.values()], 1)
    features = torch.randn(n, dim, generator=generator, dtype=torch.float64)
    features += (
        2 * torch.randn(12, dim, generator=generator).double()[labels @ torch.tensor([4, 1])]
    )
    weights = [torch.randn(k, dim, generator=generator).double() for k in TASKS.values()]
    labels[torch.rand(n, 2, generator=generator) < 0.3] = -100
    return features, labels, weights


@pytest.mark.parametrize(
    "measure", [SingleTaskCollapse(9, 4, reservoir=300), ManyClassCollapse(9, 4, covariance="full")]
)
def test_samples_without_a_label_are_left_out(measure):
    features, labels, weights = case()
    labels = labels[:, 1]
    kept = labels != -100
    alone = type(measure)(9, 4, **({"reservoir": 300} if measure.reservoir else {}))
    alone.update(features[kept], labels[kept])
    for f, y in zip(features.split(37), labels.split(37), strict=True):
        measure.update(f, y)
    measure.update(features, torch.full_like(labels, -100))
    assert measure.compute(weights[1]) == pytest.approx(alone.compute(weights[1]), rel=1e-9)


def test_variances_leave_them_out():
    features, labels, _ = case()
    labels = labels[:, 1]
    kept = labels != -100
    some, alone = VarianceCollapse(9, 4, test_samples=0), VarianceCollapse(9, 4, test_samples=0)
    for split in ("train", "test"):
        some.update(features, labels, split)
        alone.update(features[kept], labels[kept], split)
    assert some.compute() == alone.compute()


def expected(features, labels, weights):
    complete = (labels != -100).all(1)
    values = multi_task(
        features[complete].numpy(),
        labels[complete].tolist(),
        [w.numpy() for w in weights],
        list(TASKS),
    )
    for t, name in enumerate(TASKS):
        own = labels[:, t] != -100
        values[f"s_nc5/{name}"] = disagreement(
            features[own].numpy(), labels[own, t].tolist(), weights[t].numpy(), 0.0
        )
    values["s_nc5"] = np.mean([values[f"s_nc5/{name}"] for name in TASKS])
    return values


@pytest.mark.parametrize("reservoir", [0, 1000])
def test_each_task_is_measured_on_its_own_samples(reservoir):
    features, labels, weights = case()
    measure = MultiTaskCollapse(9, TASKS, reservoir=reservoir)
    for f, y in zip(features.split(31), labels.split(31), strict=True):
        measure.update(f, {"a": y[:, 0], "b": y[:, 1]})
    values = measure.compute(weights)
    if not reservoir:
        decisions = measure.decisions(weights)
        for f, y in zip(features.split(50), labels.split(50), strict=True):
            decisions.update(f, y)
        found = decisions.compute()
        values |= {name: found[name] for name in found if "s_nc5" in name}
    assert values == pytest.approx(expected(features, labels, weights), rel=1e-6)
    assert 0 < values["s_nc5"] < 1


def test_partial_labels_merge_and_reset():
    features, labels, weights = case()
    whole = MultiTaskCollapse(9, TASKS)
    whole.update(features, labels)
    first, second = MultiTaskCollapse(9, TASKS), MultiTaskCollapse(9, TASKS)
    first.update(features[:100], labels[:100])
    second.update(features[100:], labels[100:])
    first.merge_state(second)
    for measure in (first, whole):
        decisions = measure.decisions(weights)
        decisions.update(features, labels)
        found = measure.compute(weights) | decisions.compute()
        wanted = expected(features, labels, weights)
        assert {name: found[name] for name in wanted} == pytest.approx(wanted, rel=1e-6)
    whole.reset()
    with pytest.raises(ValueError, match="seen no data"):
        whole.class_statistics()


def test_no_sample_with_all_labels():
    features, labels, weights = case()
    one = labels.masked_fill(torch.arange(240)[:, None] % 2 == torch.arange(2), -100)
    measure = MultiTaskCollapse(9, TASKS)
    measure.update(features, one)
    with pytest.raises(ValueError, match="seen no data with labels of all tasks"):
        measure.compute()
    decisions = measure.decisions(weights)
    decisions.update(features, one)
    both = decisions.compute()
    for t, name in enumerate(TASKS):
        own = one[:, t] != -100
        alone = SingleTaskCollapse(9, TASKS[name])
        alone.update(features[own], one[own, t])
        second = alone.decisions(weights[t])
        second.update(features[own], one[own, t])
        assert both[f"s_nc5/{name}"] == second.compute()["nc4"]
    only = MultiTaskCollapse(9, TASKS)
    only.update(features, torch.stack([labels[:, 0], torch.full((240,), -100)], 1))
    with pytest.raises(ValueError, match="seen no data of task 'b'"):
        only.decisions()


def test_sources_leave_them_out():
    features, labels, weights = case()
    some, alone = (MultiSourceCollapse(9, TASKS, reservoir=300) for _ in range(2))
    own = labels != -100
    some.update(dict.fromkeys(TASKS, features), dict(zip(TASKS, labels.T, strict=True)))
    alone.update([features[own[:, t]] for t in (0, 1)], [labels[own[:, t], t] for t in (0, 1)])
    assert some.compute(weights) == alone.compute(weights)


@pytest.mark.parametrize(
    "measure",
    [SingleTaskCollapse(9, 4), ManyClassCollapse(9, 4), MultiTaskCollapse(9, [4])],
)
def test_minus_one_is_not_a_label(measure):
    with pytest.raises(ValueError, match="-1 is not a label; samples without a label have -100"):
        measure.update(torch.zeros(3, 9), torch.tensor([0, -1, -100]))
    with pytest.raises(ValueError, match="seen no data"):
        measure.class_statistics()
