"""Annealed particles that walk from a wide Gaussian to the target, resampled (SMC) or not (AIS)."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .checks import is_count
from .local_search import check_is_target, mala
from .targets import Target

__all__ = ["Particles", "annealed_smc"]

LEVELS = 1000  # a population that needs more is not getting there


@dataclass(frozen=True)
class Particles:
    """A weighted population: each particle stands for w / n of the target's mass.

    Attributes:
        x: (n, d).
        log_reward: log R(x; c) (n,).
        score: its gradient (n, d).
        log_weight: log w (n,), in float64; all equal after resampling, and all -inf if the
            population did not arrive at the target.
        energy_calls: points at which the energy and its gradient were evaluated.
    """

    x: Tensor
    log_reward: Tensor
    score: Tensor
    log_weight: Tensor
    energy_calls: int

    @property
    def log_z(self) -> float:
        """Estimate of log Z, the log of the mean weight."""
        return _log_mean_exp(self.log_weight).item()

    def draw(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Samples (n, d) in proportion to the weights, in random order (systematic resampling)."""
        chosen = self.x[_systematic(self.log_weight, n, generator)]
        return chosen[torch.randperm(n, generator=generator, device=chosen.device)]


@torch.no_grad()
def annealed_smc(
    target: Target,
    n: int,
    scale: float,
    *,
    keep: float = 0.9,
    moves: int = 16,
    levels: int = LEVELS,
    resample: bool = True,
    generator: torch.Generator | None = None,
    device: torch.device | str = "cpu",
) -> Particles:
    """Particles of the target R by way of R^beta N(0, scale^2 I)^(1 - beta), beta from 0 to 1.

    At each level beta grows until the effective sample size falls to `keep` n; then systematic
    resampling and MALA moves (Del Moral, Doucet & Jasra 2006, Sequential Monte Carlo samplers).
    Without resampling each particle goes its own way and keeps its weight (Neal 2001, Annealed
    importance sampling); levels are then as far apart as equal weights would have them. The
    estimate of Z is unbiased but for the adaptation. Where log R or its gradient is not finite R
    counts as 0.

    Args:
        target: what to sample.
        n: number of particles, at least 2.
        scale: standard deviation of the start; one that covers the target.
        keep: in (0, 1); nearer to 1 is slower and surer.
        moves: MALA transitions a level.
        levels: at most so many.
        resample: True is SMC, False AIS.
        generator: random state, on `device`.
        device: where the target lives.

    Raises:
        TypeError: if `target` is not a `Target`.
        ValueError: for a setting that is not allowed.
    """
    check_is_target(target)
    for name, value in (("n", n), ("moves", moves), ("levels", levels)):
        if not is_count(value) or value < (2 if name == "n" else 1):
            raise ValueError(f"{name}={value!r} must be a positive integer, n at least 2")
    if not 0 < keep < 1 or not 0 < scale < math.inf:
        raise ValueError(f"keep={keep!r} must be between 0 and 1, scale={scale!r} positive")
    bridge = _Bridge(target, scale)
    x = scale * torch.randn((n, target.dim), generator=generator, device=device)
    log_w = torch.zeros(n, dtype=torch.float64, device=device)
    step_size = scale**2 / target.dim ** (1 / 3)
    for _ in range(levels + 1):
        log_r, score = bridge.reward(x)
        if bridge.beta == 1:
            return Particles(x, log_r, score, log_w, bridge.calls)
        log_ratio = log_r - bridge.start(x)
        step = _next_step(log_ratio, 1 - bridge.beta, keep)
        if not step:
            break
        log_w = log_w + step * log_ratio
        bridge.beta = min(1.0, bridge.beta + step)
        if resample:
            x = x[_systematic(log_w, n, generator)]
            log_w = _log_mean_exp(log_w).expand(n)
        else:  # without weight, and nowhere to move: it follows one that has both
            x = torch.where(log_w.isfinite()[:, None], x, x[log_w.argmax()])
        chains = mala(
            bridge, x, steps=moves, burn_in=moves - 1, step_size=step_size, adapt=1.5,
            generator=generator,
        )  # fmt: skip
        x, step_size = chains.x[-1], chains.step_size.item()
    log_r, score = bridge.reward(x)
    return Particles(x, log_r, score, torch.full_like(log_w, -torch.inf), bridge.calls)


def _systematic(log_w: Tensor, n: int, generator: torch.Generator | None) -> Tensor:
    """Indices (n,), in order, of what systematic resampling picks by these log-weights."""
    start = torch.rand(1, generator=generator, device=log_w.device)
    places = torch.arange(n, device=log_w.device) + start
    cells = log_w.softmax(0).cumsum(0)
    picked = torch.searchsorted(cells, places.double() / n * cells[-1])
    return picked.clamp_(max=len(log_w) - 1)


def _log_mean_exp(log_w: Tensor) -> Tensor:
    return log_w.logsumexp(0) - math.log(len(log_w))


class _Bridge(Target):
    """R(x)^beta N(x; 0, scale^2 I)^(1 - beta), its calls of R counted."""

    def __init__(self, target: Target, scale: float):
        self.target, self.dim, self.scale = target, target.dim, scale
        self.name = target.name
        self.beta, self.calls = 0.0, 0

    def reward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """log R and its gradient; -inf and 0 where not finite."""
        log_r, score = self.target.log_reward_and_score(x)
        self.calls += len(x)
        fine = log_r.isfinite() & score.isfinite().all(-1)
        return torch.where(fine, log_r, -torch.inf), torch.where(fine[:, None], score, 0)

    def start(self, x: Tensor) -> Tensor:
        """Log density of the start (n,)."""
        log_norm = self.dim * (math.log(self.scale) + 0.5 * math.log(2 * math.pi))
        return -0.5 * (x / self.scale).square().sum(-1) - log_norm

    def log_reward_and_score(self, x: Tensor, condition=None) -> tuple[Tensor, Tensor]:
        """Of the bridge at its beta."""
        log_r, score = self.reward(x)
        log_r = torch.lerp(self.start(x), log_r, self.beta)
        return log_r, torch.lerp(-x / self.scale**2, score, self.beta)


def _next_step(log_ratio: Tensor, most: float, keep: float) -> float:
    """Largest step of beta, up to `most`, that leaves `keep` of the effective sample size; or 0."""
    alive = log_ratio[log_ratio.isfinite()]
    if len(alive) < 2:
        return 0.0
    low, high, step = 0.0, most, most
    while low < most and high - low > 1e-3 * high and high > 1e-12:
        ess = 1 / (step * alive).softmax(0).square().sum() / len(alive)
        low, high = (step, high) if ess >= keep else (low, step)
        step = (low + high) / 2
    return low
