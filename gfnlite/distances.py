"""Distances between two samples, and their floors: what exact samples score against exact samples.

All need exact samples of the target. `w2` and `sinkhorn` are lengths, in the units of x; `mmd` is a
squared distance between densities, at most 2, and the only one whose floor is zero on average.
Samples may be tensors, arrays or lists.
"""

import hashlib
import math
import warnings
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from .arguments import floats, positive
from .extras import need
from .targets import Target

__all__ = ["distances_to", "mmd", "mmd_floor", "sinkhorn", "sinkhorn_floor", "w2", "w2_floor"]

REG = 0.05  # of the mean squared distance: blurs over a fifth of the sample's diameter
TOLERANCE = 1e-3  # error of a plan's marginals that still gives a good cost
LARGEST_EXPONENT = 500.0  # exp(-500) is still a float64, exp(-746) is not

_floors: dict[tuple, float] = {}


def w2(x: Tensor, y: Tensor) -> float:
    """Exact 2-Wasserstein distance (not squared) between two samples (n, d), (m, d).

    Raises:
        ImportError: without the package POT (`pip install 'gfnlite[transport]'`).
        ValueError: if the samples' dimensions differ, or one is empty or not finite.
    """
    x, y = _check(x, y)
    # Uniform weights; the default of 1e5 network-simplex steps is too few for 2000 points.
    cost = _squared_distances(x, y).cpu().numpy()
    return math.sqrt(need("ot", "transport").emd2([], [], cost, numItermax=10_000_000))


def sinkhorn(x: Tensor, y: Tensor, reg: float | None = None) -> float:
    """Square root of the debiased Sinkhorn divergence of two samples (n, d), (m, d).

    With OT(x, y) the least cost of a plan, squared distances + reg KL(plan | independence), it is
    S = OT(x, y) - OT(x, x) / 2 - OT(y, y) / 2: zero for equal samples, and its square root tends to
    W2 as reg -> 0. A larger reg needs fewer samples (Feydy et al. 2019, arXiv:1810.08278).

    Args:
        x: samples to judge (n, d).
        y: reference samples (m, d).
        reg: entropic regularisation, a squared length; None takes 5% of the mean squared distance
            within y, so that all samplers of a target share it (more if x is extremely far away).

    Raises:
        ImportError: without the package POT (`pip install 'gfnlite[transport]'`).
        ValueError: if the samples' dimensions differ, one is empty or not finite, or reg is not
            positive.
    """
    x, y = _check(x, y)
    reg = None if reg is None else positive("reg", reg)
    ot = need("ot", "transport")
    costs = [_squared_distances(a, b).cpu().numpy() for a, b in ((x, y), (x, x), (y, y))]
    furthest = max(cost.max() for cost in costs)
    if reg is None:
        reg = max(REG * costs[2].mean(), furthest / LARGEST_EXPONENT) or 1.0
    # The plain iteration is several times faster than the one on logarithms, where it is safe.
    method = "sinkhorn" if furthest <= LARGEST_EXPONENT * reg else "sinkhorn_log"

    def dual(cost):
        # POT's plan is exp(log_u + log_v - cost / reg), so OT is reg times the means of log_u and
        # log_v, plus logarithms of the sample sizes that cancel below.
        settings = {"method": method, "stopThr": 1e-6, "numItermax": 2000, "warn": False}
        with np.errstate(over="ignore"):  # of exp(log_u), which is not used
            _, log = ot.sinkhorn([], [], cost, reg, log=True, **settings)
        if not log["err"][-1] < TOLERANCE:
            warnings.warn(f"sinkhorn has not converged, reg={reg:.3g} is too small", stacklevel=3)
        logs = method == "sinkhorn_log"
        u, v = (log["log_u"], log["log_v"]) if logs else (np.log(log["u"]), np.log(log["v"]))
        return reg * float(u.mean() + v.mean())

    between, within_x, within_y = (dual(cost) for cost in costs)
    return math.sqrt(max(0.0, between - (within_x + within_y) / 2))


def mmd(x: Tensor, y: Tensor, bandwidth: float | None = None) -> float:
    """Unbiased estimate of the squared maximum mean discrepancy of two samples (n, d), (m, d).

    `mean_{i != j} k(x_i, x_j) + mean_{i != j} k(y_i, y_j) - 2 mean_{i, j} k(x_i, y_j)`, for the
    kernel `k = exp(-|x - y|^2 / 2 h^2)` (Gretton et al. 2012, JMLR 13). Its expectation is
    zero for equal densities, so single values may be negative.

    Args:
        x: samples (n, d), n at least 2.
        y: samples (m, d), m at least 2.
        bandwidth: h, a length; None takes the median distance in the pooled sample.

    Raises:
        ValueError: for samples of different dimensions, of less than two points or not finite, or
            a bandwidth <= 0.
    """
    x, y = _check(x, y)
    if min(len(x), len(y)) < 2:
        raise ValueError(f"mmd needs at least 2 samples of each, got {len(x)} and {len(y)}")
    bandwidth = None if bandwidth is None else positive("bandwidth", bandwidth)
    x, y = x.double(), y.double()
    # pdist leaves out the diagonal, whose ones are the bias of the plain estimate.
    pairs = (torch.pdist(x), torch.pdist(y), _squared_distances(x, y).sqrt().flatten())
    h = torch.cat(pairs).median() if bandwidth is None else torch.tensor(bandwidth)
    scale = h.clamp_min(torch.finfo(x.dtype).tiny ** 0.25)  # all points equal: still no 0 / 0
    within_x, within_y, between = ((-0.5 * (r / scale).square()).exp().mean() for r in pairs)
    return (within_x + within_y - 2 * between).item()


def w2_floor(target: Target, n: int, repeats: int = 3, seed: int = 0) -> float:
    """Mean W2 between two exact samples of size n: what a perfect sampler would score.

    Raises:
        ValueError: if the target has no exact samples; so do the other floors.
    """
    return _floor(w2, _mean, target, n, repeats, seed)


def sinkhorn_floor(target: Target, n: int, repeats: int = 3, seed: int = 0) -> float:
    """Mean of `sinkhorn` between two exact samples of size n."""
    return _floor(sinkhorn, _mean, target, n, repeats, seed)


def mmd_floor(target: Target, n: int, repeats: int = 8, seed: int = 0) -> float:
    """Root mean square of `mmd` between two exact samples of size n: noise, as its mean is 0."""
    return _floor(mmd, _root_mean_square, target, n, repeats, seed)


def distances_to(
    target: Target, x: Tensor, exact: Tensor | None, names: Sequence[str]
) -> dict[str, float | None]:
    """Each named distance of samples x from exact ones, and its floor; None where unknown.

    Args:
        target: whose exact samples give the floors.
        x: samples to judge (n, d); as many are used as there are exact ones.
        exact: exact samples (m, d), or None.
        names: of "w2", "sinkhorn", "mmd".

    Raises:
        ValueError: if x is not finite and there are exact samples.
    """
    functions = {"w2": (w2, w2_floor), "sinkhorn": (sinkhorn, sinkhorn_floor)}
    functions["mmd"] = mmd, mmd_floor
    found = {}
    for name in names:
        distance, floor = functions[name]
        value = least = None
        if exact is not None:
            try:
                value, least = distance(x[: len(exact)], exact), floor(target, len(exact))
            except ImportError as error:  # an extra: everything else is still worth knowing
                warnings.warn(f"{name} left out: {error}", stacklevel=4)
        found |= {name: value, f"{name}_floor": least}
    return found


def _floor(
    distance: Callable, average: Callable, target: Target, n: int, repeats: int, seed: int
) -> float:
    generator = torch.Generator().manual_seed(seed)
    exact = target.to("cpu").sample
    if exact is None or target.condition_dim:
        raise ValueError(f"target '{target.name}' has no exact samples to measure a floor with")
    pairs = [(exact(n, generator), exact(n, generator)) for _ in range(repeats)]
    # Every sampler holds its own copy of the target, so what is remembered goes by the samples.
    digest = hashlib.sha256(pairs[0][0].numpy().tobytes()).hexdigest()
    key = (distance.__name__, digest, n, repeats, seed)
    if key not in _floors:
        _floors[key] = average([distance(x, y) for x, y in pairs])
    return _floors[key]


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _root_mean_square(values: list[float]) -> float:
    return math.sqrt(_mean([value**2 for value in values]))


def _check(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Both as tensors; refused if they do not compare, as the transport of NaN would cost 0."""
    x, y = floats("x", x).detach(), floats("y", y).detach()
    shapes = f"{tuple(x.shape)} and {tuple(y.shape)}"
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or 0 in (*x.shape, *y.shape):
        raise ValueError(f"x and y must be (n, d) and (m, d), none empty, got {shapes}")
    bad = [int((~v.isfinite()).any(1).sum()) for v in (x, y)]
    if any(bad):
        raise ValueError(f"x and y must be finite: {bad[0]} points of x and {bad[1]} of y are not")
    return x, y


def _squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """|x_i - y_j|^2 (n, m) in float64, by differences: products would lose the small ones."""
    mode = "donot_use_mm_for_euclid_dist"
    return torch.cdist(x.double(), y.double(), compute_mode=mode).square()
