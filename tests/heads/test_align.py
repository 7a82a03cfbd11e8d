"""Class vectors turned to class means, in place."""

import pytest
import torch
from torch import nn

from etf_heads.heads import align_


def centred(x):
    return x.detach() - x.detach().mean(0)


@pytest.mark.parametrize("step", [0.0, 0.3, 1.0])
def test_the_angle_shrinks_by_the_share_and_lengths_stay(step):
    torch.manual_seed(0)
    weight = torch.randn(5, 40, dtype=torch.float64)
    means = torch.randn(5, 40, dtype=torch.float64)
    linear = nn.Linear(40, 5).double()
    linear.weight.data.copy_(weight)
    before = centred(weight)
    assert align_(linear, means, step) is linear
    vectors, targets = linear.weight.detach() - weight.mean(0), centred(means)
    torch.testing.assert_close(vectors.norm(dim=1), before.norm(dim=1))
    old = torch.cosine_similarity(before, targets).acos()
    new = torch.cosine_similarity(vectors, targets).clamp(-1, 1).acos()
    torch.testing.assert_close(new, (1 - step) * old, rtol=0, atol=1e-6)


def test_opposite_and_parallel_vectors_are_defined():
    linear = nn.Linear(2, 2, bias=False)
    linear.weight.data.copy_(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
    for step in (0.0, 0.5, 1.0):
        for sign in (1, -1):
            align_(linear, sign * torch.tensor([[2.0, 0.0], [-2.0, 0.0]]), step)
            assert linear.weight.isfinite().all()
            torch.testing.assert_close(linear.weight.detach()[0].abs(), torch.tensor([1.0, 0.0]))


def test_bad_input():
    linear = nn.Linear(4, 3)
    with pytest.raises(ValueError, match=r"means has shape \(2, 4\), expected \(3, 4\)"):
        align_(linear, torch.ones(2, 4))
    with pytest.raises(ValueError, match="step must be from 0 to 1, got 2"):
        align_(linear, torch.ones(3, 4), 2)
