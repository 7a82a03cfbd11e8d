"""The nearest ETF of means of any scale that the dtype can hold."""

import pytest
import torch
from torch.autograd import gradcheck

from etf_heads.geometry import nearest_etf, nearest_orientation

SCALES = {torch.float64: (1e-300, 1e-160, 1e160, 1e300), torch.float32: (1e-36, 1e-20, 1e20, 1e36)}
EACH = [(dtype, scale) for dtype, scales in SCALES.items() for scale in scales]


def means_of(dtype, *shape):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(*shape, 12, generator=generator, dtype=torch.float64).to(dtype)


@pytest.mark.parametrize(("dtype", "scale"), EACH)
@pytest.mark.parametrize("tasks", [None, [3, 4]])
@pytest.mark.parametrize("proximal", [0.0, 0.5])
def test_the_scale_changes_nothing(dtype, scale, tasks, proximal):
    means = means_of(dtype, 7)
    expected = nearest_etf(means, tasks)
    found = nearest_etf(means * scale, tasks)
    atol = 1e-12 if dtype == torch.float64 else 1e-5
    torch.testing.assert_close(found, expected, rtol=0, atol=atol)
    expected = nearest_etf(means, tasks, proximal=proximal)
    found = nearest_etf(means * scale, tasks, proximal=proximal)
    torch.testing.assert_close(found, expected, rtol=0, atol=atol)


def test_powers_of_two_change_no_bit():
    means = means_of(torch.float64, 7)
    for exponent in (-900, -3, 5, 900):
        assert torch.equal(nearest_etf(means * 2.0**exponent), nearest_etf(means))


def test_batches_of_means_have_a_scale_each():
    means = means_of(torch.float64, 2, 7)
    scaled = means * torch.tensor([1e-160, 1e160], dtype=torch.float64)[:, None, None]
    torch.testing.assert_close(nearest_etf(scaled), nearest_etf(means), rtol=0, atol=1e-12)


def test_riemannian_descent_takes_every_scale():
    means = means_of(torch.float64, 4)
    expected = nearest_orientation(means, solver="riemannian")
    for scale in (1e-160, 1e160):
        found = nearest_orientation(means * scale, solver="riemannian")
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_zero_means_leave_the_frame_open_as_before():
    zero = torch.zeros(4, 6, dtype=torch.float64)
    expected = torch.eye(6, 3, dtype=torch.float64)
    assert torch.equal(nearest_orientation(zero), expected)


def test_gradients_scale_inversely():
    means = means_of(torch.float64, 4)
    upstream = means_of(torch.float64, 4)

    def gradient(scale):
        leaf = (means * scale).requires_grad_()
        return torch.autograd.grad((nearest_etf(leaf) * upstream).sum(), leaf)[0]

    expected = gradient(1.0)
    for scale in (1e-160, 1e160):
        torch.testing.assert_close(gradient(scale) * scale, expected, rtol=1e-9, atol=1e-12)
    leaf = means_of(torch.float64, 4).mul(1e3).requires_grad_()
    assert gradcheck(lambda h: nearest_etf(h, proximal=0.3), leaf, eps=1e-3)
