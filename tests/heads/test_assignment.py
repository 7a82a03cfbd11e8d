"""Assignment of class vectors: optimal where it is solved exactly, kept in checkpoints."""

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch.nn import functional as F

from etf_heads import ETFHead, SphericalCodeHead
from etf_heads.codes import AssignedCode, KerdockCode
from etf_heads.heads import assign_classes, check_frame, from_spec, to_spec
from etf_heads.losses import CompoundCrossEntropy
from tests.heads.test_spherical_head import LargestStorage


def clustered(classes, dim, groups=10, seed=0):
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(groups, dim, generator=generator)
    which = torch.randint(groups, (classes,), generator=generator)
    return centres[which] + torch.randn(classes, dim, generator=generator) + 3  # not centred


def cosines(head, means):
    """Of centred means and class vectors, written out."""
    centred = (means - means.mean(0)).double()
    return F.normalize(centred) @ F.normalize(head.weight.double()).T


def test_few_classes_are_assigned_optimally():
    head, means = SphericalCodeHead(16, 150), clustered(150, 16)
    table = cosines(head, means).numpy()
    before, after = assign_classes(head, means)
    rows, columns = linear_sum_assignment(table, maximize=True)
    assert before == pytest.approx(np.diag(table).mean(), abs=1e-5)
    assert after == pytest.approx(table[rows, columns].mean(), abs=1e-5)
    assert after == pytest.approx(float(cosines(head, means).diagonal().mean()), abs=1e-5)
    assert after > before + 0.2
    assert head.code.assignment.unique().numel() == 150


@pytest.mark.parametrize("method", ["nearest", "hierarchical"])
def test_many_classes_come_near_the_optimum(method):
    means = clustered(600, 64)
    exact, near = SphericalCodeHead(64, 600), SphericalCodeHead(64, 600)
    best = assign_classes(exact, means)[1]
    found = assign_classes(near, means, method=method, block=100, sweeps=3)[1]
    assert 0.93 * best < found <= best + 1e-6
    assert near.code.assignment.sort().values.tolist() == list(range(600))


@pytest.mark.parametrize("method", ["nearest", "hierarchical"])
def test_no_matrix_of_all_classes_is_made(method):
    head, means = SphericalCodeHead(64, 4000), clustered(4000, 64)
    with LargestStorage() as seen:
        before, after = assign_classes(head, means, method=method, block=128)
    assert seen.nbytes < 4 * 4000 * 4000 / 8
    assert after > before + 0.2
    assert head.code.assignment.sort().values.tolist() == list(range(4000))


@pytest.mark.parametrize("block", [50, 2048])
def test_a_larger_code_comes_nearer(block):
    means, head = clustered(200, 16), SphericalCodeHead(16, 200)
    own = assign_classes(head, means)[1]
    before, chosen = assign_classes(head, means, code=KerdockCode(288, 16), block=block)
    assert before == pytest.approx(own, abs=1e-6)
    assert chosen > own
    assert head.code.base.rows == 288
    assert head.out_features == 200


def test_tasks_keep_to_their_own_vectors():
    head = SphericalCodeHead(16, {"a": 40, "b": 21})
    assign_classes(head, torch.cat([clustered(40, 16), clustered(21, 16, seed=3)]))
    assert head.code.assignment[:40].sort().values.tolist() == list(range(40))
    assert head.code.assignment[40:].sort().values.tolist() == list(range(40, 61))


def test_classes_without_a_mean_get_what_is_left():
    means = clustered(60, 16)
    means[5], means[9] = float("nan"), 0
    for block in (10, 100):
        head = SphericalCodeHead(16, 60)
        _, after = assign_classes(head, means, block=block)
        assert after > 0.2
        assert head.code.assignment.sort().values.tolist() == list(range(60))


def test_equal_means_end():
    head = SphericalCodeHead(16, 60)
    assign_classes(head, torch.ones(60, 16), block=10)
    assign_classes(head, torch.cat([torch.ones(30, 16), -torch.ones(30, 16)]), block=10)
    assert head.code.assignment.sort().values.tolist() == list(range(60))


def test_a_new_head_takes_the_assignment_over():
    head = SphericalCodeHead(16, 150)
    assign_classes(head, clustered(150, 16))
    state = head.state_dict()
    assert list(state) == ["codebook.assignment"]
    twin = SphericalCodeHead(16, 150)
    twin.load_state_dict(state)
    h = torch.randn(4, 16)
    assert torch.equal(twin(h), head(h))
    assert torch.equal(twin.topk(h, 3)[1], head.topk(h, 3)[1])
    spec = to_spec(head)
    made = from_spec(spec, 16).to_empty(device="cpu")
    made.load_state_dict(state)
    check_frame(made, spec)
    with pytest.raises(RuntimeError, match=r"Missing key.*codebook.assignment"):
        head.load_state_dict(SphericalCodeHead(16, 150).state_dict())


def test_a_choice_needs_the_code_that_it_is_from():
    means = clustered(100, 16)
    head = SphericalCodeHead(16, 100)
    assign_classes(head, means, code=KerdockCode(288, 16))
    with pytest.raises(RuntimeError, match=r"rows must be from 0 to 99|another head"):
        SphericalCodeHead(16, 100).load_state_dict(head.state_dict())
    code = AssignedCode(KerdockCode(288, 16), 100)
    twin = SphericalCodeHead(16, 100, code=code)
    twin.load_state_dict(head.state_dict())
    assert torch.equal(twin.weight, head.weight)


def test_an_assigned_head_trains_and_answers_without_logits():
    means, head = clustered(200, 16), SphericalCodeHead(16, 200)
    assign_classes(head, means, code=KerdockCode(288, 16))
    h = torch.randn(9, 16, requires_grad=True)
    labels = torch.randint(200, (9,))
    for smoothing in (0.0, 0.2):
        ours = CompoundCrossEntropy(label_smoothing=smoothing)(h, head, labels)
        plain = F.cross_entropy(head(h), labels, label_smoothing=smoothing)
        torch.testing.assert_close(ours, plain)
        for a, b in zip(torch.autograd.grad(ours, h), torch.autograd.grad(plain, h), strict=True):
            torch.testing.assert_close(a, b)
    values, classes = head.topk(h, 4)
    torch.testing.assert_close(values, head(h).topk(4).values)
    torch.testing.assert_close(head(h).gather(1, classes), values)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: assign_classes(ETFHead(8, 4), torch.ones(4, 8)), "NearestETFHead finds"),
        (lambda: assign_classes(SphericalCodeHead(8, 4), torch.ones(4, 8)), "simplex ETF are all"),
        (
            lambda: assign_classes(SphericalCodeHead(4, 20), torch.ones(4, 20)),
            r"class_means has shape \(4, 20\), expected \(20, 4\)",
        ),
        (
            lambda: assign_classes(
                SphericalCodeHead(16, 50), torch.ones(50, 16), code=KerdockCode(50, 64)
            ),
            "code has 64 columns, the head's 16",
        ),
        (
            lambda: assign_classes(SphericalCodeHead(4, 20), torch.ones(20, 4), method="best"),
            "method must be one of nearest, hierarchical; got 'best'",
        ),
        (lambda: AssignedCode(KerdockCode(20, 4), 24), r"tasks of \[24\] classes, the code has"),
        (lambda: AssignedCode(KerdockCode(24, 4)).assign(torch.arange(23)), "rows has shape"),
        (lambda: AssignedCode(KerdockCode(24, 4)).assign(torch.zeros(24)), "the same row"),
        (lambda: AssignedCode(KerdockCode(24, 4)).assign(torch.arange(24) + 1), "from 0 to 23"),
    ],
)
def test_bad_input_gets_a_value_error(make, message):
    with pytest.raises(ValueError, match=message):
        make()
