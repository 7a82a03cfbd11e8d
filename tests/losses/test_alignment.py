"""Class vectors turned to class means, by a penalty."""

import numpy as np
import pytest
import torch
from torch import nn

from etf_heads.losses import alignment_penalty


def test_it_is_what_numpy_says():
    rng = np.random.default_rng(0)
    W, M = rng.normal(size=(5, 7)), rng.normal(size=(5, 7))
    v, m = W - W.mean(0), M - M.mean(0)
    cosines = (v * m).sum(1) / np.linalg.norm(v, axis=1) / np.linalg.norm(m, axis=1)
    value = alignment_penalty(torch.from_numpy(W), torch.from_numpy(M))
    assert float(value) == pytest.approx(1 - cosines.mean(), rel=1e-12)


def test_gradients_turn_class_vectors_and_leave_means():
    torch.manual_seed(0)
    linear, means = nn.Linear(7, 5).double(), torch.randn(5, 7).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda w: alignment_penalty(w, means.detach()), linear.weight)
    optimiser = torch.optim.SGD([linear.weight], lr=1.0)
    for _ in range(500):
        optimiser.zero_grad()
        loss = alignment_penalty(linear.weight, means)
        loss.backward()
        optimiser.step()
    assert loss < 1e-3
    assert means.grad is None


def test_bad_input():
    with pytest.raises(ValueError, match=r"got \(3, 4\) and \(2, 4\)"):
        alignment_penalty(torch.ones(3, 4), torch.ones(2, 4))
    with pytest.raises(ValueError, match="K >= 2"):
        alignment_penalty(torch.ones(1, 4), torch.ones(1, 4))
