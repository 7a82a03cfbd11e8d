"""Class vectors that a certificate cannot distinguish from zero."""

import pytest
import torch

from etf_heads import CorrelatedETFHead
from etf_heads.theory import optimal_gram, unresolved_classes

COUNTS = torch.tensor([[300] * 6, [100] * 6])  # independent tasks: each has a threshold of its own
LAMBDA_W = 1e-2
THRESHOLD = 1 / 6 / (4 * LAMBDA_W * 2400)  # of 2 sqrt(λ_W λ_H N) = sqrt(1 / K), Theorem 3.1


@pytest.mark.parametrize("factor", [1.0001, 1.01, 1.05, 1.2])
def test_a_task_beyond_its_threshold_is_unresolved(factor):
    lambdas = LAMBDA_W, factor * THRESHOLD
    best = optimal_gram(COUNTS, *lambdas)
    assert unresolved_classes(best, *lambdas).tolist() == [False] * 2 + [True] * 6
    with pytest.raises(ValueError, match=r"gives up classes \[0, 1, 2, 3, 4, 5\] of task '1'"):
        CorrelatedETFHead(20, [2, 6], COUNTS, lambda_w=lambdas[0], lambda_h=lambdas[1])


@pytest.mark.parametrize("factor", [0.5, 0.99, 0.999])
def test_a_task_below_its_threshold_is_resolved(factor):
    lambdas = LAMBDA_W, factor * THRESHOLD
    assert not unresolved_classes(optimal_gram(COUNTS, *lambdas), *lambdas).any()
    head = CorrelatedETFHead(20, [2, 6], COUNTS, lambda_w=lambdas[0], lambda_h=lambdas[1])
    vectors = head.task_weight(1).double()
    expected = 1.2 * torch.eye(6, dtype=torch.float64) - 0.2  # a simplex ETF
    torch.testing.assert_close(vectors @ vectors.T, expected, rtol=0, atol=1e-3)


def test_task_weights_move_the_threshold():
    lambdas, weights = (LAMBDA_W, 1.05 * THRESHOLD), [1.0, 2.0]
    best = optimal_gram(COUNTS, *lambdas, weights)
    assert not unresolved_classes(best, *lambdas, weights).any()


def test_small_vectors_of_rare_classes_are_resolved():
    counts = 1000 * 0.01 ** (torch.arange(20, dtype=torch.float64) / 19)
    strength = 0.4 * (1 / 20) ** 0.5 / float(counts.sum()) ** 0.5
    best = optimal_gram(counts, strength, strength)
    lengths = best.gram.diagonal().sqrt()
    assert lengths.min() < 0.1 * lengths.max()
    assert not unresolved_classes(best, strength, strength).any()
