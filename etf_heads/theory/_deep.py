"""Several layers above free features: collapse against solutions of lower rank."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from etf_heads._tasks import class_count, positive_int
from etf_heads.theory._checks import positive


class DeepUnconstrainedFeatureModel(nn.Module):
    r"""L linear layers with ReLU between them above features that are free variables.

    Sukenik, Mondelli, Lampert ("Deep neural collapse is provably optimal for the deep
    unconstrained features model", NeurIPS 2023, two classes; "Neural collapse versus low-rank
    bias", NeurIPS 2024, more classes, where collapse is not optimal). With N = nK samples, whose
    features are alike within a class at the optimum, and no biases,

    .. math:: \frac{1}{2N} \|W_L\, \sigma(W_{L-1} \cdots \sigma(W_1 H_1)) - Y\|^2
              + \frac\lambda2 \left(\sum_l \|W_l\|^2 + \|H_1\|^2\right)

    Args:
        num_classes: K.
        depth: L >= 1 layers above the features.
        lambda_: λ of all layers and of the features.
        n: samples a class.
        width: dimensions of the features and between the layers; K when None.
        loss: loss of each sample, from logits (K, K) and labels (K,); half the squared distance to
            the one-hot label when None. :class:`CrossEntropy` is one.
        activation: σ; None for a deep linear model.
        generator: draws the starting point; the global generator when None.

    Attributes:
        features: H_1ᵀ of shape (K, width), one row a class.
        layers: the weights W_1, ..., W_L.

    Raises:
        ValueError: if a number is not possible.

    Example:
        >>> model = DeepUnconstrainedFeatureModel(4, depth=2, lambda_=1e-3, n=1)
        >>> model.logits().shape, len(model.layers)
        (torch.Size([4, 4]), 2)
    """

    def __init__(
        self,
        num_classes: int,
        depth: int,
        lambda_: float,
        *,
        n: float = 1,
        width: int | None = None,
        loss: Callable[[Tensor, Tensor], Tensor] | None = None,
        activation: Callable[[Tensor], Tensor] | None = torch.relu,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        K = class_count(num_classes, "num_classes")
        depth = positive_int(depth, "depth")
        positive(lambda_=lambda_, n=n)
        width = K if width is None else positive_int(width, "width")
        self.lambda_, self.n = lambda_, n
        self.loss = loss or _squared_error
        self.activation = activation
        shapes = [(width, width)] * (depth - 1) + [(K, width)]
        self.features = nn.Parameter(_drawn((K, width), generator))
        self.layers = nn.ParameterList([_drawn(shape, generator) for shape in shapes])

    def outputs(self) -> list[Tensor]:
        """Outputs of every layer before its activation, classes as rows; the last are logits."""
        hidden: Tensor = self.features
        found: list[Tensor] = []
        for weight in self.layers:
            found.append(hidden @ weight.T)
            hidden = self.activation(found[-1]) if self.activation else found[-1]
        return found

    def logits(self) -> Tensor:
        """Logits of one sample of each class, shape (K, K)."""
        return self.outputs()[-1]

    @torch.no_grad()
    def ranks(self, cut: float = 0.05) -> list[int]:
        """Rank of every layer's output before its activation: singular values above cut·largest."""
        spectra = [torch.linalg.svdvals(output) for output in self.outputs()]
        return [int((values > cut * values[0]).sum()) for values in spectra]

    def forward(self) -> Tensor:
        """The objective, a scalar."""
        labels = torch.arange(len(self.features), device=self.features.device)
        decay = self.n * self.features.square().sum()
        for weight in self.layers:
            decay = decay + weight.square().sum()
        return self.loss(self.logits(), labels).mean() + 0.5 * self.lambda_ * decay


def deep_collapse_value(num_classes: int, depth: int, lambda_: float, n: float = 1) -> float:
    r"""Objective of the best collapsed solution: K equal chains that do not interact.

    .. math:: \min_s \tfrac12 (1-s)^2 + \tfrac\lambda2 K (L+1) (n s^2)^{1/(L+1)}

    It is a local minimum of :class:`DeepUnconstrainedFeatureModel` under squared error, and with
    many classes or layers not the global one: :func:`triangular_graph_value` can be lower.

    Args:
        num_classes: K.
        depth: L.
        lambda_: λ.
        n: samples a class.

    Raises:
        ValueError: if a number is not possible.

    Example:
        >>> round(deep_collapse_value(10, depth=4, lambda_=0.004), 6)
        0.09918
        >>> round(triangular_graph_value(5, depth=4, lambda_=0.004), 6)
        0.087653
    """
    return _chain_value(class_count(num_classes, "num_classes"), depth, lambda_, n)


def triangular_graph_value(r: int, depth: int, lambda_: float, n: float = 1) -> float:
    r"""Objective of a solution of rank r for K = r(r-1)/2 classes, the edges of a complete graph.

    The strongly regular graph construction of "Neural collapse versus low-rank bias", rebuilt here
    (its exact constants were not compared): inner layers put out multiples of the vertex-edge
    incidence matrix :math:`B \in \{0, 1\}^{r \times K}` of :math:`K_r`, the last but one
    :math:`B^\top B - \beta\, \mathbf{11}^\top` of rank r, whose ReLU has full rank, and the last
    layer inverts that. The regulariser is that of collapse times

    .. math:: \frac1K \left[\nu^2\, r^{L-3}\, \|B^\top - \tfrac\beta2 \mathbf{11}^\top\|^2\,
              \|\sigma(B^\top B - \beta \mathbf{11}^\top)^{-1}\|^2\right]^{1/(L+1)}, \qquad
              \nu = (r-1)\sqrt{r-2} + \sqrt{2r-2}

    at the best β. Below 1 the collapsed solution is not optimal: at L = 4 from K = 6 on; at L = 3
    from K = 45 on.

    Args:
        r: vertices, at least 4.
        depth: L >= 3.
        lambda_: λ.
        n: samples a class.

    Raises:
        ValueError: if a number is not possible.
    """
    if positive_int(r, "r") < 4:
        raise ValueError(f"r={r}: the graph needs at least 4 vertices")
    if positive_int(depth, "depth") < 3:
        raise ValueError(f"depth={depth}: the construction needs at least 3 layers")
    K = r * (r - 1) // 2
    nuclear = (r - 1) * math.sqrt(r - 2) + math.sqrt(2 * r - 2)
    # Eigenvalues of the graph of edges that share a vertex, with their multiplicities.
    adjacency = ((2 * (r - 2), 1), (r - 4, r - 1), (-2, K - r))

    def product(beta: float) -> float:
        lift = K * (2 * (1 - beta / 2) ** 2 + (r - 2) * beta**2 / 4)
        inverse = sum(m / (2 - beta + (1 - beta) * theta) ** 2 for theta, m in adjacency)
        return nuclear**2 * r ** (depth - 3) * lift * inverse

    best = product(_least(product, 0.5, 1.0))
    return _chain_value(K, depth, lambda_, n, best ** (1 / (depth + 1)) / K)


def schatten_value(logits: Tensor, factors: int, lambda_: float) -> float:
    r"""Least objective of a deep linear model with these logits, under cross-entropy.

    With the logits a product of m factors, layers and features, each decayed by λ/2 (Garrod and
    Keating, "The persistence of neural collapse despite low-rank bias", 2024),

    .. math:: \frac1K \sum_k \mathrm{CE}(z_k, k) + \frac{\lambda m}{2} \sum_i \sigma_i(Z)^{2/m}

    a Schatten quasi-norm, which for m > 2 favours low rank over the simplex's K - 1.

    Args:
        logits: Z of shape (K, K); row k is of class k.
        factors: m, which is L + 1 for L layers.
        lambda_: λ.

    Raises:
        ValueError: if the logits are not square, or a number is not possible.

    Example:
        >>> square = torch.eye(4).double() - torch.eye(4).double().roll(2, 0)  # rank 2
        >>> simplex = torch.eye(4).double() - 1 / 4
        >>> low, collapsed = (schatten_value(z, 4, 1e-3) for z in (8 * square, 9 * simplex))
        >>> low < collapsed
        True
    """
    if logits.ndim != 2 or logits.shape[0] != logits.shape[1]:
        raise ValueError(f"logits has shape {tuple(logits.shape)}; expected (K, K)")
    positive(lambda_=lambda_)
    m = positive_int(factors, "factors")
    logits = logits.double()
    loss = F.cross_entropy(logits, torch.arange(len(logits), device=logits.device))
    return float(loss + 0.5 * lambda_ * m * torch.linalg.svdvals(logits).pow(2 / m).sum())


def _chain_value(
    num_classes: int, depth: int, lambda_: float, n: float, factor: float = 1.0
) -> float:
    """Collapse with its regulariser times a factor; s = 0 is a local minimum of its own."""
    positive(lambda_=lambda_, n=n)
    power = 1 / (positive_int(depth, "depth") + 1)
    price = 0.5 * lambda_ * num_classes * (depth + 1) * n**power * factor

    def objective(s: float) -> float:
        return 0.5 * (1 - s) ** 2 + price * s ** (2 * power)

    # Its slope is s - 1 + c s^(2 power - 1): concave, then convex from the inflection on.
    bend = (2 * power * (1 - 2 * power) * price) ** (1 / (2 - 2 * power)) if depth > 1 else 0.0
    s = _least(objective, min(bend, 1.0), 1.0)
    return min(objective(s), 0.5)


def _least(function: Callable[[float], float], low: float, high: float) -> float:
    """Minimiser of a function of one minimum between low and high, by ternary search."""
    for _ in range(200):
        left, right = low + (high - low) / 3, high - (high - low) / 3
        if function(left) > function(right):
            low = left
        else:
            high = right
    return (low + high) / 2


def _squared_error(logits: Tensor, labels: Tensor) -> Tensor:
    targets = F.one_hot(labels, logits.shape[-1]).to(logits.dtype)
    return 0.5 * (logits - targets).square().sum(-1)


def _drawn(shape: tuple[int, int], generator: torch.Generator | None) -> Tensor:
    """Normal, of variance one over the columns, float64."""
    return torch.randn(shape, generator=generator, dtype=torch.float64) / math.sqrt(shape[1])
