"""The random orientation is the Q of its seed's Gaussian matrix for which R's diagonal is positive.

QR alone leaves the signs to the library, and then the law is not Haar's (Mezzadri, "How to generate
random matrices from the classical compact groups", 2007).
"""

import pytest
import torch

from etf_heads.orientation import RandomOrientation


@pytest.mark.parametrize("seed", range(3))
def test_signs_do_not_depend_on_the_library(seed):
    generator = torch.Generator().manual_seed(seed)
    gaussian = torch.randn(20, 6, generator=generator, dtype=torch.float64)
    matrix = RandomOrientation(20, 6, seed=seed, dtype=torch.float64).matrix()
    triangle = matrix.T @ gaussian
    torch.testing.assert_close(triangle.tril(-1), torch.zeros(6, 6, dtype=torch.float64))
    assert (triangle.diagonal() > 0).all()
    torch.testing.assert_close(matrix @ triangle, gaussian)
