"""Metrics: reductions of log-weights, shares of modes, and how sure one can be of each.

With log w = log R(x_1) + sum log_pb - sum log_pf, E[w] over P_F is Z. So the mean of log w over
generated trajectories is a lower bound of log Z (ELBO), and over trajectories destroyed from exact
samples an upper bound (EUBO). The second sees modes that the sampler misses; the first cannot. The
same holds for the two effective sample sizes, `ess` and `ess_forward`. All log-weights are in nats.
"""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .distances import distances_to, w2, w2_floor

if TYPE_CHECKING:
    from .sampler import GFNDiffusion

__all__ = [
    "STATISTICS",
    "Evaluation",
    "bootstrap",
    "elbo",
    "ess",
    "ess_forward",
    "eubo",
    "evaluate",
    "log_z_is",
    "mode_coverage",
    "mode_groups",
    "modes_found",
    "w2",
    "w2_floor",
]

DISTANCE_SAMPLES = 2000  # exact transport grows with the cube; also the paper's number
BATCH = 5000  # trajectories held at a time
RESAMPLED = 2**20  # resampled weights held at a time


def _mean(log_weight: Tensor) -> Tensor:
    return log_weight.mean(-1)


def _log_mean_exp(log_weight: Tensor) -> Tensor:
    return log_weight.logsumexp(-1) - math.log(log_weight.shape[-1])


def _ess(log_weight: Tensor) -> Tensor:
    return (2 * _log_mean_exp(log_weight) - _log_mean_exp(2 * log_weight)).exp()


def _ess_forward(log_weight: Tensor) -> Tensor:
    return (-_log_mean_exp(log_weight) - _log_mean_exp(-log_weight)).exp()


# Each metric of log-weights as a function (..., n) -> (...), the form that `bootstrap` takes.
STATISTICS: dict[str, Callable[[Tensor], Tensor]] = {
    "elbo": _mean,
    "eubo": _mean,
    "log_z_is": _log_mean_exp,
    "ess": _ess,
    "ess_forward": _ess_forward,
}


def elbo(log_weight: Tensor) -> float:
    """Mean log-weight of trajectories from P_F (B,): at most log Z in expectation."""
    return log_weight.mean().item()


def eubo(log_weight: Tensor) -> float:
    """Mean log-weight of trajectories from P_B, ends from the target (B,): at least log Z."""
    return log_weight.mean().item()


def log_z_is(log_weight: Tensor) -> float:
    """Importance-sampling estimate of log Z, log mean exp of log-weights from P_F (B,)."""
    return _log_mean_exp(log_weight.double()).item()


def ess(log_weight: Tensor) -> float:
    """Effective sample size as a fraction, (sum w)^2 / (n sum w^2): in (0, 1]."""
    return _ess(log_weight.double()).item()


def ess_forward(log_weight: Tensor) -> float:
    """Effective sample size seen from the target, 1 / (E[w] E[1/w]) over destroyed trajectories.

    It estimates the same fraction as `ess`, Z^2 / E_{P_F}[w^2], from the log-weights (B,) of
    trajectories destroyed from exact samples. A missed mode has huge w there, so this falls to
    zero where `ess`, whose samples never meet it, stays high (Blessing et al. 2024, Beyond ELBOs,
    arXiv:2406.07423).
    """
    return _ess_forward(log_weight.double()).item()


def bootstrap(
    statistic: Callable[[Tensor], Tensor],
    log_weight: Tensor,
    level: float = 0.95,
    resamples: int = 500,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap interval of a statistic of independent values, such as log-weights.

    It knows only the values it is given: if a few of them dominate E[w], the next ones may too, and
    intervals of `log_z_is` and `ess` are then too narrow (Efron & Tibshirani 1993, chapter 13).

    Args:
        statistic: reduces the last axis, (..., n) -> (...); see `STATISTICS`.
        log_weight: values (n,), n at least 2.
        level: probability that the interval holds the truth.
        resamples: how many samples of size n are drawn with replacement.
        seed: of those draws; the same seed gives the same interval.

    Raises:
        ValueError: for fewer than 2 values, a level outside (0, 1), or fewer than 2 resamples.
    """
    if log_weight.ndim != 1 or len(log_weight) < 2:
        raise ValueError(f"values must be (n,) with n >= 2, got shape {tuple(log_weight.shape)}")
    if not 0 < level < 1 or resamples < 2:
        raise ValueError(f"level={level} must be in (0, 1), resamples={resamples} at least 2")
    generator = torch.Generator().manual_seed(seed)
    values, n = log_weight.detach().double().cpu(), len(log_weight)
    rows = max(1, RESAMPLED // n)
    draws = []
    for done in range(0, resamples, rows):
        index = torch.randint(n, (min(rows, resamples - done), n), generator=generator)
        draws.append(statistic(values[index]))
    tail = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    low, high = torch.cat(draws).quantile(tail).tolist()
    return low, high


def modes_found(weights: Tensor, mass: Tensor) -> int:
    """Number of modes whose sampled weight (K,) is at least 20% of their exact mass (K,)."""
    return int((weights >= 0.2 * mass).sum())


def mode_groups(mass: Tensor) -> Tensor:
    """Which group each mode belongs to (K,): consecutive modes whose mass (K,) adds up to one.

    A mixture is one group. ManyWell has one for each well, since its modes are counted well by
    well and so its masses add up to d/2.
    """
    mass = mass.double()
    return (mass.cumsum(0) - mass / 2).floor().long()  # the middle of each: safe from rounding


def mode_coverage(weights: Tensor, mass: Tensor) -> float:
    """How evenly the modes are covered relative to their exact mass: 1 exact, 0 one mode only.

    The entropic mode coverage of Blessing et al. (arXiv:2406.07423) is the entropy of the modes'
    sampled weights (K,) divided by log K, which assumes equal modes. Here each weight is divided
    by the exact mass (K,) first and the ratios normalised, so exact shares become uniform whatever
    they are; for equal masses it is theirs. Modes in groups (see `mode_groups`) are normalised in
    each group, so that for ManyWell it is the mean over wells: 0 if each has lost one side.

    Raises:
        ValueError: if the shapes differ or a mass is not positive.
    """
    if weights.shape != mass.shape or not (mass > 0).all():
        raise ValueError(f"weights {tuple(weights.shape)} and mass must match, mass be positive")
    group, ratio = mode_groups(mass), weights.double() / mass.double()
    zero = ratio.new_zeros(int(group[-1]) + 1)
    total = zero.index_add(0, group, ratio).clamp_min(torch.finfo(torch.float64).tiny)
    share = ratio / total[group]
    entropy = zero.index_add(0, group, -torch.xlogy(share, share))
    most = group.bincount().double().log()
    return torch.where(most > 0, entropy / most, 1.0).mean().item()  # one mode: nothing to miss


def evaluate(
    sampler: "GFNDiffusion",
    n_samples: int,
    steps: int | None,
    seed: int,
    distances: bool = False,
) -> "Evaluation":
    """All metrics of a sampler: see `GFNDiffusion.evaluate`."""
    if isinstance(n_samples, bool) or not isinstance(n_samples, int) or n_samples < 2:
        raise ValueError(f"n_samples={n_samples!r} must be an integer of at least 2")
    target = sampler.target
    generator = torch.Generator(sampler.device).manual_seed(seed)
    sizes = [min(BATCH, n_samples - done) for done in range(0, n_samples, BATCH)]

    def trajectories(**start):
        trajectory = sampler.trajectory(steps=steps, generator=generator, **start)
        return trajectory.log_weight, trajectory.x[-1].clone()  # the path itself may go

    generated = [trajectories(batch_size=n) for n in sizes]
    log_weight, x = (torch.cat(parts) for parts in zip(*generated, strict=True))
    sources = {"elbo": log_weight, "log_z_is": log_weight, "ess": log_weight}
    exact = upper = seen = weights = found = coverage = None
    if target.sample is not None:
        destroyed = [trajectories(x=target.sample(n, generator))[0] for n in sizes]
        destroyed = torch.cat(destroyed)
        upper, seen = eubo(destroyed), ess_forward(destroyed)
        sources |= {"eubo": destroyed, "ess_forward": destroyed}
        exact = target.sample(min(n_samples, DISTANCE_SAMPLES), generator)
    if target.mode_mass is not None:
        share, mass = target.modes_of(x).mean(0), target.mode_mass
        weights, found = share.tolist(), modes_found(share, mass)
        coverage = mode_coverage(share, mass)
    apart = distances_to(target, x, exact, ("w2", "sinkhorn", "mmd") if distances else ("w2",))
    values = dict(
        elbo=elbo(log_weight),
        eubo=upper,
        log_z_is=log_z_is(log_weight),
        log_z_learned=sampler.log_z_learned,
        ess=ess(log_weight),
        w2=apart.pop("w2"),
        w2_floor=apart.pop("w2_floor"),
        modes=found,
        mode_weights=weights,
        energy_calls=sampler.energy_calls,
        n_samples=n_samples,
        ess_forward=seen,
        mode_coverage=coverage,
        **apart,
    )
    intervals = {key: bootstrap(STATISTICS[key], source) for key, source in sources.items()}
    return Evaluation(values, intervals)


class Evaluation(dict):
    """What `GFNDiffusion.evaluate` returns: a dict that shows itself as a table.

    Attributes:
        intervals: 95% bootstrap interval (low, high) of each metric that has one, by key.
    """

    LABELS = {
        "elbo": "ELBO (at most log Z)",
        "log_z_is": "importance-sampled log Z",
        "eubo": "EUBO (at least log Z)",
        "log_z_learned": "learned log Z",
        "ess": "effective sample size",
        "ess_forward": "the same, seen from the target",
        "w2": "W2 to exact samples",
        "w2_floor": "W2 of exact samples",
        "sinkhorn": "Sinkhorn to exact samples",
        "sinkhorn_floor": "Sinkhorn of exact samples",
        "mmd": "MMD² to exact samples",
        "mmd_floor": "MMD² of exact samples",
        "modes": "modes found",
        "mode_coverage": "mode coverage",
        "energy_calls": "energy calls in training",
        "n_samples": "samples used here",
    }

    def __init__(self, values: dict, intervals: dict[str, tuple[float, float]] | None = None):
        super().__init__(values)
        self.intervals = intervals or {}

    def rows(self) -> list[tuple[str, str]]:
        """Label and formatted value of each entry but the list of mode weights."""
        return [(label, self._format(key)) for key, label in self._labels()]

    def _labels(self) -> list[tuple[str, str]]:
        return [(key, label) for key, label in self.LABELS.items() if key in self]

    def _table(self) -> list[tuple[str, str, str]]:
        rows = [(label, self._format(key), self._interval(key)) for key, label in self._labels()]
        return [("", "", "95% interval"), *rows]

    def _format(self, key: str) -> str:
        value = self[key]
        if value is None:
            return "unknown"
        if key == "modes":
            return f"{value} of {len(self['mode_weights'])}"
        return f"{value:,}" if isinstance(value, int) else _number(key, value)

    def _interval(self, key: str) -> str:
        bounds = self.intervals.get(key)
        return f"{_number(key, bounds[0])} to {_number(key, bounds[1])}" if bounds else ""

    def __repr__(self):
        rows = self._table()
        a, b, c = (max(len(row[column]) for row in rows) for column in range(3))
        return "\n".join(f"{x:<{a}}  {y:>{b}}  {z:>{c}}".rstrip() for x, y, z in rows)

    def _repr_html_(self):
        cells = (
            "<tr><th style='text-align:left'>{}</th>" + 2 * "<td style='text-align:right'>{}</td>"
        )
        body = "".join(cells.format(*row) + "</tr>" for row in self._table())
        return f"<table>{body}</table>"


def _number(key: str, value: float) -> str:
    if key.startswith("ess"):
        return f"{value:.1%}"
    return f"{value:.2g}" if key.startswith("mmd") else f"{value:.3f}"
