import copy
import pickle

import numpy as np
import pytest
import torch
from collapse_reference import within_between
from hypothesis import given, settings
from hypothesis import strategies as st

from etf_heads.collapse import ClassStatistics, MultiTaskCollapse, SingleTaskCollapse, _metric


@pytest.fixture(autouse=True, scope="module", params=[1, _metric._CHUNK_ENTRIES])
def chunk(request):
    """Every law once with each batch taken in at once, and once with batches that wait."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_metric, "_CHUNK_ENTRIES", request.param)
        yield request.param


def data(seed=0, *, n=300, dim=7, classes=5, offset=0.0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (n,), generator=generator)
    means = 3 * torch.randn(classes, dim, generator=generator, dtype=torch.float64)
    noise = torch.randn(n, dim, generator=generator, dtype=torch.float64)
    return (means[labels] + noise + offset).to(dtype), labels


def fed(features, labels, sizes=None, classes=5, **options):
    measure = SingleTaskCollapse(features.shape[1], classes, **options)
    sizes = sizes or [len(features)]
    for f, y in zip(features.split(sizes), labels.split(sizes), strict=True):
        measure.update(f, y)
    return measure


def assert_same(a, b, rtol=1e-9):
    assert torch.equal(a.keys, b.keys)
    assert torch.equal(a.counts, b.counts)
    for name in ("means", "traces", "scatter"):
        x, y = getattr(a, name), getattr(b, name)
        # Relative to the size of the whole: single entries of a scatter may be near 0.
        torch.testing.assert_close(x, y, rtol=rtol, atol=rtol * float(x.abs().max()))


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_agrees_with_two_passes(offset):
    features, labels = data(offset=offset)
    _, means, within, _, rows = within_between(features.numpy(), labels.tolist())
    statistics = fed(features, labels, [64] * 4 + [44]).class_statistics()
    assert statistics.counts.tolist() == [len(r) for r in rows.values()]
    np.testing.assert_allclose(statistics.means, means, rtol=1e-12)
    np.testing.assert_allclose(statistics.scatter / 300, within, rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(statistics.within, np.trace(within), rtol=1e-10)
    np.testing.assert_allclose(statistics.traces.sum(), statistics.scatter.trace(), rtol=1e-12)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=30), st.integers(0, 3))
def test_batches_of_any_sizes_change_nothing(sizes, seed):
    n = sum(sizes)
    if n == 0:
        return
    features, labels = data(seed, n=n, offset=100.0)
    whole = ClassStatistics.from_batch(features, labels)
    assert_same(fed(features, labels, sizes).class_statistics(), whole)
    parts = [
        ClassStatistics.from_batch(f, y)
        for f, y in zip(features.split(sizes), labels.split(sizes), strict=True)
    ]
    assert_same(ClassStatistics.merge(parts), whole)


def test_many_groups_merge_as_they_come():
    # One sample a batch, 800 possible groups: rows are merged many times on the way.
    generator = torch.Generator().manual_seed(0)
    keys = torch.randint(800, (1000,), generator=generator)
    features = torch.randn(1000, 3, generator=generator, dtype=torch.float64)
    measure = fed(features, keys, [1] * 1000, classes=800)
    assert_same(measure.class_statistics(), ClassStatistics.from_batch(features, keys))


@pytest.mark.parametrize("entries", [1, 1000 * 4])
def test_memory_does_not_grow_with_samples(entries, monkeypatch):
    monkeypatch.setattr(_metric, "_CHUNK_ENTRIES", entries)
    measure = SingleTaskCollapse(4, 10)
    rows, waiting = [], []
    for seed in range(130):
        measure.update(*data(seed, n=64, dim=4, classes=10, dtype=torch.float32))
        rows.append(sum(len(part) for part in measure.keys_0))
        waiting.append(sum(len(part) for part in measure.waiting_keys_0))
    assert 10 <= max(rows) <= 1024 + 2 * 10
    assert max(waiting) <= max(entries / 4, 2 * 10)
    assert measure.class_statistics().samples == 130 * 64


def test_a_batch_may_be_written_over_after_update():
    features, labels = data(dtype=torch.float64)
    expected = ClassStatistics.from_batch(features, labels)
    measure = SingleTaskCollapse(features.shape[1], int(labels.max()) + 1)
    measure.update(features, labels)
    features.zero_(), labels.zero_()
    assert_same(measure.class_statistics(), expected)


SIZES = [7] * 42 + [6]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("offset", [0.0, 50.0, 1e4])
def test_low_precision_is_multiplied_in_float32_or_on_request_in_float64(dtype, offset):
    features, labels = data(dtype=dtype, offset=offset)
    exact = ClassStatistics.from_batch(features.double(), labels)
    assert_same(fed(features, labels, SIZES).class_statistics(), exact, rtol=1e-6)
    asked = fed(features, labels, SIZES, precision="float64")
    assert_same(asked.class_statistics(), exact)
    with pytest.raises(ValueError, match="precision='half' is unknown: choose from 'features'"):
        SingleTaskCollapse(7, 5, precision="half")


@pytest.mark.parametrize("first", [torch.float32, torch.float64])
def test_features_of_several_precisions(first):
    features, labels = data(offset=50.0)
    rounded = features.clone()
    measure = SingleTaskCollapse(7, 5)
    for part in range(0, 300, 50):
        rows = slice(part, part + 50)
        dtype = first if part % 100 else torch.float32
        rounded[rows] = features[rows].to(dtype).double()
        measure.update(features[rows].to(dtype), labels[rows])
    exact = ClassStatistics.from_batch(rounded, labels)
    assert_same(measure.class_statistics(), exact, rtol=1e-6)


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e18, 1e30])
def test_squares_beyond_float32(scale):
    features, labels = data(dtype=torch.float32)
    features = features * scale
    exact = ClassStatistics.from_batch(features.double(), labels)
    assert_same(fed(features, labels, SIZES).class_statistics(), exact)


@pytest.mark.parametrize("drift", [30.0, 1e5])
def test_features_that_drift_keep_their_digits(drift):
    """The first means are far from the last ones, as while a network learns."""
    features, labels = data(n=3000, dtype=torch.float32)
    features[20:] += drift  # most samples are far from the first ones
    exact = ClassStatistics.from_batch(features.double(), labels)
    own = fed(features, labels, [20] + [40] * 74 + [20]).class_statistics()
    assert_same(own, exact, rtol=1e-5)
    second = fed(features[20:], labels[20:], [40] * 74 + [20])
    second.merge_state(fed(features[:20], labels[:20]))  # rows about other points
    assert_same(second.class_statistics(), exact, rtol=1e-5)


def test_products_are_exact_whatever_the_user_allows():
    features, labels = data(dtype=torch.float32, n=600)
    exact = ClassStatistics.from_batch(features.double(), labels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_same(fed(features, labels).class_statistics(), exact, rtol=1e-6)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        assert_same(fed(features, labels).class_statistics(), exact)
    finally:
        torch.set_float32_matmul_precision(before)


def test_collapsed_float32_features_have_no_scatter():
    generator = torch.Generator().manual_seed(0)
    features = (torch.randn(5, 7, generator=generator) + 1e3)[torch.arange(5).repeat(300)]
    measure = fed(features, torch.arange(5).repeat(300), [100] * 15)
    assert measure.class_statistics().within == 0.0
    assert measure.compute()["nc1"] == 0.0


@pytest.mark.parametrize("dim", [127, 128, 300])
def test_scatter_wider_than_a_block(dim):
    features, labels = data(n=90, dim=dim)
    own = fed(features, labels, [31, 31, 28]).class_statistics()
    _, _, within, _, _ = within_between(features.numpy(), labels.tolist())
    np.testing.assert_allclose(own.scatter / 90, within, atol=1e-12 * np.abs(within).max())


def test_collapsed_features_have_no_scatter_at_any_offset():
    features = (torch.randn(5, 7, dtype=torch.float64) + 1e6)[torch.arange(5).repeat(300)]
    measure = fed(features, torch.arange(5).repeat(300), [100] * 15)
    assert measure.class_statistics().within == 0.0
    assert measure.compute()["nc1"] == measure.compute()["nc1_ratio"] == 0.0


def halves():
    features, labels = data()
    first, second = features.split(150), labels.split(150)
    return list(zip(first, second, strict=True)), ClassStatistics.from_batch(features, labels)


def test_merge_state_reset_and_forward():
    batches, whole = halves()
    a, b = SingleTaskCollapse(7, 5), SingleTaskCollapse(7, 5)
    assert a(*batches[0]) is None
    b.update(*batches[1])
    a.merge_state(b)
    assert_same(a.class_statistics(), whole)
    a.reset()
    with pytest.raises(ValueError, match="seen no data"):
        a.class_statistics()
    for batch in batches:
        a.forward(*batch)
    assert_same(a.class_statistics(), whole)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])  # noqa: S301
def test_copies_go_their_own_way(copied):
    batches, whole = halves()
    measure = SingleTaskCollapse(7, 5)
    measure.update(*batches[0])
    twin = copied(measure)
    twin.update(*batches[1])
    assert measure.class_statistics().samples == 150
    assert_same(twin.class_statistics(), whole)


def test_state_dict_holds_states_only_when_asked():
    batches, whole = halves()
    measure = SingleTaskCollapse(7, 5)
    for batch in batches:
        measure.update(*batch)
    assert not measure.state_dict()
    measure.persistent(True)
    restored = SingleTaskCollapse(7, 5)
    restored.persistent(True)
    restored.load_state_dict(measure.state_dict())
    assert_same(restored.class_statistics(), whole)
    restored.update(*batches[0])
    assert restored.class_statistics().samples == 450


def test_an_enclosing_model_keeps_float64_states():
    model = torch.nn.Sequential(SingleTaskCollapse(7, 5))
    model.to(torch.bfloat16)
    batches, whole = halves()
    for batch in batches:
        model[0].update(*batch)
    model.half()
    assert_same(model[0].class_statistics(), whole)


def test_trace_only_keeps_no_square_matrix():
    features, labels = data()
    full, trace = fed(features, labels), fed(features, labels, covariance="trace")
    assert trace.class_statistics().scatter is None
    assert not [s for s in trace.metric_state.values() if getattr(s, "ndim", 0) == 2]
    values = full.compute()
    assert "nc1" not in trace.compute()
    assert trace.compute() == {k: v for k, v in values.items() if k != "nc1"}
    with pytest.raises(ValueError, match="covariance='full'"):
        trace.class_statistics().variability()


def test_an_empty_batch_changes_nothing():
    features, labels = data()
    measure = fed(features, labels)
    before = measure.compute()
    measure.update(features[:0], labels[:0])
    assert measure.compute() == before


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_batch_that_is_not_finite_is_refused_whole(bad, dtype):
    features, labels = data(dtype=dtype)
    measure = fed(features, labels)
    before = measure.compute()
    features = features.clone()
    features[17, 3] = bad
    with pytest.raises(ValueError, match="NaN or infinite"):
        measure.update(features, labels)
    assert measure.compute() == before


def test_coinciding_means_are_infinite_or_nan_not_zero():
    same = torch.ones(6, 3) / 3
    labels = torch.tensor([0, 0, 1, 1, 1, 2])
    dead = fed(same, labels).compute()
    assert np.isnan(dead["nc1"])
    assert np.isnan(dead["nc1_ratio"])
    spread = torch.tensor([[1.0], [-1.0], [2.0], [-2.0]])
    values = fed(spread, torch.tensor([0, 0, 1, 1])).compute()
    assert values["nc1"] == values["nc1_ratio"] == values["cdnv"] == float("inf")


def test_forty_binary_attributes_are_tuples_as_they_come():
    generator = torch.Generator().manual_seed(0)
    labels = (torch.rand(500, 40, generator=generator) < 0.05).long()
    measure = MultiTaskCollapse(3, [2] * 40)
    features = torch.randn(500, 3, generator=generator)
    measure.update(features[:200], labels[:200])
    measure.update(features[200:], labels[200:])
    distinct = {tuple(row) for row in labels.tolist()}
    assert len(measure.class_statistics().keys) == len(distinct)
    with pytest.raises(ValueError, match=r"at most 2\^62 can be numbered"):
        MultiTaskCollapse(3, [2] * 63)
    MultiTaskCollapse(3, [2] * 62)
