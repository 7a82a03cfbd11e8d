"""Cost of finding the simplex ETF nearest to K class means in d dimensions.

    python -m benchmarks.nearest_etf                     # everything: some minutes
    python -m benchmarks.nearest_etf --shapes 512x100    # one size
    python -m benchmarks.nearest_etf --limit 600         # give slow solvers ten minutes each

Every solver but one maximises the same linear objective <P, B> over matrices P with orthonormal
columns, B = HᵀE the (d, K - 1) class means in Helmert coordinates (geometry.nearest_etf):

    polar              etf_heads.geometry.nearest_etf, float64
    polar-float32      the same in float32, as in training
    pymanopt           Riemannian trust region, at most 30 iterations, analytic derivatives;
                       pip install pymanopt
    pymanopt-paper     the same on the paper's objective, |H/|H| - P M/sqrt(K-1)|² over d x K
                       matrices P (M = I - 11ᵀ/K), without its proximal term
    geoopt-sgd         etf_heads.geometry.riemannian_polar: RiemannianSGD with momentum
    geoopt-adam        RiemannianAdam, lr 0.2, at most 1000 steps
                       (RiemannianLineSearch of geoopt 0.5.1 breaks on current versions of scipy)

All start from the first coordinates. Each is measured in a process of its own, which is stopped
after --limit seconds: its entry then says so. "forward_backward" is measured for the polar only:
the others have no gradient (the paper's declarative backward solves K² x K² systems; in float64
their matrix alone would take 8 K⁴ bytes: 0.8 GB at K = 100 and 8 TB at K = 1,000).

Last, the cost of a training step of the heads, on a batch of 128, beside that of nn.Linear with
AdamW and of a ResNet-18 on 32 x 32 images (forward and backward, no optimiser).

Times are medians over at least --seconds seconds of calls, or of one call that takes longer.
Memory is the peak resident size of the process above what it had before the solver, in bytes (on
a GPU, its peak allocation), inputs not counted. Use OMP_NUM_THREADS to fix the number of CPU
threads: with other work on the machine, one is steadiest. The result is JSON with commit,
versions, device and date.
"""

from __future__ import annotations

import math
import warnings
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import torch
import tyro
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.harness import (
    DEVICE,
    RESULTS,
    in_own_process,
    numbers_by_x,
    peak,
    reset_peak,
    timings,
    write_result,
)
from etf_heads import ClassMeanHead, ETFHead, NearestETFHead
from etf_heads.geometry import (
    helmert_contract,
    helmert_expand,
    nearest_etf,
    riemannian_polar,
    simplex_scale,
)

Shape = Annotated[tuple[int, ...], numbers_by_x("DxK")]
SHAPES = ((64, 10), (512, 10), (512, 100), (2048, 1000))
BATCH = 128
TOLERANCE = 1e-8  # the norm of the Riemannian gradient at which rivals stop


def main(
    *,
    shapes: tuple[Shape, ...] = SHAPES,
    limit: float = 120,
    seconds: float = 1,
    device: str = DEVICE,
    output: Path = RESULTS / "nearest_etf.json",
) -> None:
    """Measure all solvers and heads, and write it.

    Args:
        shapes: sizes to measure.
        limit: seconds for each measurement.
        seconds: least time spent on one timing.
        device: where to measure: cpu, cuda, ...
        output: JSON file to write.
    """

    def entry(measure: Callable[..., Any], name: str, dim: int, classes: int) -> dict[str, Any]:
        what = {"name": name, "dim": dim, "classes": classes}
        setting = {"device": device, "seconds": seconds}
        found = what | in_own_process(measure, limit=limit, **what, **setting)
        _show(found)
        return found

    solvers, steps = [], []
    for shape in shapes:
        solvers += [entry(measure_solver, solver, *shape) for solver in SOLVERS]
        steps += [entry(measure_step, head, *shape) for head in HEADS]
    steps.append(entry(measure_step, "resnet18", 512, 100))
    result = {"limit_s": limit, "solvers": solvers, "training_step": steps}
    write_result(output, device, result)


# --- solvers: class means (K, d) -> frame (K, d)


def _helmert_form(means: Tensor) -> Tensor:
    matrix = helmert_contract(means.mT)
    return matrix / torch.linalg.matrix_norm(matrix, 2)


def _frame(orientation: Tensor) -> Tensor:
    return helmert_expand(orientation).mT * simplex_scale(orientation.shape[1] + 1)


def _geoopt_sgd(means: Tensor) -> Tensor:
    matrix = _helmert_form(means)
    return _frame(
        riemannian_polar(matrix, torch.eye(*matrix.shape).to(matrix), tolerance=TOLERANCE)
    )


def _geoopt_adam(means: Tensor) -> Tensor:
    warnings.filterwarnings("ignore", message=".*torch.jit.*")
    import geoopt  # noqa: PLC0415

    matrix = _helmert_form(means)
    point = geoopt.ManifoldParameter(
        torch.eye(*matrix.shape).to(matrix), manifold=geoopt.EuclideanStiefel()
    )
    optimizer = geoopt.optim.RiemannianAdam([point], lr=0.2)
    for _ in range(1000):
        ascent = point.manifold.egrad2rgrad(point.detach(), matrix)
        if torch.linalg.matrix_norm(ascent) < TOLERANCE:
            break
        point.grad = -matrix
        optimizer.step()
    return _frame(point.detach())


def _pymanopt(means: Tensor) -> Tensor:
    import numpy as np  # noqa: PLC0415

    matrix = _helmert_form(means).cpu().numpy()
    found = _trust_region(
        matrix.shape,
        lambda point: -float(np.vdot(point, matrix)),
        lambda _: -matrix,
        lambda _, direction: np.zeros_like(direction),
    )
    return _frame(torch.as_tensor(found, device=means.device))


def _pymanopt_paper(means: Tensor) -> Tensor:
    import numpy as np  # noqa: PLC0415

    classes = len(means)
    centred = (means - means.mean(0)).mT.cpu().numpy()
    centred = centred / np.linalg.norm(centred)
    code = (np.eye(classes) - 1 / classes) / math.sqrt(classes - 1)
    found = _trust_region(
        centred.shape,
        lambda point: float(((centred - point @ code) ** 2).sum()),
        lambda point: 2 * (point @ code - centred) @ code,
        lambda _, direction: 2 * direction @ code @ code,
    )
    frame = math.sqrt(classes) * (found @ code).T
    return torch.as_tensor(frame, device=means.device)


def _trust_region(
    shape: tuple[int, int],
    cost: Callable[[Any], float],
    gradient: Callable[[Any], Any],
    hessian: Callable[[Any, Any], Any],
) -> Any:
    import numpy as np  # noqa: PLC0415
    import pymanopt  # noqa: PLC0415

    manifold = pymanopt.manifolds.Stiefel(*shape)
    wrap = pymanopt.function.numpy(manifold)
    problem = pymanopt.Problem(
        manifold, wrap(cost), euclidean_gradient=wrap(gradient), euclidean_hessian=wrap(hessian)
    )
    optimizer = pymanopt.optimizers.TrustRegions(
        max_iterations=30, max_time=math.inf, min_gradient_norm=TOLERANCE, verbosity=0
    )
    return optimizer.run(problem, initial_point=np.eye(*shape)).point


SOLVERS: dict[str, Callable[[Tensor], Tensor]] = {
    "polar": nearest_etf,
    "polar-float32": nearest_etf,
    "pymanopt": _pymanopt,
    "pymanopt-paper": _pymanopt_paper,
    "geoopt-sgd": _geoopt_sgd,
    "geoopt-adam": _geoopt_adam,
}


def measure_solver(name: str, dim: int, classes: int, device: str, seconds: float) -> Any:
    """Time, memory and accuracy of one solver at one size."""
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(classes, dim, generator=generator, dtype=torch.float64).to(device)
    solve, exact = SOLVERS[name], means
    if name == "polar-float32":
        means = means.float()
    solve(means[:3, :8])  # what libraries set up once
    before, last = reset_peak(device), deque[Tensor](maxlen=1)
    forward = _time(lambda: last.append(solve(means)), device, seconds)
    entry: dict[str, Any] = {"forward": forward}
    entry["memory"] = peak(device) - before
    if name.startswith("polar"):
        upstream = torch.ones_like(means)

        def forward_backward() -> None:
            solve(means.requires_grad_()).backward(upstream)

        forward_backward()
        entry["memory_forward_backward"] = peak(device) - before
        entry["forward_backward"] = _time(forward_backward, device, seconds)
    centred = exact - exact.mean(0)
    frame, best = last[0].detach(), nearest_etf(exact)
    entry["distance_to_polar"] = (frame.double() - best).abs().max().item()
    gap = (centred * (best - frame.double())).sum() / (centred * best).sum()
    entry["objective_below_polar"] = gap.item()
    return entry


# --- heads: one training step


HEADS: dict[str, Callable[[int, int], nn.Module]] = {
    "linear": nn.Linear,
    "etf": ETFHead,
    "class-mean": ClassMeanHead,
    "nearest": NearestETFHead,
    "nearest-gradient": partial(NearestETFHead, gradient=True),
}


def measure_step(name: str, dim: int, classes: int, device: str, seconds: float) -> Any:
    """Seconds of a training step of one head, or of the backbone alone."""
    labels = torch.arange(BATCH, device=device) % classes
    if name == "resnet18":
        from torchvision.models import resnet18  # noqa: PLC0415

        network, inputs = resnet18(num_classes=classes), torch.randn(BATCH, 3, 32, 32)
    else:
        network, inputs = HEADS[name](dim, classes), torch.randn(BATCH, dim)
    network, inputs = network.to(device), inputs.to(device)
    parameters = list(network.parameters()) if name == "linear" else []
    optimizer = torch.optim.AdamW(parameters) if parameters else None
    observes = isinstance(network, NearestETFHead | ClassMeanHead)

    def step() -> None:
        features = inputs.detach().requires_grad_()
        logits = network(features, labels) if observes else network(features)
        F.cross_entropy(logits, labels).backward()
        if optimizer is not None:
            optimizer.step()
            optimizer.zero_grad()

    step()
    return {"step": _time(step, device, seconds)}


# --- measuring


def _time(call: Callable[[], Any], device: str, seconds: float) -> dict[str, Any]:
    times = timings(call, device, seconds=seconds, most=1000)
    return {"median_s": median(times), "min_s": min(times), "n": len(times)}


def _show(entry: dict[str, Any]) -> None:
    times = {
        key: f"{entry[key]['median_s']:.4g} s"
        for key in ("forward", "forward_backward", "step")
        if key in entry
    }
    rest = {key: entry[key] for key in ("distance_to_polar", "stopped", "failed") if key in entry}
    print(f"{entry['dim']}x{entry['classes']} {entry['name']}: {times | rest}", flush=True)


if __name__ == "__main__":
    tyro.cli(main, prog="python -m benchmarks.nearest_etf", description=__doc__)
