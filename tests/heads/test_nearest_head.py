"""Heads that follow class means: what they observe, derive, keep, and give back."""

import copy
import itertools
import pickle

import pytest
import safetensors.torch
import torch
from torch.nn import functional as F

from etf_heads import ClassMeanHead, CompoundETFHead, ETFHead, NearestETFHead
from etf_heads.geometry import nearest_etf, simplex_gram
from tests.cases import all_logits, class_means
from tests.cases import observed as batch

F64 = torch.float64
TASKS = {"shape": 4, "colour": 3}
both_heads = pytest.mark.parametrize("make", [NearestETFHead, ClassMeanHead])
each_spec = pytest.mark.parametrize("tasks", [4, [4, 3], TASKS], ids=str)


# --- class means


@both_heads
def test_cumulative_means_are_those_of_everything_seen(make):
    head = make(12, TASKS, decay=1.0, dtype=F64)
    h, y = batch(TASKS, 100)
    for part in torch.arange(100).split([1, 40, 0, 50, 9]):
        head.observe(h[part], {task: labels[part] for task, labels in y.items()})
    expected = torch.cat([class_means(h, y["shape"], 4), class_means(h, y["colour"], 3)])
    torch.testing.assert_close(head.running.means, expected)
    counts = torch.cat([y["shape"].bincount(minlength=4), y["colour"].bincount(minlength=3)])
    assert torch.equal(head.running.counts, counts.double())


def test_older_samples_are_forgotten_and_the_mean_stays_unbiased():
    head = NearestETFHead(3, 2, decay=0.5, dtype=F64)
    values = torch.tensor([[1.0, 0, 0], [3.0, 0, 0], [5.0, 0, 0]], dtype=F64)
    for value in values:
        head.observe(value[None], torch.tensor([0]))
        head.observe(torch.ones(1, 3, dtype=F64), torch.tensor([1]))  # does not age class 0
    weights = torch.tensor([0.25, 0.5, 1.0], dtype=F64)
    assert head.running.means[0, 0] == pytest.approx(
        (weights @ values[:, 0] / weights.sum()).item()
    )
    assert torch.equal(head.running.means[1], torch.ones(3, dtype=F64))


@each_spec
def test_observing_and_labels_given_to_forward_are_the_same(tasks):
    first, second = (NearestETFHead(12, tasks, dtype=F64) for _ in range(2))
    for seed in range(3):
        h, y = batch(tasks, seed=seed)
        first.observe(h, y)
        ours, expected = all_logits(second(h, y)), all_logits(first(h))
        torch.testing.assert_close(ours, expected)
    for ours, expected in zip(second.buffers(), first.buffers(), strict=True):
        assert torch.equal(ours, expected)


@both_heads
def test_labels_are_ignored_in_eval_mode(make):
    head = make(12, 4, dtype=F64).eval()
    before = copy.deepcopy(head.state_dict())
    head(*batch(4))
    assert all(torch.equal(before[name], value) for name, value in head.state_dict().items())


def test_observing_does_not_move_the_statistics_of_a_batch_normalisation():
    head = NearestETFHead(12, 4, feature_norm="batch", dtype=F64)
    h, y = batch(4)
    head.observe(h, y)
    assert head.norm.num_batches_tracked == 0
    normalised = F.batch_norm(h, None, None, training=True)
    torch.testing.assert_close(head.running.means, class_means(normalised, y, 4))
    head(h, y)
    assert head.norm.num_batches_tracked == 1


def test_leading_dimensions():
    h, y = batch(4, 30)
    flat, nested = (NearestETFHead(12, 4, dtype=F64) for _ in range(2))
    flat.observe(h, y)
    logits = nested(h.view(5, 6, 12), y.view(5, 6))
    assert logits.shape == (5, 6, 4)
    assert torch.equal(nested.weight, flat.weight)


def test_features_of_half_precision():
    head = NearestETFHead(12, 4)
    h, y = batch(4, dtype=torch.bfloat16)
    logits = head(h, y)
    assert logits.dtype == torch.bfloat16
    torch.testing.assert_close(head.weight @ head.weight.T, simplex_gram(4, dtype=torch.float32))
    head.to(torch.bfloat16)
    assert head.running.means.dtype == head.orientation.basis.dtype == torch.float32
    means = ClassMeanHead(12, 4).to(torch.bfloat16)
    assert means.vectors.dtype == torch.float32
    assert means.weight.dtype == torch.bfloat16


# --- the geometry


@each_spec
def test_the_frame_is_the_nearest_etf(tasks):
    head = NearestETFHead(12, tasks, scale=2.0, dtype=F64)
    h, y = batch(tasks)
    head.observe(h, y)
    expected = 2 * nearest_etf(head.running.means, head.tasks)
    torch.testing.assert_close(head.weight, expected)
    torch.testing.assert_close(all_logits(head(h)), h @ expected.T)


@each_spec
def test_before_any_observation_it_is_the_tiled_frame(tasks):
    head = NearestETFHead(12, tasks, dtype=F64)
    widths = head.tasks.rank
    tiled = torch.zeros(12, widths, dtype=F64)
    for feature in range(12):
        column, tile = feature % widths, feature // widths
        tiles = len(range(column, 12, widths))
        tiled[feature, column] = (-1) ** tile / tiles**0.5
    torch.testing.assert_close(head.orientation.basis, tiled)
    nothing = batch(tasks, 0)
    head.observe(*nothing)
    torch.testing.assert_close(head.orientation.basis, tiled)


def test_classes_not_seen_keep_their_place_as_far_as_possible():
    head = NearestETFHead(12, 4, dtype=F64)
    before = head.weight
    h, y = batch(4)
    keep = y < 2
    head.observe(h[keep], y[keep])
    torch.testing.assert_close(head.weight @ head.weight.T, simplex_gram(4))
    means = head.running.means[:2] - head.running.means[:2].mean(0)
    full = torch.cat([means, torch.zeros(2, 12, dtype=F64)])
    torch.testing.assert_close(head.weight, nearest_etf(full, previous=before))


def test_the_solvers_agree():
    heads = [NearestETFHead(12, TASKS, solver=s, dtype=F64) for s in ("polar", "riemannian")]
    for seed in range(2):
        for head in heads:
            head.observe(*batch(TASKS, 200, seed=seed))
    torch.testing.assert_close(heads[0].weight, heads[1].weight, rtol=0, atol=1e-5)


def test_update_every():
    head = NearestETFHead(12, 4, update_every=3, dtype=F64)
    frames = []
    for seed in range(5):
        head(*batch(4, seed=seed))
        frames.append(head.weight)
    assert [torch.equal(a, b) for a, b in itertools.pairwise(frames)] == [1, 1, 0, 1]
    assert int(head.running.updates) == 5


def test_a_large_proximal_weight_holds_the_frame():
    free, held = (NearestETFHead(12, 4, proximal=p, dtype=F64) for p in (0.0, 1e4))
    before = held.weight
    for head in (free, held):
        head.observe(*batch(4))
    assert (held.weight - before).norm() < 1e-3 * (free.weight - before).norm()


@pytest.mark.parametrize("make", [NearestETFHead, ClassMeanHead])
@pytest.mark.parametrize("tasks", [3, [3, 2]], ids=str)
@pytest.mark.parametrize("missing", [False, True])
def test_gradients_reach_the_features_through_the_class_means(make, tasks, missing):
    h, y = batch(tasks, 8, dim=3)
    if missing:
        labels = y if isinstance(tasks, int) else y[0]
        labels[labels == 1] = 0
    start = make(3, tasks, gradient=True, decay=0.7, dtype=F64)
    start.observe(*batch(tasks, 8, dim=3, seed=1))
    if missing:
        start.reset_parameters()

    def logits(h):
        return all_logits(copy.deepcopy(start)(h, y))

    assert torch.autograd.gradcheck(logits, (h.requires_grad_(),))


@both_heads
def test_without_gradient_the_class_vectors_are_constants(make):
    head = make(12, 4, dtype=F64)
    h, y = batch(4)
    h.requires_grad_()
    head(h, y)[:, 0].sum().backward()
    torch.testing.assert_close(h.grad, head.weight[0].expand_as(h))


@both_heads
def test_observing_between_forward_and_backward_is_allowed(make):
    head = make(12, 4, update_every=2, dtype=F64)
    h, y = batch(4)
    h.requires_grad_()
    loss = head(h).square().sum() + head(h, y).sum() + head(h, y).sum()
    head.observe(h, y)
    loss.backward()
    assert h.grad.isfinite().all()
    with torch.inference_mode():
        head.observe(h, y)
    head(h).sum().backward()


# --- what people do with modules


@each_spec
@pytest.mark.parametrize(
    "options", [{}, {"bias": True, "learn_scale": True, "feature_norm": "batch"}]
)
def test_freeze_gives_an_ordinary_head_with_the_same_logits(tasks, options):
    head = NearestETFHead(12, tasks, scale=2.0, dtype=F64, **options)
    h, y = batch(tasks)
    head(h, y)
    if head.bias is not None:
        torch.nn.init.normal_(head.bias)
    fixed = head.eval().freeze()
    assert type(fixed) is (ETFHead if isinstance(tasks, int) else CompoundETFHead)
    assert type(fixed(h)) is type(head(h))
    assert torch.equal(all_logits(fixed(h)), all_logits(head(h)))
    assert set(dict(fixed.named_parameters())) == set(dict(head.named_parameters()))
    head.train().observe(*batch(tasks, seed=1))
    assert not torch.equal(fixed.weight, head.weight)


@both_heads
@each_spec
def test_to_linear(make, tasks):
    head = make(12, tasks, dtype=F64)
    h, y = batch(tasks)
    head.observe(h, y)
    linear = head.to_linear()
    dense = linear(h) if isinstance(tasks, int) else torch.cat([m(h) for m in linear.values()], -1)
    torch.testing.assert_close(dense, all_logits(head(h)))


@both_heads
def test_a_run_resumes_exactly_from_safetensors(make, tmp_path):
    head = make(12, TASKS, update_every=2)
    for seed in range(3):
        head.observe(*batch(TASKS, seed=seed, dtype=torch.float32))
    safetensors.torch.save_file(head.state_dict(), tmp_path / "head.safetensors")
    twin = make(12, TASKS, update_every=2)
    twin.load_state_dict(safetensors.torch.load_file(tmp_path / "head.safetensors"))
    for seed in range(3, 6):
        h, y = batch(TASKS, seed=seed, dtype=torch.float32)
        assert torch.equal(all_logits(head(h, y)), all_logits(twin(h, y)))


@both_heads
def test_copies_pickles_and_the_meta_device(make):
    head = make(12, 4)
    h, y = batch(4, dtype=torch.float32)
    fresh = head(h)
    head.observe(h, y)
    for twin in (copy.deepcopy(head), pickle.loads(pickle.dumps(head))):  # noqa: S301 (our own bytes)
        assert torch.equal(twin(h), head(h))
        assert repr(twin) == repr(head)
    meta = make(12, 4, device="meta")
    assert meta(h.to("meta")).is_meta
    meta = meta.to_empty(device="cpu")
    meta.reset_parameters()
    assert torch.equal(meta(h), fresh)
    meta.observe(h, y)
    assert torch.equal(meta(h), head(h))


@both_heads
def test_eval_compiles_to_one_graph_and_follows_later_observations(make):
    head = make(12, TASKS).eval()
    compiled = torch.compile(head, fullgraph=True, backend="aot_eager")
    for seed in range(2):
        h, y = batch(TASKS, seed=seed, dtype=torch.float32)
        head.observe(h, y)
        torch.testing.assert_close(all_logits(compiled(h)), all_logits(head(h)))


# --- bad input


def observing(*args, **options):
    return lambda: NearestETFHead(12, TASKS, **options).observe(*args)


H, Y = batch(TASKS)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: NearestETFHead(8, 1), "tasks_or_classes=1: a task needs at least 2 classes"),
        (lambda: NearestETFHead(8, {"a": 3, "b": 1}), r"tasks_or_classes\['b'\]=1: a task needs"),
        (lambda: NearestETFHead(0, 3), "in_features must be a positive integer, got 0"),
        (lambda: NearestETFHead(2, 4), r"in_features=2 is too small .*\[4\] classes: 3 needed; or"),
        (lambda: NearestETFHead(4, [4, 3]), "5 needed; or use ClassMeanHead, or CompoundETFHead w"),
        (lambda: NearestETFHead(8, 3, solver="best"), "solver must be one of polar, riemannian"),
        (lambda: NearestETFHead(8, 3, decay=0.0), r"decay must lie in \(0, 1\], 1 for the mean"),
        (lambda: NearestETFHead(8, 3, update_every=0), "update_every must be a positive integer"),
        (lambda: NearestETFHead(8, 3, proximal=-1), "proximal must be a finite number of at least"),
        (
            lambda: NearestETFHead(8, 3, solver="riemannian", gradient=True),
            "gradient=True needs so",
        ),
        (observing(H, Y["shape"]), r"labels has shape \(32,\), expected \(32, 2\) for this batch"),
        (observing(H, {"shape": Y["shape"]}), r"labels has the tasks \['shape'\], expected"),
        (
            observing(H, Y | {"colour": Y["colour"] + 1}),
            "of task 'colour' run from 1 to 3, expected 0 to 2",
        ),
        (observing(H, Y | {"colour": Y["colour"] - 1}), "run from -1 to 1, expected 0 to 2"),
        (
            observing(H, Y | {"shape": H[:, 0]}),
            r"labels\['shape'\] must be a tensor of integers, got torch.fl",
        ),
        (observing(H[1:], Y), r"labels\['shape'\] has shape \(32,\), expected \(31,\)"),
        (observing(H * torch.nan, Y), "features have NaN or infinite entries: this batch was not"),
        (observing(H[:, 1:], Y), "features have 11 entries, the head takes 12"),
    ],
)
def test_bad_input_gets_a_value_error(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_refused_batch_leaves_no_trace():
    head = NearestETFHead(12, TASKS, dtype=F64)
    before = copy.deepcopy(head.state_dict())
    with pytest.raises(ValueError, match="NaN"):
        head.observe(H * torch.inf, Y)
    assert all(torch.equal(before[name], value) for name, value in head.state_dict().items())
