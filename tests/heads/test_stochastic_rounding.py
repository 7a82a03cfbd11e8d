"""Rounding at random: to a neighbour, right on average, and the same wherever it is done."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from etf_heads.heads._stochastic_rounding import _mixed, stochastically_rounded

FINITE = st.floats(-(2.0**100), 2.0**100, width=32)


def rounded(values, step=0, rows=None):
    rows = torch.arange(len(values)) if rows is None else rows
    return stochastically_rounded(values, rows, torch.tensor(step))


@given(values=st.lists(FINITE, min_size=1, max_size=8), step=st.integers(0, 10**9))
def test_a_number_goes_to_one_of_its_neighbours(values, step):
    exact = torch.tensor(values)[:, None]
    found = rounded(exact, step)
    # Truncated bits are the neighbour towards zero; one more in the last place is the other.
    bits = exact.view(torch.int32) & -0x10000
    nearer, farther = bits.view(torch.float32), (bits + 0x10000).view(torch.float32)
    assert found.dtype == torch.bfloat16
    assert ((found == nearer) | (found == farther)).all()
    assert torch.equal(rounded(nearer, step).float(), nearer)  # exact ones stay


def test_it_is_right_on_average():
    values = torch.linspace(-2, 2, 4001)[:, None].expand(-1, 500).contiguous()
    error = (rounded(values).double() - values).mean(1)
    digit = 2.0**-7  # the last digit of numbers between 1 and 2
    assert error.abs().max() < 5 * digit / 2 / 500**0.5
    assert error.mean().abs() < 5 * digit / 2 / values.numel() ** 0.5


def test_steps_rows_and_columns_are_rounded_independently():
    values = torch.full((64, 64), 1 + 2.0**-8)  # halfway: up or down with equal chances
    ups = torch.stack([rounded(values, step) > 1 for step in range(64)]).double() - 0.5
    for axis in range(3):
        apart = (ups.narrow(axis, 0, 63) * ups.narrow(axis, 1, 63)).mean()
        assert apart.abs() < 5 * 0.25 / (63 * 64 * 64) ** 0.5
    rows = torch.tensor([3, 40])
    assert torch.equal(rounded(values[:2], 7, rows), rounded(values, 7)[rows])


def test_the_hash_is_splitmix64():
    """Values of an independent implementation, of integers without sign."""

    def reference(z):
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
        return z ^ (z >> 31)

    numbers = [0, 1, 2, 12345, 2**62 + 17, -1, -(2**63)]
    found = _mixed(torch.tensor(numbers)).tolist()
    assert [n % 2**64 for n in found] == [reference(n % 2**64) for n in numbers]
