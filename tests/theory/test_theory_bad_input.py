"""Errors for bad input, and label counts of good input."""

import pytest
import torch

from etf_heads.theory import (
    JointCounts,
    UnconstrainedFeatureModel,
    balanced_optimum,
    binary_cosine,
    logit_gap,
    mean_loss_lambdas,
    minority_collapse_ratio,
    optimal_gram,
    regression_gram,
    zero_head_threshold,
)

GOOD = torch.ones(2, 3)
BOTH = pytest.mark.parametrize("entry", [optimal_gram, UnconstrainedFeatureModel])


@BOTH
@pytest.mark.parametrize(
    ("counts", "message"),
    [
        (torch.tensor([[1.0, 2.0], [-3.0, 1.0]]), "label_counts has negative entries.*-3"),
        (torch.tensor([[1.0, float("nan")], [2.0, 1.0]]), "label_counts has .* NaN or infinite"),
        (torch.tensor([[1.0, float("inf")], [2.0, 1.0]]), "label_counts has .* NaN or infinite"),
        (torch.zeros(2, 2), r"class 0 of task '0' has no samples .*\[0, 1\]"),
        (torch.tensor([[1.0, 0.0, 2.0], [4.0, 0.0, 1.0]]), "class 1 of task '1' has no samples"),
        (torch.ones(2, 1), r"label_counts.shape\[1\]=1: a task needs at least 2 classes"),
        (torch.tensor(3.0), "one dimension for each task"),
        (torch.ones(2, 2, dtype=torch.complex64), "label_counts must be real"),
    ],
)
def test_counts(entry, counts, message):
    with pytest.raises(ValueError, match=message):
        entry(counts, 1e-3, 1e-3)


@BOTH
@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan"), float("inf")])
def test_lambdas(entry, bad):
    with pytest.raises(ValueError, match="lambda_w must be a positive number, got"):
        entry(GOOD, bad, 1e-3)
    with pytest.raises(ValueError, match="lambda_h must be a positive number, got"):
        entry(GOOD, 1e-3, bad)


@BOTH
@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1.0], "task_weights has 1 entries for 2 tasks"),
        ([1.0, 0.0], r"task_weights\[1\] must be a positive finite number, got 0.0"),
        ({"a": 1.0, "1": 2.0}, "task_weights has the tasks"),
        (torch.ones(2, 2), "task_weights must have one dimension"),
    ],
)
def test_task_weights(entry, weights, message):
    with pytest.raises(ValueError, match=message):
        entry(GOOD, 1e-3, 1e-3, task_weights=weights)


@pytest.mark.parametrize(
    ("labels", "counts", "message"),
    [
        (torch.zeros(5, 3).long(), None, r"labels has shape \(5, 3\); expected \(N, 2\)"),
        (torch.zeros(5).long(), None, r"labels has shape \(5, 1\); expected \(N, 2\)"),
        (torch.zeros(5, 2), None, "labels must be integers, got torch.float32"),
        (torch.tensor([[0, 0], [1, 3]]), None, r"labels\[1, 1\]=3 is outside task 'b'.* 0 to 2"),
        (torch.tensor([[0, 0], [-1, 2]]), None, r"labels\[1, 0\]=-1 is outside task 'a'"),
        (torch.tensor([[0, 0], [1, 1]]), None, "class 2 of task 'b' has no samples"),
        (torch.zeros(0, 2).long(), None, "class 0 of task 'a' has no samples"),
        (torch.zeros(5, 2).long(), torch.ones(4), r"counts has shape \(4,\); .* 5 rows"),
        (torch.zeros(2, 2).long(), torch.tensor([1, -1]), "counts has negative entries"),
    ],
)
def test_labels(labels, counts, message):
    with pytest.raises(ValueError, match=message):
        JointCounts.from_labels(labels, {"a": 2, "b": 3}, counts)


def test_the_row_blamed_is_the_users_row():
    labels, counts = torch.tensor([[0, 0], [1, 1], [1, 9]]), torch.tensor([0, 1, 1])
    with pytest.raises(ValueError, match=r"labels\[2, 1\]=9"):
        JointCounts.from_labels(labels, [2, 2], counts)


def test_rows_with_equal_labels_are_added_up():
    labels = torch.tensor([[1, 0], [0, 1], [1, 0], [0, 0]], dtype=torch.int32)
    counts = JointCounts.from_labels(labels, [2, 2], torch.tensor([2.0, 1.0, 0.5, 0.0]))
    assert counts.labels.tolist() == [[0, 1], [1, 0]]
    assert counts.counts.tolist() == [1.0, 2.5]
    assert counts.total == 3.5
    assert counts.class_counts.tolist() == [1.0, 2.5, 2.5, 1.0]
    assert counts.rows.tolist() == [[0, 3], [1, 2]]


def test_one_task_may_come_without_a_task_dimension():
    counts = JointCounts.from_labels(torch.tensor([2, 0, 1, 1]), [3])
    assert torch.equal(counts.counts, torch.tensor([1.0, 2.0, 1.0]).double())


@pytest.mark.parametrize("p", [-0.1, 1.1, float("nan")])
def test_share(p):
    with pytest.raises(ValueError, match=r"p=.* must be between 0 and 1"):
        binary_cosine(torch.tensor([0.5, p]), 1e-3, 1e-3, 100)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: logit_gap(1, 1e-3, 1e-3, 10), "num_classes=1"),
        (lambda: logit_gap(3, 1e-3, 1e-3, 0), "n must be a positive number"),
        (lambda: logit_gap(3, 1e-3, 1e-3, 10, -1.0), "task_weight must be a positive number"),
        (lambda: zero_head_threshold(3, 0.0), "task_weight must be a positive number"),
        (lambda: mean_loss_lambdas(1.0, 1.0, 0), "n must be a positive number"),
        (lambda: binary_cosine(0.5, 1e-3, 0.0, 10), "lambda_h must be a positive number"),
        (lambda: minority_collapse_ratio(2, 1, 1e-3, 1e-3, 10), "at least 2 rare classes"),
        (lambda: minority_collapse_ratio(0, 2, 1e-3, 1e-3, 10), "num_major must be a positive"),
        (lambda: balanced_optimum([3, 3], 1e-3, 1e-3, 90, dim=3), "dim=3 is too small.*4 needed"),
        (lambda: optimal_gram(GOOD, 1e-3, 1e-3, tolerance=0.0), "tolerance must be a positive"),
        (
            lambda: UnconstrainedFeatureModel(GOOD, 1e-3, 1e-3, dim=0),
            "dim must be a positive integer",
        ),
        (
            lambda: UnconstrainedFeatureModel(GOOD, 1e-3, 1e-3, normalised=0.0),
            "normalised must be a positive number, got 0.0",
        ),
        (
            lambda: balanced_optimum([3, 2], 1e-3, 1e-3, 90).features(torch.zeros(5, 3).long()),
            r"labels has shape \(5, 3\); expected \(..., 2\)",
        ),
        (
            lambda: regression_gram(torch.ones(2, 3), 1.0, 1.0),
            r"shape \(2, 3\); expected \(n, n\)",
        ),
        (
            lambda: regression_gram(torch.tensor([[1.0, 2.0], [0.0, 1.0]]), 1.0, 1.0),
            "not symmetric",
        ),
        (lambda: regression_gram(-torch.eye(2), 1.0, 1.0), "negative eigenvalue -1"),
        (lambda: regression_gram(torch.eye(2) * float("nan"), 1.0, 1.0), "NaN or infinite"),
        (lambda: regression_gram(torch.zeros(0, 0), 1.0, 1.0), r"shape \(0, 0\)"),
    ],
)
def test_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()
