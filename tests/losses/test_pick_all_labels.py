"""The cross-entropy of every label of a sample."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from etf_heads import CompoundETFHead, ETFHead
from etf_heads.losses import PickAllLabelsCrossEntropy


def random_sets(shape, classes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(*shape, classes, generator=generator) < 0.4


@pytest.mark.parametrize("over_labels", ["sum", "mean"])
@pytest.mark.parametrize("kind", [bool, torch.int64, torch.float32])
@pytest.mark.parametrize("learned", [False, True])
def test_it_is_the_cross_entropy_of_every_label(over_labels, kind, learned):
    head = nn.Linear(8, 5).double() if learned else ETFHead(8, 5, bias=True, dtype=torch.float64)
    h = torch.randn(3, 4, 8, dtype=torch.float64, requires_grad=True)
    sets = random_sets((3, 4), 5)
    sets[0, 0] = False
    logits = head(h)
    losses = torch.zeros(3, 4, dtype=torch.float64)
    for place in sets.any(-1).nonzero().tolist():
        labels = sets[tuple(place)].nonzero().flatten()
        z = logits[tuple(place)].expand(len(labels), -1)
        losses[tuple(place)] = F.cross_entropy(z, labels, reduction=over_labels)
    each = PickAllLabelsCrossEntropy(over_labels, reduction="none")(h, head, sets.to(kind))
    torch.testing.assert_close(each, losses)
    mean = PickAllLabelsCrossEntropy(over_labels)(h, head, sets.to(kind))
    torch.testing.assert_close(mean, losses.sum() / sets.any(-1).sum())
    task = PickAllLabelsCrossEntropy(over_labels, reduction="task")(h, head, sets.to(kind))
    torch.testing.assert_close(task, mean[None])
    criterion = PickAllLabelsCrossEntropy(over_labels)
    assert torch.autograd.gradcheck(lambda h: criterion(h, head, sets), h)


def test_the_optimum_of_the_unconstrained_feature_model():
    """K = 4, ten samples of each label set of size 1 and 2: gaps and objective in closed form."""
    torch.manual_seed(0)
    lambda_w, lambda_h = 2e-3, 2e-4
    singles = torch.eye(4, dtype=torch.float64)
    pairs = torch.combinations(torch.arange(4), 2)
    sets = torch.cat([singles, singles[pairs].sum(1)])  # (10, 4), each counted ten times
    linear = nn.Linear(4, 4, bias=False, dtype=torch.float64)
    h = torch.randn(len(sets), 4, dtype=torch.float64, requires_grad=True)
    criterion = PickAllLabelsCrossEntropy()
    optimiser = torch.optim.LBFGS(
        [h, linear.weight], max_iter=3000, tolerance_grad=1e-12, tolerance_change=1e-16,
        line_search_fn="strong_wolfe",
    )  # fmt: skip

    def objective():
        norms = lambda_w * linear.weight.square().sum() + lambda_h * 10 * h.square().sum()
        return criterion(h, linear, sets) + norms

    def closure():
        optimiser.zero_grad()
        loss = objective()
        loss.backward()
        return loss

    optimiser.step(closure)
    assert float(objective().detach()) == pytest.approx(0.950141608, abs=1e-8)
    logits = linear(h).detach()
    inside = (logits * sets).sum(1) / sets.sum(1)
    outside = (logits * (1 - sets)).sum(1) / (1 - sets).sum(1)
    gaps = (inside - outside).tolist()
    assert gaps[:4] == pytest.approx([5.059642] * 4, abs=1e-4)
    assert gaps[4:] == pytest.approx([4.493008] * 6, abs=1e-4)


def test_no_labels_count_as_zero():
    h = torch.randn(4, 8, requires_grad=True)
    loss = PickAllLabelsCrossEntropy()(h, ETFHead(8, 5), torch.zeros(4, 5))
    loss.backward()
    assert loss == 0
    assert not h.grad.any()


def test_bad_input():
    h, head = torch.randn(4, 8), ETFHead(8, 5)
    criterion = PickAllLabelsCrossEntropy()
    with pytest.raises(ValueError, match="over_labels must be 'sum' or 'mean', got 'max'"):
        PickAllLabelsCrossEntropy("max")
    with pytest.raises(ValueError, match="reduction must be one of mean, task, none; got 'sum'"):
        PickAllLabelsCrossEntropy(reduction="sum")
    with pytest.raises(ValueError, match=r"of shape \(4, 5\), one column a class; got \(4,\)"):
        criterion(h, head, torch.zeros(4))
    with pytest.raises(ValueError, match="labels must be 0 or 1"):
        criterion(h, head, torch.full((4, 5), 2))
    with pytest.raises(ValueError, match="the head has 2 tasks"):
        criterion(h, CompoundETFHead(8, [3, 2]), torch.zeros(4, 5))
