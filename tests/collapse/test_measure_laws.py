"""The laws of every measure in the table."""

import copy
import pickle

import pytest
import torch

from tests.collapse.measure_cases import DIM, MEASURES, TASKS

LAWS = pytest.mark.parametrize("case", MEASURES.values(), ids=MEASURES.keys())
pytestmark = pytest.mark.recipes  # SciPy


def data(n=160, dtype=torch.float64):
    generator = torch.Generator().manual_seed(3)
    labels = torch.stack([torch.randint(k, (n,), generator=generator) for k in TASKS.values()], 1)
    means = 2 * torch.randn(12, DIM, generator=generator, dtype=torch.float64)
    features = means[labels @ torch.tensor([3, 1])]
    features = features + torch.randn(n, DIM, generator=generator, dtype=torch.float64) + 5
    labels[::17, 0] = labels[5::17, 1] = -100
    return features.to(dtype), labels


def fed(case, features, labels, sizes=None):
    measure, sizes = case.make(), sizes or [len(features)]
    for f, y in zip(features.split(list(sizes)), labels.split(list(sizes)), strict=True):
        measure.update(case.features(f), case.labels(y), *case.more)
    return measure


def values(case, measure):
    if case.weight is None:
        return measure.compute()
    generator = torch.Generator().manual_seed(4)
    return measure.compute(torch.randn(case.weight, DIM, generator=generator).double())


@LAWS
def test_batches_and_their_order_change_nothing(case):
    features, labels = data()
    whole = values(case, fed(case, features, labels))
    assert whole
    assert all(isinstance(value, float) for value in whole.values())
    order = torch.randperm(160, generator=torch.Generator().manual_seed(5))
    for sizes in ((1,) * 160, (7, 100, 0, 53)):
        parts = values(case, fed(case, features[order], labels[order], sizes))
        assert parts == pytest.approx(whole, rel=1e-8, abs=1e-12)


@LAWS
def test_states_merge_copy_and_reset(case):
    features, labels = data()
    whole = values(case, fed(case, features, labels))
    first = fed(case, features[:100], labels[:100])
    twin, other = copy.deepcopy(first), fed(case, features[100:], labels[100:])
    if not case.more:  # the training data of a variance would be there twice
        first.merge_state(other)
        assert values(case, first) == pytest.approx(whole, rel=1e-8)
    twin.update(case.features(features[100:]), case.labels(labels[100:]), *case.more)
    thawed = pickle.loads(pickle.dumps(twin))  # noqa: S301
    assert values(case, thawed) == pytest.approx(whole, rel=1e-8)
    twin.reset()
    with pytest.raises(ValueError, match="seen no data"):
        twin.class_statistics(0)


@LAWS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_features_of_lower_precision(case, dtype):
    features, labels = data(dtype=dtype)
    exact = values(case, fed(case, features.double(), labels))
    assert values(case, fed(case, features, labels)) == pytest.approx(exact, rel=1e-5, abs=1e-7)


@LAWS
def test_a_batch_that_is_not_finite_is_refused_whole(case):
    features, labels = data()
    measure = fed(case, features, labels)
    before = values(case, measure)
    spoilt = features.clone()
    spoilt[3, 1] = float("nan")
    with pytest.raises(ValueError, match="NaN or infinite"):
        measure.update(case.features(spoilt), case.labels(labels), *case.more)
    assert values(case, measure) == before
