"""Cross-entropy of logits adjusted by class frequencies."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from etf_heads import CompoundETFHead, ETFHead
from etf_heads.losses import CompoundCrossEntropy, LogitAdjustedCrossEntropy, logit_prior


def test_the_prior_is_the_logarithm_of_frequencies():
    counts = torch.tensor([500, 50, 5])
    expected = 2 * (counts / 555).log()
    torch.testing.assert_close(logit_prior(counts, tau=2.0), expected)
    assert not logit_prior([3, 3], tau=0.0).any()


@pytest.mark.parametrize("form", [list, dict, tuple])
def test_it_is_cross_entropy_with_the_prior_added(form):
    counts = {"left": [50, 20, 7], "right": torch.tensor([9, 1])}
    head = CompoundETFHead(8, {"left": 3, "right": 2}, dtype=torch.float64)
    h = torch.randn(10, 8, dtype=torch.float64, requires_grad=True)
    labels = torch.stack([torch.arange(10) % 3, torch.arange(10) % 2], 1)
    labels[4, 0] = -100
    given = counts if form is dict else form(counts.values())
    loss = LogitAdjustedCrossEntropy(given, 1.5, label_smoothing=0.1)(h, head, labels)
    expected = sum(
        F.cross_entropy(z + logit_prior(n, 1.5), labels[:, t], label_smoothing=0.1)
        for t, (z, n) in enumerate(zip(head(h).values(), counts.values(), strict=True))
    )
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(torch.autograd.grad(loss, h), torch.autograd.grad(expected, h))


def test_one_task_of_any_head():
    h, labels = torch.randn(10, 8), torch.arange(10) % 3
    for head in (ETFHead(8, 3), nn.Linear(8, 3)):
        for counts in ([50, 20, 7], torch.tensor([50, 20, 7])):
            expected = F.cross_entropy(head(h) + logit_prior(counts), labels)
            criterion = LogitAdjustedCrossEntropy(counts)
            torch.testing.assert_close(criterion(h, head, labels), expected)
        even = LogitAdjustedCrossEntropy([4, 4, 4])(h, head, labels)
        torch.testing.assert_close(even, CompoundCrossEntropy()(h, head, labels))


def test_it_moves_with_the_module_and_stays_out_of_checkpoints():
    criterion = LogitAdjustedCrossEntropy([50, 20, 7])
    assert criterion.double().prior.dtype == torch.float64
    assert not criterion.state_dict()
    assert "tau=1" in repr(criterion)


def test_bad_input():
    with pytest.raises(ValueError, match=r"counts must be positive: classes \[1\] have no sample"):
        logit_prior([5, 0, 2])
    with pytest.raises(ValueError, match="tau must be a finite number"):
        LogitAdjustedCrossEntropy([5, 2], tau=float("inf"))
    with pytest.raises(ValueError, match=r"one number a class, got shape \(2, 2\)"):
        logit_prior(torch.ones(2, 2))
    h, labels = torch.randn(4, 8), torch.zeros(4, dtype=torch.long)
    with pytest.raises(ValueError, match=r"counts are of \(2,\) classes, the head has \(3,\)"):
        LogitAdjustedCrossEntropy([5, 2])(h, ETFHead(8, 3), labels)
    with pytest.raises(ValueError, match="counts has 2 entries for 1 tasks"):
        LogitAdjustedCrossEntropy([[5, 2], [1, 1]])(h, ETFHead(8, 2), labels)


@pytest.mark.parametrize(
    "counts", [np.array([50, 20, 7]), [50.0, 20.0, 7.0]], ids=["numpy", "real"]
)
def test_counts_of_one_task_are_numbers_of_any_kind(counts):
    head, features, labels = ETFHead(8, 3), torch.randn(5, 8), torch.arange(5) % 3
    expected = LogitAdjustedCrossEntropy([50, 20, 7])(features, head, labels)
    torch.testing.assert_close(LogitAdjustedCrossEntropy(counts)(features, head, labels), expected)


def test_no_counts_are_refused():
    with pytest.raises(ValueError, match="counts must be one number a class"):
        LogitAdjustedCrossEntropy([])
