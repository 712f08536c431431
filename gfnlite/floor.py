"""The best ELBO that any drift reaches with a fixed variance, by dynamic programming.

With T equal steps of a fixed variance no drift makes all log-weights equal, unless the target is
the reference process's own: the ELBO keeps a distance from log Z, which T and sigma^2 decide. A
sampler trained so cannot be better than that, beyond sampling noise, and need not be blamed for it.
"""

import math
from collections.abc import Callable
from functools import cache

import numpy as np

from .config import Config
from .energy import LOG_2PI
from .mixtures import GMM
from .targets import Target
from .wells import ManyWell

__all__ = ["best_elbo", "floor", "has_floor"]

FASTEST = 30.0  # no drift above it is ever worth its price on the targets here


def has_floor(config: Config) -> bool:
    """Whether `floor` binds a sampler of these settings: all of the process is the reference's.

    That is the pinned process on the uniform grid, its variance and its way back not learned.
    """
    fixed = not (config.learn_variance or config.learn_backward)
    return fixed and config.process == "pinned" and config.grid == "uniform"


def floor(target: Target, steps: int, sigma2: float) -> float | None:
    """The least log Z - ELBO (nats) with fixed variance; None if the target is no known product.

    For `ManyWell` and for mixtures of equal Gaussians on a grid, whose coordinates are
    independent, so that the least distances of the coordinates add up.

    Args:
        target: what is sampled from, started at 0 under the pinned process.
        steps: T, equal steps.
        sigma2: variance of the process per unit time.
    """
    if isinstance(target, ManyWell):
        wells = target.dim // 2
        return wells * _well_gap(target.log_z / wells - 0.5 * LOG_2PI, steps, sigma2)
    axes = _grid_axes(target) if isinstance(target, GMM) else None
    if axes is None:
        return None
    variance = target.variance[0].item()
    found = {}  # equal axes are computed once
    for means in axes:
        if means not in found:
            limit = max(map(abs, means)) + 7 * math.sqrt(variance)
            log_r = _mixture(np.array(means), variance)
            found[means] = -_extrapolated(log_r, steps, sigma2, limit, 0.005)
    return sum(found[means] for means in axes)


def best_elbo(
    log_r: Callable[[np.ndarray], np.ndarray],
    steps: int,
    sigma2: float,
    limit: float,
    spacing: float = 0.0025,
) -> float:
    """max over drifts of E[log w] (nats) for one coordinate, on `steps` equal steps from 0.

    With the telescoped log-weight a step of drift u costs dt u^2 / (2 sigma^2) on average, so
    V_i(x) = max_y E[V_{i+1}(y + noise)] - (y - x)^2 / (2 sigma^2 dt), where y = x + u dt, and
    V_T = log R - log N(0, sigma^2). The answer is V_0(0). Moves end on grid points, which costs
    up to (spacing T)^2 / (24 sigma^2) in all.

    Args:
        log_r: log density of points (n,) -> (n,), falling at least linearly beyond `limit`.
        steps: T.
        sigma2: variance of the process per unit time.
        limit: the grid is [-limit, limit].
        spacing: of the grid.
    """
    dt = 1 / steps
    half = round(limit / spacing)
    x = np.arange(-half, half + 1) * spacing
    value = log_r(x) + 0.5 * x**2 / sigma2 + 0.5 * math.log(2 * math.pi * sigma2)
    std = math.sqrt(sigma2 * dt)
    reach = int(6 * std / spacing)
    offsets = np.arange(-reach, reach + 1) * spacing
    kernel = np.exp(-(offsets**2) / (2 * std**2))
    kernel /= kernel.sum()
    # The finer the grid, the closer each move can be.
    furthest = min(int((FASTEST * dt + 0.2) / spacing), 2 * half)
    moves = np.arange(-furthest, furthest + 1)
    cost = (moves * spacing) ** 2 / (2 * sigma2 * dt)
    for _ in range(steps):
        # Beyond the grid the value falls like the target; a linear continuation is steep enough.
        slope = (value[1] - value[0], value[-1] - value[-2])
        k = np.arange(1, reach + 1)
        padded = np.concatenate((value[0] - slope[0] * k[::-1], value, value[-1] + slope[1] * k))
        expected = np.convolve(padded, kernel, mode="valid")
        best = np.full_like(expected, -np.inf)
        for move, price in zip(moves, cost, strict=True):
            low, high = max(0, -move), len(x) - max(0, move)
            np.maximum(best[low:high], expected[low + move : high + move] - price,
                       out=best[low:high])  # fmt: skip
        value = best
    return float(value[half])


def _extrapolated(log_r, steps, sigma2, limit, spacing) -> float:
    """`best_elbo` without the cost of its grid, which falls with the square of the spacing."""
    grids = (spacing, spacing / 2)
    coarse, fine = (best_elbo(log_r, steps, sigma2, limit, h) for h in grids)
    return (4 * fine - coarse) / 3


@cache  # the same for every number of wells
def _well_gap(log_z1: float, steps: int, sigma2: float) -> float:
    gap = -_extrapolated(lambda x: _log_well(x) - log_z1, steps, sigma2, 4.0, 0.0025)
    if sigma2 != 1:  # at 1 the Gaussian coordinates are the process's own
        gap -= _extrapolated(lambda x: -0.5 * (x**2 + LOG_2PI), steps, sigma2, 8.0, 0.005)
    return gap


def _log_well(x: np.ndarray) -> np.ndarray:
    return -(x**4) + 6 * x**2 + 0.5 * x


def _mixture(means: np.ndarray, variance: float):
    """Log density of equal Gaussians on a line."""

    def log_r(x):
        parts = -((x[:, None] - means) ** 2) / (2 * variance)
        return np.logaddexp.reduce(parts, axis=1) - math.log(len(means)) - norm

    norm = 0.5 * (LOG_2PI + math.log(variance))
    return log_r


def _grid_axes(target: GMM) -> list[tuple[float, ...]] | None:
    """Coordinates of the means along each axis, if each combination of them is one mean."""
    equal = (target.weights == target.weights[0]).all() and (
        target.variance == target.variance[0]
    ).all()
    axes = [tuple(axis.unique().tolist()) for axis in target.means.T]
    different = len(target.means.unique(dim=0))
    full = math.prod(map(len, axes)) == len(target.means) == different
    return axes if equal and full else None
