"""Numerical errors of results, in units that make sizes comparable.

Each function takes classes K, features d and a dtype and returns the largest error found. The
oracles are float64: definitions that a right result satisfies, or NumPy on the same rounded input.
"""

from functools import lru_cache

import numpy as np
import torch

from etf_heads import ETFHead
from etf_heads.collapse import ClassStatistics, single_task_collapse
from etf_heads.geometry import nearest_etf, polar
from tests.collapse import collapse_reference as reference
from tests.numerics.bounds import SIZES

SAMPLES = 8


def random(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def extended(tensor):
    """As extended precision numbers: sums in float64 have errors as large as those looked for."""
    return tensor.detach().double().numpy().astype(np.longdouble)


def worst(difference):
    return float(abs(difference).max())


def gram_error(vectors):
    """Of the cosines between a few of the vectors and all, to those of the simplex ETF."""
    classes = len(vectors)
    rows = np.unique(np.linspace(0, classes - 1, SAMPLES).astype(int))
    expected = np.full((len(rows), classes), -1 / np.longdouble(classes - 1))
    expected[np.arange(len(rows)), rows] = 1
    return worst(extended(vectors)[rows] @ extended(vectors).T - expected)


@lru_cache(maxsize=len(SIZES))  # the quantities follow one another
def head_of(classes, dim, dtype, orientation):
    """A head of one task."""
    return ETFHead(dim, classes, orientation=orientation, dtype=dtype)


@lru_cache(maxsize=len(SIZES))  # and so do the dtypes
def dense(classes, dim, orientation):
    """The class vectors, from the head's parts in float64."""
    head = ETFHead(dim, classes, orientation=orientation, dtype=torch.float64)
    return extended(head.code.matrix() @ head.orientation.matrix().T)


def gram(classes, dim, dtype, orientation):
    """Cosines between class vectors, to those of the simplex ETF."""
    return gram_error(head_of(classes, dim, dtype, orientation).weight)


def logits(classes, dim, dtype, orientation):
    """Logits, to the dense float64 product with the same features; by the length of these."""
    features = random(SAMPLES, dim).to(dtype)
    exact = dense(classes, dim, orientation)
    found = head_of(classes, dim, dtype, orientation)(features)
    h = extended(features)
    return worst((extended(found) - h @ exact.T) / _lengths(h))


def gradients(classes, dim, dtype, orientation):
    """The gradient of the features, to the dense one; by the length of the logits' gradient."""
    features = random(SAMPLES, dim).to(dtype).requires_grad_()
    upstream = random(SAMPLES, classes, seed=1).to(dtype)
    exact = dense(classes, dim, orientation)
    head = head_of(classes, dim, dtype, orientation)
    (found,) = torch.autograd.grad(head(features), features, upstream)
    g = extended(upstream)
    return worst((extended(found) - g @ exact) / _lengths(g))


def _lengths(rows):
    return np.sqrt((rows**2).sum(1, keepdims=True))


def orthonormality(classes, dim, dtype):
    """Of the polar factor's columns, for a matrix of condition 10."""
    _, factor = _polar(classes, dim, dtype)
    columns = extended(factor[:, :: max(1, factor.shape[1] // SAMPLES)])
    return worst(columns.T @ columns - np.eye(columns.shape[1]))


def polar_optimality(classes, dim, dtype):
    """How far PᵀB is from symmetric, which it is for the polar factor only."""
    matrix, factor = _polar(classes, dim, dtype)
    few = slice(None, None, max(1, factor.shape[1] // SAMPLES))
    forth = extended(factor[:, few]).T @ extended(matrix[:, few])
    return worst(forth - forth.T)  # the largest singular value of B is 1


@lru_cache(maxsize=len(SIZES))
def _polar(classes, dim, dtype):
    columns = classes - 1
    left, right = torch.linalg.qr(random(dim, columns)).Q, torch.linalg.qr(random(columns, columns))
    spectrum = torch.logspace(0, -1, columns, dtype=torch.float64)
    matrix = ((left * spectrum) @ right.Q.T).to(dtype)
    return matrix.double(), polar(matrix).double()


def nearest(classes, dim, dtype):
    """Cosines of the ETF nearest to random means, to those of the simplex ETF."""
    return gram_error(nearest_etf(random(classes, dim).to(dtype)))


def collapse(classes, dim, dtype):
    """Measures of collapse to NumPy's in two passes; relative for those above 1."""
    labels = torch.arange(2 * classes) % classes
    weight = random(classes, dim, seed=2)
    features = (weight[labels] + 0.3 * random(2 * classes, dim)).to(dtype)
    statistics = ClassStatistics.from_batch(features, labels, covariance=False)
    found = single_task_collapse(statistics, weight)
    h, W = features.double().numpy(), weight.numpy() - weight.numpy().mean(0)
    means = h.reshape(2, classes, dim).mean(0)
    M = means - means.mean(0)
    within = ((h.reshape(2, classes, dim) - means) ** 2).sum() / len(h)
    expected = {
        "nc1_ratio": within / ((M**2).sum() / classes),
        "nc2_norms_means": reference.norms(M),
        "nc2_angles_means": _angles(M),
        "nc2_gram_means": reference.simplex_distance(M @ M.T),
        "nc2_norms_weights": reference.norms(W),
        "nc3": ((W / np.linalg.norm(W) - M / np.linalg.norm(M)) ** 2).sum(),
    }
    return float(max(abs(found[n] - value) / max(value, 1) for n, value in expected.items()))


def _angles(vectors):
    cosines = reference.unit(vectors) @ reference.unit(vectors).T
    off = ~np.eye(len(vectors), dtype=bool)
    return np.abs(cosines + 1 / (len(vectors) - 1))[off].mean()
