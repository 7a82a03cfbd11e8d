import itertools
import math

import numpy as np
import pytest
import torch
from collapse_reference import disagreement, multi_task
from torch import nn
from torch.nn import functional as F

from etf_heads.collapse import MultiTaskCollapse, multi_task_collapse, per_task_statistics
from etf_heads.geometry import compound_etf

LAMBDA_W, LAMBDA_H, PER_TUPLE = 2e-4, 1e-4, 2


def optimum(sizes, task_weights):
    """THEORY section 3, balanced: the features, labels and class vectors of the closed form."""
    labels = torch.tensor(list(itertools.product(*(range(k) for k in sizes))))
    labels = labels.repeat(PER_TUPLE, 1)
    n = len(labels)
    rotation = torch.linalg.qr(torch.randn(sum(sizes) + 2, sum(sizes) + 2).double()).Q
    frame = (compound_etf(list(sizes)) @ rotation[: sum(sizes)]).split(list(sizes))
    weights, features = [], 0
    for t, (k, c) in enumerate(zip(sizes, task_weights, strict=True)):
        q = 2 * math.sqrt(LAMBDA_W * LAMBDA_H * n / (k * c))
        gap = math.log(1 / q - (k - 1))
        gram = math.sqrt(LAMBDA_H / LAMBDA_W * n / k / c) * gap  # times I - 11ᵀ/K
        weights.append(frame[t] * math.sqrt(gram * (k - 1) / k))
        features += math.sqrt(LAMBDA_W * c * k / (LAMBDA_H * n)) * weights[t][labels[:, t]]
    return features, labels, weights


def loss(features, labels, weights, task_weights):
    total = LAMBDA_H * features.square().sum()
    for t, (w, c) in enumerate(zip(weights, task_weights, strict=True)):
        total = total + c * F.cross_entropy(features @ w.T, labels[:, t])
        total = total + LAMBDA_W * c * w.square().sum()
    return total


@pytest.mark.parametrize(
    ("sizes", "task_weights"),
    [((3, 3), (1, 1)), ((4, 3), (1, 1)), ((3, 2), (1.0, 0.4)), ((3, 2, 4), (1, 2, 0.5))],
)
def test_zero_at_the_optimum_of_the_feature_model(sizes, task_weights):
    torch.manual_seed(0)
    features, labels, weights = optimum(sizes, task_weights)
    leaves = [features.requires_grad_(), *(w.requires_grad_() for w in weights)]
    gradients = torch.autograd.grad(loss(features, labels, weights, task_weights), leaves)
    assert max(float(g.abs().max()) for g in gradients) < 1e-12  # it is a stationary point
    measure = MultiTaskCollapse(features.shape[1], sizes, task_weights=task_weights)
    measure.update(features, labels)
    values = measure.compute([w.detach() for w in weights])
    alike = len({k * c for k, c in zip(sizes, task_weights, strict=True)}) == 1
    if not alike:  # the plain sum of the paper does not hold: see s_nc4_weighted
        assert values.pop("s_nc4") > 0.01
    assert max(values.values()) < 1e-6
    decisions = measure.decisions([w.detach() for w in weights])
    decisions.update(features, labels)
    assert {v for k, v in decisions.compute().items() if "s_nc5" in k} == {0.0}


def random_case(sizes, n=240, dim=9, seed=5):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.stack([torch.randint(k, (n,), generator=generator) for k in sizes], 1)
    features = torch.randn(n, dim, generator=generator, dtype=torch.float64)
    weights = [torch.randn(k, dim, generator=generator, dtype=torch.float64) + 1 for k in sizes]
    return features, labels, weights


@pytest.mark.parametrize("sizes", [(3, 4), (2, 3, 4), (5,), (7, 5)])
def test_agrees_with_the_reference(sizes):
    features, labels, weights = random_case(sizes)
    if sizes == (7, 5):  # rare and absent tuples, more tuples than features
        kept = (labels[:, 0] > 1) | (labels[:, 1] > 1)
        features, labels = features[kept], labels[kept]
    task_weights = [0.5 + t for t in range(len(sizes))]
    names = [f"task {t}" for t in range(len(sizes))]
    tasks = dict(zip(names, sizes, strict=True))
    measure = MultiTaskCollapse(9, tasks, task_weights=dict(zip(names, task_weights, strict=True)))
    for f, y in zip(features.split(31), labels.split(31), strict=True):
        measure.update(f, y)
    expected = multi_task(
        features.numpy(), labels.tolist(), [w.numpy() for w in weights], names, task_weights
    )
    values = measure.compute(weights)
    assert values == pytest.approx(expected, rel=1e-6)
    # Nothing is collapsed by chance; two centred class vectors always are opposite.
    assert all(value > 0.01 for key, value in values.items() if "/" not in key)
    assert set(measure.compute()) == {"s_nc1", "s_nc1_ratio"}
    statistics = measure.class_statistics()
    assert multi_task_collapse(statistics, tasks, weights, task_weights=task_weights) == values


def test_weights_and_labels_in_every_form():
    features, labels, weights = random_case((3, 4))
    left, right = nn.Linear(9, 3).double(), nn.Linear(9, 4).double()
    left.weight.data, right.weight.data = weights
    dense = nn.Linear(9, 7).double()
    dense.weight.data = torch.cat(weights)
    named = MultiTaskCollapse(9, {"left": 3, "right": 4})
    named.update(features, {"right": labels[:, 1], "left": labels[:, 0].int()})
    listed = MultiTaskCollapse(9, [3, 4])
    listed.update(features, [labels[:, 0], labels[:, 1]])
    expected = named.compute(torch.cat(weights))
    forms = [
        dict(zip(["left", "right"], weights, strict=True)),
        {"right": right, "left": left},
        nn.ModuleDict({"right": right, "left": left}),
        nn.ModuleList([left, right]),
        tuple(weights),
        dense,
    ]
    for form in forms:
        assert named.compute(form) == expected
    renamed = {key.replace("left", "0").replace("right", "1"): v for key, v in expected.items()}
    assert listed.compute(weights) == renamed


@pytest.mark.parametrize("dense", [False, True])
def test_decisions_agree_with_the_reference(dense):
    features, labels, weights = random_case((3, 4))
    heads = nn.ModuleDict({"a": nn.Linear(9, 3), "b": nn.Linear(9, 4, bias=False)}).double()
    for head, w in zip(heads.values(), weights, strict=True):
        head.weight.data = w
    own = heads["a"].bias.detach()
    measure = MultiTaskCollapse(9, {"a": 3, "b": 4})
    measure.update(features, labels)
    if dense:
        decisions = measure.decisions(torch.cat(weights), torch.cat([own, torch.zeros(4)]))
    else:
        decisions = measure.decisions(heads)
    for f, y in zip(features.split(50), labels.split(50), strict=True):
        decisions.update(f, {"a": y[:, 0], "b": y[:, 1]})
    values = decisions.compute()
    for t, (name, bias) in enumerate({"a": own.numpy(), "b": 0.0}.items()):
        expected = disagreement(features.numpy(), labels[:, t].tolist(), weights[t].numpy(), bias)
        assert values[f"s_nc5/{name}"] == expected
    assert values["s_nc5"] == pytest.approx((values["s_nc5/a"] + values["s_nc5/b"]) / 2)
    assert 0 < values["s_nc5"] < 1


def test_per_task_statistics_are_those_of_its_labels():
    features, labels, _ = random_case((3, 4))
    measure = MultiTaskCollapse(9, [3, 4])
    measure.update(features, labels)
    for t, own in enumerate(per_task_statistics(measure.class_statistics(), [3, 4])):
        for k, mean, trace in zip(own.keys.tolist(), own.means, own.traces, strict=True):
            mine = features[labels[:, t] == k].numpy()
            np.testing.assert_allclose(mean, mine.mean(0), rtol=1e-12)
            np.testing.assert_allclose(trace, ((mine - mine.mean(0)) ** 2).sum(), rtol=1e-12)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.zeros(4, 3).long(), r"labels has shape \(4, 3\), expected \(4, 2\)"),
        (torch.zeros(4).long(), r"labels has shape \(4,\), expected \(4, 2\)"),
        ({"a": torch.zeros(4).long()}, r"labels has the tasks \['a'\], expected \['a', 'b'\]"),
        ([torch.zeros(4).long()] * 3, "labels has 3 entries for 2 tasks"),
        ({"a": torch.zeros(4).int(), "b": torch.zeros(5).int()}, r"labels\['b'\] has shape \(5,\)"),
        (torch.tensor([[0, 0], [2, 3], [1, 4], [0, 0]]), "'b' run from 0 to 4, expected 0 to 3"),
        (torch.zeros(4, 2), "tensor of integers"),
    ],
)  # fmt: skip
def test_bad_labels(labels, message):
    with pytest.raises(ValueError, match=message):
        MultiTaskCollapse(2, {"a": 3, "b": 4}).update(torch.zeros(4, 2), labels)


def test_bad_weights_and_too_little_data():
    measure = MultiTaskCollapse(2, {"a": 3, "b": 4})
    measure.update(torch.randn(5, 2), torch.tensor([[1, 2]] * 5))
    with pytest.raises(ValueError, match=r"only one class \(tuple\) were seen \(label 6\)"):
        measure.compute()
    measure.update(torch.randn(5, 2), torch.tensor([[2, 2]] * 5))
    with pytest.raises(ValueError, match=r"weight has shape \(6, 2\), expected \(7, 2\)"):
        measure.compute(torch.zeros(6, 2))
    with pytest.raises(ValueError, match=r"weight\['b'\] has shape \(3, 2\), expected \(4, 2\)"):
        measure.compute({"a": torch.randn(3, 2), "b": torch.randn(3, 2)})
    with pytest.raises(ValueError, match="weight has 1 entries for 2 tasks"):
        measure.compute([torch.zeros(3, 2)])
    with pytest.raises(ValueError, match=r"bias has shape \(3,\), expected \(7,\)"):
        measure.decisions(torch.randn(7, 2), torch.zeros(3))
    with pytest.raises(
        ValueError, match=r"task_weights\[1\] must be a positive finite number, got 0.0"
    ):
        MultiTaskCollapse(2, [3, 4], task_weights=[1, 0])
