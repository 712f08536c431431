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

from .arguments import floats, positive
from .config import integer
from .distances import distances_to, w2, w2_floor
from .evaluation import Evaluation, at_condition, draw

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
    """Mean log-weight of trajectories from P_F (B,): at most log Z in expectation.

    Raises:
        ValueError: if there are none; so do the other metrics of log-weights.
    """
    return _values(log_weight).mean().item()


def eubo(log_weight: Tensor) -> float:
    """Mean log-weight of trajectories from P_B, ends from the target (B,): at least log Z."""
    return _values(log_weight).mean().item()


def log_z_is(log_weight: Tensor) -> float:
    """Importance-sampling estimate of log Z, log mean exp of log-weights from P_F (B,)."""
    return _log_mean_exp(_values(log_weight).double()).item()


def ess(log_weight: Tensor) -> float:
    """Effective sample size as a fraction, (sum w)^2 / (n sum w^2): in (0, 1]."""
    return _ess(_values(log_weight).double()).item()


def ess_forward(log_weight: Tensor) -> float:
    """Effective sample size seen from the target, 1 / (E[w] E[1/w]) over destroyed trajectories.

    It estimates the same fraction as `ess`, Z^2 / E_{P_F}[w^2], from the log-weights (B,) of
    trajectories destroyed from exact samples. A missed mode has huge w there, so this falls to
    zero where `ess`, whose samples never meet it, stays high (Blessing et al. 2024, Beyond ELBOs,
    arXiv:2406.07423).
    """
    return _ess_forward(_values(log_weight).double()).item()


def _values(x: Tensor) -> Tensor:
    """Log-weights, also from a list or an array, as a tensor that is not empty."""
    x = floats("log_weight", x, dtype=None if isinstance(x, Tensor) else torch.float64)
    if x.ndim != 1 or not len(x):
        raise ValueError(f"log_weight must have shape (B,) with B >= 1, got {tuple(x.shape)}")
    return x


def _shares(weights: Tensor, mass: Tensor) -> tuple[Tensor, Tensor]:
    """Sampled and exact weights of modes, in one precision and on one device."""
    mass = floats("mass", mass, dtype=None if isinstance(mass, Tensor) else torch.float64)
    # The same precision, so that 0.1 in a list is 0.1 in a tensor.
    weights = floats("weights", weights, mass.device, mass.dtype)
    if weights.shape != mass.shape or mass.ndim != 1 or not len(mass) or not (mass > 0).all():
        shapes = f"{tuple(weights.shape)} and {tuple(mass.shape)}"
        raise ValueError(f"weights and mass must be (K,) with mass positive, got shapes {shapes}")
    return weights, mass


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
    log_weight = floats("log_weight", log_weight)
    if log_weight.ndim != 1 or len(log_weight) < 2:
        raise ValueError(f"values must be (n,) with n >= 2, got shape {tuple(log_weight.shape)}")
    if not positive("level", level) < 1:
        raise ValueError(f"level={level} must be in (0, 1)")
    resamples = integer("resamples", resamples, 2)
    generator = torch.Generator().manual_seed(integer("seed", seed, 0, 2**32 - 1))
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
    weights, mass = _shares(weights, mass)
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

    With q_k = (w_k / m_k) / sum_j (w_j / m_j) for sampled weights w and exact masses m (K,), it is
    the entropy -sum_k q_k log q_k divided by log K. So exact shares have 1 whatever the masses are;
    for equal masses q is w, scaled to sum to one, and this is the entropy of the shares over log K,
    the entropic mode coverage of Blessing et al. (arXiv:2406.07423), which assumes equal modes.

    Modes in groups (see `mode_groups`) are treated group by group, and the mean over groups is
    taken: for ManyWell over wells, 0 if each has lost one side. A group of one mode has 1, and one
    that no sample is in has 0.

    Raises:
        ValueError: if the shapes differ, or a mass is not above 0 and at most 1.
    """
    weights, mass = _shares(weights, mass)
    if not (mass < 1 + 1e-3).all():  # as many groups as their sum
        raise ValueError(f"mass must be at most 1 for each mode, got {mass.max().item():g}")
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
    condition: Tensor | None = None,
) -> Evaluation:
    """All metrics of a sampler, or of its posterior at one condition (c,).

    Keys: see `GFNDiffusion.evaluate`.

    Raises:
        ValueError: if `n_samples` is not an integer of at least 2, `seed` none from 0 to 2**32 - 1,
            or `steps` no positive one; if the condition is missing, unasked for or not of shape
            (c,); or if samples are not finite and the target has exact ones to compare them with.
    """
    n_samples = integer("n_samples", n_samples, 2)
    seed = integer("seed", seed, 0, 2**32 - 1)
    target, condition = at_condition(sampler, condition)
    generator = torch.Generator(sampler.device).manual_seed(seed)
    settings = (sampler, n_samples, steps, generator, condition)
    log_weight, x, _ = draw(*settings)
    sources = {"elbo": log_weight, "log_z_is": log_weight, "ess": log_weight}
    exact = upper = seen = weights = found = coverage = None
    if target.sample is not None:
        destroyed = draw(*settings, target.sample)[0]
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
        log_z_learned=_log_z_learned(sampler, condition),
        ess=ess(log_weight),
        w2=apart.pop("w2"),
        w2_floor=apart.pop("w2_floor"),
        modes=found,
        mode_weights=weights,
        energy_calls=sampler.energy_calls,
        n_samples=n_samples,
        ess_forward=seen,
        mode_coverage=coverage,
        log_z=None if target.log_z is None else float(target.log_z),
        **apart,
    )
    intervals = {key: bootstrap(STATISTICS[key], source) for key, source in sources.items()}
    return Evaluation(values, intervals)


@torch.no_grad()
def _log_z_learned(sampler: "GFNDiffusion", condition: Tensor | None) -> float | None:
    if condition is None:
        return sampler.log_z_learned
    return sampler.log_z(condition[None]).item() if sampler.config.learns_log_z else None
