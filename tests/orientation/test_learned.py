"""The orientation that geoopt's optimisers learn."""

import copy
import pickle

import pytest
import torch
from torch.nn import functional as F

from etf_heads import CompoundETFHead, ETFHead
from etf_heads._geoopt import import_geoopt
from etf_heads.geometry import simplex_gram
from etf_heads.orientation import StiefelOrientation
from tests.cases import orthonormal

F64 = torch.float64


@pytest.mark.parametrize("optimizer", ["RiemannianAdam", "RiemannianSGD"])
def test_training_turns_the_frame_and_keeps_its_angles(optimizer):
    geoopt = import_geoopt()
    torch.manual_seed(0)
    y = torch.arange(60) % 5
    h = 3 * orthonormal(16, 5)[:, y].T + 0.1 * torch.randn(60, 16, dtype=F64)
    head = ETFHead(16, 5, orientation="learned", scale=4.0, dtype=F64)
    before = head.weight.detach()
    steps = getattr(geoopt.optim, optimizer)(head.parameters(), lr=0.1)
    for _ in range(60):
        steps.zero_grad()
        loss = F.cross_entropy(head(h), y)
        loss.backward()
        steps.step()
    assert loss < 0.1
    after = head.weight.detach()
    assert (after - before).norm() > 1
    torch.testing.assert_close(after @ after.T, 16 * simplex_gram(5))


def still_a_manifold_parameter(orientation):
    return type(orientation.basis).__name__ == "ManifoldParameter" and orientation.basis.manifold


def test_what_people_do_with_modules_keeps_the_manifold():
    head = CompoundETFHead(16, [4, 3], orientation="learned")
    assert still_a_manifold_parameter(head.orientation)
    assert still_a_manifold_parameter(copy.deepcopy(head).orientation)
    assert still_a_manifold_parameter(pickle.loads(pickle.dumps(head)).orientation)  # noqa: S301
    meta = CompoundETFHead(16, [4, 3], orientation="learned", device="meta")
    assert still_a_manifold_parameter(meta.orientation)
    assert still_a_manifold_parameter(meta.to_empty(device="cpu").orientation)
    assert still_a_manifold_parameter(head.to(torch.bfloat16).orientation)
    assert head.orientation.basis.dtype == torch.float32
    assert head.weight.dtype == torch.bfloat16
    assert still_a_manifold_parameter(head.to(F64).orientation)
    assert head.orientation.basis.dtype == F64
    head.requires_grad_(requires_grad=False).to(torch.bfloat16)
    assert not head.orientation.basis.requires_grad


def test_a_start():
    start = orthonormal(8, 3)
    torch.testing.assert_close(StiefelOrientation(8, 3, start, dtype=F64).matrix(), start)
    with pytest.raises(ValueError, match=r"start has shape \(8, 3\), expected \(8, 4\)"):
        StiefelOrientation(8, 4, start)
    with pytest.raises(ValueError, match="must have orthonormal columns"):
        StiefelOrientation(8, 3, 2 * start)
