"""Cosines with the centres of a class: values, the minimum and its curvature."""

import math

import numpy as np
import pytest
import torch

from etf_heads import ETFHead
from etf_heads.codes import AssignedCode, KerdockCode, MultiCentreCode
from etf_heads.heads import FixedHead
from etf_heads.losses import CentreCosine, DotRegression
from tests.losses.loss_cases import LOSSES, expected, random_labels

CASE = next(case for case in LOSSES if case.kind is CentreCosine)
F64 = {"dtype": torch.float64}


def head_of(centres, theta=0.2, **options):
    return FixedHead(40, MultiCentreCode(centres, theta), "random:1", **F64, **options)


@pytest.mark.parametrize("centres", [[1, 1, 1], [2, 2, 2], [1, 4, 2, 8]])
def test_values_and_gradients(centres):
    head = head_of(centres, bias=True, scale=3.0)
    torch.manual_seed(0)
    h, labels = torch.randn(9, 40, **F64), random_labels(head.tasks, 9, missing=0.3)
    losses = CentreCosine(reduction="none")(h, head, labels[:, 0])
    np.testing.assert_allclose(losses, expected(CASE, head, h, labels), atol=1e-13)
    mean = CentreCosine()(h, head, labels[:, 0])
    torch.testing.assert_close(mean, losses.sum() / (labels != -100).sum())
    criterion = CentreCosine()
    assert torch.autograd.gradcheck(lambda h: criterion(h, head, labels[:, 0]), h.requires_grad_())


def test_mean_and_variance_are_its_two_parts():
    code = MultiCentreCode([3, 5], 0.4)
    head = FixedHead(9, code, "canonical", **F64)
    u = torch.nn.functional.normalize(torch.randn(6, 9, **F64), dim=1)
    labels = torch.arange(6) % 2
    means = torch.stack([part.mean(0) for part in code.centre_vectors().split([3, 5])])
    means = torch.cat([means, torch.zeros(2, 0)], 1)
    own = [u[i, 1:].split([3, 5])[k] for i, k in enumerate(labels.tolist())]  # v_kj are axes
    variances = torch.stack([z.var(correction=0) for z in own])
    stated = (1 - (u * means[labels]).sum(1)).square() / 2
    stated = stated + math.cos(0.4) ** 2 * variances / 2
    losses = CentreCosine(reduction="none")(u, head, labels)[:, 0]
    torch.testing.assert_close(losses, stated, rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    ("count", "curvature"), [(1, 0.0), (2, 0.201), (4, 0.249), (8, 0.240), (20, 0.208)]
)
def test_the_minimum_and_the_weight_of_a_class(count, curvature):
    """The minimum is the direction of the mean; across all centres its curvature is |m|(1-|m|)."""
    head = FixedHead(64, MultiCentreCode([count, 3], 0.2), "canonical", **F64)
    length = math.sqrt(math.sin(0.2) ** 2 + math.cos(0.2) ** 2 / count)
    assert length * (1 - length) == pytest.approx(curvature, abs=5e-4)
    best = torch.nn.functional.normalize(head.weight[0], dim=0)
    label = torch.tensor([0])
    criterion = CentreCosine()

    def at(u):
        return float(criterion(u[None], head, label))

    assert at(best) == pytest.approx((1 - length) ** 2 / 2, abs=1e-14)
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        assert at(torch.randn(64, generator=generator, **F64)) >= at(best)
    across = torch.zeros(64, **F64)
    across[-1] = 1  # no centre has a part there
    angle = 1e-3
    bent = at(math.cos(angle) * best + math.sin(angle) * across)
    assert 2 * (bent - at(best)) / angle**2 == pytest.approx(length * (1 - length), abs=1e-5)
    if count > 1:  # within the class's centres, cos²θ / f more
        inside = torch.zeros(64, **F64)
        inside[[1, 2]] = torch.tensor([1.0, -1.0], **F64) / math.sqrt(2)
        bent = at(math.cos(angle) * best + math.sin(angle) * inside)
        more = length * (1 - length) + math.cos(0.2) ** 2 / count
        assert 2 * (bent - at(best)) / angle**2 == pytest.approx(more, abs=1e-5)


def test_permuted_classes_have_their_own_centres():
    code = MultiCentreCode([1, 4, 2])
    permuted = AssignedCode(code)
    permuted.assign(torch.tensor([2, 0, 1]))
    h = torch.randn(6, 40, **F64)
    labels = torch.tensor([0, 1, 2, 0, 1, -100])
    found = CentreCosine(reduction="none")(h, FixedHead(40, permuted, **F64), labels)
    rows = torch.tensor([2, 0, 1, 2, 0, -100])
    torch.testing.assert_close(
        found, CentreCosine(reduction="none")(h, FixedHead(40, code, **F64), rows)
    )


def test_of_other_heads_it_is_dot_regression():
    h, labels = torch.randn(5, 16), torch.arange(5)
    for head in (ETFHead(16, 5), FixedHead(16, KerdockCode(20)), torch.nn.Linear(16, 5)):
        assert torch.equal(CentreCosine()(h, head, labels), DotRegression()(h, head, labels))
