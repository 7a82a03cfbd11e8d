"""Heads with the optimal geometry of given label counts."""

import pytest
import torch

from etf_heads import CompoundETFHead, CorrelatedETFHead
from etf_heads.codes import GramCode
from etf_heads.geometry import compound_etf
from etf_heads.theory import JointCounts, binary_cosine, optimal_gram
from tests.cases import orthonormal

LAMBDAS = {"lambda_w": 5e-3, "lambda_h": 1e-5}


def counts_of(*sizes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(sizes, generator=generator, dtype=torch.float64) + 0.05


@pytest.mark.parametrize("p", [0.6, 0.9, 0.99])
@pytest.mark.parametrize("in_features", [2, 3, 4, 30])
def test_two_binary_tasks_have_the_cosine_of_the_closed_form(p, in_features):
    counts = torch.tensor([[200 * p, 200 * (1 - p)], [200 * (1 - p), 200 * p]])
    head = CorrelatedETFHead(in_features, [2, 2], counts, **LAMBDAS, dtype=torch.float64)
    cosine = head.weight[0] @ head.weight[2]
    expected = float(binary_cosine(p, 5e-3, 1e-5, 400))
    assert abs(float(cosine) - expected) < 1e-6
    assert head.duality_gap <= 1e-9


@pytest.mark.parametrize("unit_norm", [True, False])
@pytest.mark.parametrize("in_features", [6, 8, 9, 40])
@pytest.mark.parametrize("orientation", ["tiled", "hadamard", "canonical"])
def test_gram_is_the_optimal_one(unit_norm, in_features, orientation):
    counts = counts_of(3, 4, 2)
    head = CorrelatedETFHead(
        in_features,
        {"a": 3, "b": 4, "c": 2},
        counts,
        **LAMBDAS,
        unit_norm=unit_norm,
        orientation=orientation,
        scale=1.5,
        dtype=torch.float64,
    )
    optimum = optimal_gram(counts, 5e-3, 1e-5)
    gram = optimum.cosines() if unit_norm else optimum.gram / optimum.gram.diagonal().mean()
    torch.testing.assert_close(head.weight @ head.weight.T, 1.5**2 * gram, rtol=0, atol=1e-9)


@pytest.mark.parametrize("orientation", ["tiled", "canonical"])
@pytest.mark.parametrize("in_features", [7, 9, 40])
def test_equally_frequent_tuples_give_exactly_the_compound_head(orientation, in_features):
    options = {"orientation": orientation, "dtype": torch.float64}
    head = CorrelatedETFHead(in_features, [4, 5], torch.full((4, 5), 13), **options)
    assert torch.equal(head.weight, CompoundETFHead(in_features, [4, 5], **options).weight)
    assert not head.state_dict()


def test_nearly_uniform_counts_give_nearly_the_compound_head():
    counts = torch.full((4, 5), 1000.0)
    counts[0, 0] += 1e-3
    head = CorrelatedETFHead(20, [4, 5], counts, dtype=torch.float64)
    compound = CompoundETFHead(20, [4, 5], dtype=torch.float64)
    torch.testing.assert_close(head.weight, compound.weight, rtol=0, atol=1e-5)


def test_identical_tasks_fit_into_the_dimensions_of_one():
    counts = torch.diag(torch.tensor([5.0, 5.0, 5.0]))
    head = CorrelatedETFHead(2, [3, 3], counts, dtype=torch.float64)
    torch.testing.assert_close(head.weight[:3], head.weight[3:], rtol=0, atol=1e-6)
    with pytest.raises(
        ValueError, match=r"in_features=1 is too small .* span 2 dimensions: 2 needed"
    ):
        CorrelatedETFHead(1, [3, 3], counts)


def test_from_labels_counts_tuples():
    labels = torch.stack([torch.randint(3, (200,)), torch.randint(2, (200,))], dim=1)
    head = CorrelatedETFHead.from_labels(10, {"a": 3, "b": 2}, labels, scale=2.0, bias=True)
    counts = JointCounts.from_labels(labels, [3, 2])
    twin = CorrelatedETFHead(10, {"a": 3, "b": 2}, counts, True, scale=2.0)
    assert torch.equal(head.weight, twin.weight)
    assert list(head(torch.randn(4, 10))) == ["a", "b"]


def test_a_checkpoint_carries_the_geometry():
    one = CorrelatedETFHead(10, [3, 2], counts_of(3, 2, seed=1))
    other = CorrelatedETFHead(10, [3, 2], counts_of(3, 2, seed=2))
    assert not torch.allclose(one.weight, other.weight, atol=1e-3)
    other.load_state_dict(one.state_dict())
    assert torch.equal(one.weight, other.weight)


@pytest.mark.parametrize("columns", [7, 5], ids=["symmetric", "Helmert"])
def test_gram_code_of_the_compound_gram_is_the_simplex_code(columns):
    frame = compound_etf([3, 4], columns)
    code = GramCode(frame @ frame.T, [3, 4], columns)
    torch.testing.assert_close(code.matrix(), frame, rtol=0, atol=1e-7)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: CorrelatedETFHead(9, [3, 2], torch.ones(2, 3)),
            r"tasks with \[2, 3\] classes, tas",
        ),
        (
            lambda: CorrelatedETFHead(9, [2, 2], torch.tensor([[1, 2], [0, 0]])),
            "class 1 of task '0'",
        ),
        (lambda: CorrelatedETFHead(9, [2, 2], -torch.ones(2, 2)), "label_counts has negative ent"),
        (
            lambda: CorrelatedETFHead(9, [2, 2], counts_of(2, 2), lambda_w=1e-3),
            "lambda_w and lambda_h go together",
        ),
        (
            lambda: CorrelatedETFHead(9, [2, 2], counts_of(2, 2), lambda_w=9.0, lambda_h=9.0),
            "the optimal head is zero at this regularisation",
        ),
        (
            lambda: CorrelatedETFHead(2, [2, 2, 2], counts_of(2, 2, 2)),
            "in_features=2 is too small for class vectors of this Gram matrix, which span",
        ),
        (
            lambda: CorrelatedETFHead(9, [2, 2], counts_of(2, 2), orientation=orthonormal(9, 1)),
            "a Gram matrix of rank 2 takes 2 to 4 columns, the orientation has 1",
        ),
        (
            lambda: GramCode(-torch.eye(4), [2, 2], 4),
            "gram must be positive semidefinite",
        ),
        (
            lambda: GramCode(torch.eye(3), [2, 2], 4),
            r"gram must be a floating-point matrix of shape \(4, 4\)",
        ),
    ],
)
def test_bad_input_gets_a_value_error(make, message):
    with pytest.raises(ValueError, match=message):
        make()
