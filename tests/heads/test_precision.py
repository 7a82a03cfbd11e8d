"""Dtypes of the inputs and outputs of heads."""

import pytest
import torch
from torch import nn

from etf_heads import (
    ClassMeanHead,
    CompoundETFHead,
    CorrelatedETFHead,
    ETFHead,
    NearestETFHead,
)
from etf_heads.losses import CompoundCrossEntropy
from tests.cases import EVERY_HEAD, HeadCase, all_logits, features

each_head = pytest.mark.parametrize("case", EVERY_HEAD, ids=str)
COUNTS = torch.rand(3, 4, generator=torch.Generator().manual_seed(0)) + 0.1
MAKERS = {
    "ETFHead": lambda **options: ETFHead(12, 5, **options),
    "random": lambda **options: ETFHead(12, 5, orientation="random", **options),
    "given": lambda **options: ETFHead(12, 5, orientation=torch.eye(12, 5), **options),
    "learned": lambda **options: ETFHead(12, 5, orientation="learned", **options),
    "norm": lambda **options: ETFHead(12, 5, feature_norm="batch", **options),
    "CompoundETFHead": lambda **options: CompoundETFHead(12, [3, 4], **options),
    "CorrelatedETFHead": lambda **options: CorrelatedETFHead(12, [3, 4], COUNTS, **options),
    "NearestETFHead": lambda **options: NearestETFHead(12, [3, 4], **options),
    "ClassMeanHead": lambda **options: ClassMeanHead(12, [3, 4], **options),
}
each_maker = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


@each_maker
@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64, torch.float8_e4m3fn])
def test_dtypes_that_are_no_real_numbers_are_refused(make, dtype):
    with pytest.raises(ValueError, match=rf"dtype={dtype} is not possible: heads take torch.float"):
        make(dtype=dtype)


@each_head
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_logits_have_the_dtype_of_those_of_a_linear_layer_under_autocast(case, dtype):
    given_dtypes = (torch.float32, dtype)
    head = case.make(dtype=torch.float32).eval()
    linear = nn.Linear(case.in_features, 3)
    exact = all_logits(head(features(case, 6, dtype=torch.float32)))
    for given in given_dtypes:
        h = features(case, 6, dtype=torch.float32).to(given)
        with torch.autocast("cpu", dtype=dtype):
            ours, theirs = all_logits(head(h)), linear(h)
        assert ours.dtype == theirs.dtype == dtype
        error = (ours.float() - exact).abs().max()
        assert error <= 6 * torch.finfo(dtype).eps * exact.abs().max()


@pytest.mark.parametrize("orientation", ["tiled", "random"])
def test_float64_keeps_its_digits_under_autocast(orientation):
    head = ETFHead(12, 5, orientation=orientation, dtype=torch.float64)
    h = torch.randn(3, 12, dtype=torch.float64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(head(h), head(h.clone()))
        assert head(h).dtype == torch.float64


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_learned_scale_keeps_the_dtype_of_the_features(dtype):
    head = CompoundETFHead(12, [3, 4], bias=True, learn_scale=True)
    assert all_logits(head(torch.randn(2, 12, dtype=dtype))).dtype == dtype


@pytest.mark.parametrize("reduction", ["mean", "task", "none"])
@pytest.mark.parametrize(
    "case",
    [
        HeadCase(12, 5, "tiled"),
        HeadCase(12, 5, "random"),
        HeadCase(12, [3, 4], "tiled", {"bias": True}),
        HeadCase(12, [3, 3], "random", {"learn_scale": True}),
    ],
    ids=str,
)
def test_losses_are_float32_under_autocast(case, reduction):
    head = case.make(dtype=torch.float32)
    labels = torch.zeros(8, len(case.sizes), dtype=torch.int64)
    h = features(case, 8, dtype=torch.float32).requires_grad_()
    criterion = CompoundCrossEntropy(reduction=reduction)
    exact = criterion(h, head, labels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = criterion(h, head, labels)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, exact, rtol=0.02, atol=0.02)
    (gradient,) = torch.autograd.grad(loss.sum(), h)
    assert gradient.dtype == torch.float32
    (expected,) = torch.autograd.grad(exact.sum(), h)
    assert torch.cosine_similarity(gradient.flatten(), expected.flatten(), dim=0) > 0.999
