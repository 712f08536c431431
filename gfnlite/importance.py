"""Adaptive importance sampling: what is true of each posterior, with no sampler."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .combine import conditioned
from .config import integer
from .metrics import STATISTICS
from .smc import annealed_smc
from .targets import Target, check_condition
from .trajectory import importance_resample

__all__ = ["Truth", "adaptive_importance_sampling"]

TAILS = 8.0  # degrees of freedom of the proposal: heavier tails than a posterior's


@dataclass(frozen=True)
class Truth:
    """What importance sampling found of n posteriors.

    Attributes:
        log_z: log Z(c) (n,).
        error: its standard error (n,).
        ess: effective sample size of the last draw as a fraction (n,).
        samples: draws of each posterior by importance resampling (n, K, d).
        energy_calls: points at which the energy was asked for.
    """

    log_z: Tensor
    error: Tensor
    ess: Tensor
    samples: Tensor
    energy_calls: int = 0

    def __getitem__(self, which: slice) -> "Truth":
        """The truth of some of the posteriors."""
        parts = (self.log_z, self.error, self.ess, self.samples)
        return Truth(*(part[which] for part in parts))


@torch.no_grad()
def adaptive_importance_sampling(
    target: Target,
    conditions: Tensor,
    *,
    n: int = 20_000,
    kept: int = 100,
    rounds: int = 6,
    adapted: int = 2000,
    particles: int = 200,
    scale: float = 1.0,
    generator: torch.Generator | None = None,
) -> Truth:
    """log Z(c) and draws of the posterior at each condition (n_c, c), sampler or no sampler.

    From the moments of a small annealed SMC on, a Student-t proposal takes the mean and covariance
    of its own weighted draws (Cappé et al., arXiv:0710.4242, with one component); the last draw is
    fresh, so that its estimate of Z is unbiased.

    Args:
        target: a conditional target with a gradient.
        conditions: one row each.
        n: size of the last draw.
        kept: draws returned, of each posterior.
        rounds: of adaptation.
        adapted: size of the draw in each of them.
        particles: of the SMC.
        scale: standard deviation of its start.
        generator: random state.

    Raises:
        ValueError: for a setting that is not allowed, or a condition that does not fit.
        FloatingPointError: if the SMC does not arrive at a posterior.
    """
    least = {"n": n, "kept": kept, "rounds": rounds, "adapted": adapted}
    for name, value in least.items():
        integer(name, value, 1)
    check_condition(target, conditions, conditions)
    device, found, calls = conditions.device, [], 0
    for number, condition in enumerate(conditions):
        one = conditioned(target, condition)
        start = annealed_smc(
            one, particles, scale, keep=0.5, moves=8, generator=generator, device=device
        )
        if start.log_z == -math.inf:
            raise FloatingPointError(f"SMC did not arrive at the posterior of condition {number}")
        proposal = _StudentT(start.x, torch.zeros_like(start.log_reward))
        for _ in range(rounds):
            x, log_w = proposal.draw(one, adapted, generator)
            proposal = _StudentT(x, _tempered(log_w, least=10 * target.dim))
        x, log_w = proposal.draw(one, n, generator)
        ess = STATISTICS["ess"](log_w)
        error = ((1 / ess - 1) / n).sqrt()
        samples = importance_resample(x, log_w, kept, generator)
        found.append((STATISTICS["log_z_is"](log_w), error, ess, samples))
        calls += start.energy_calls + rounds * adapted + n
    return Truth(*map(torch.stack, zip(*found, strict=True)), energy_calls=calls)


class _StudentT:
    """Multivariate t distribution with the weighted mean and covariance of points x (n, d)."""

    def __init__(self, x: Tensor, log_w: Tensor):
        weight = log_w.double().softmax(0)
        x = x.double()
        self.mean = weight @ x
        away = x - self.mean
        covariance = (weight[:, None] * away).T @ away * (TAILS - 2) / TAILS
        covariance += 1e-6 * covariance.diagonal().mean() * torch.eye(x.shape[1]).to(covariance)
        self.factor = torch.linalg.cholesky(covariance)

    def draw(self, target: Target, n: int, generator) -> tuple[Tensor, Tensor]:
        """Draws (n, d) and their log-weights for the target (n,)."""
        d, device = len(self.mean), self.mean.device
        z = torch.randn(n, d, generator=generator, device=device, dtype=torch.float64)
        # chi-squared of an even number of degrees: a sum of exponentials
        u = torch.rand(n, int(TAILS) // 2, generator=generator, device=device, dtype=torch.float64)
        chi2 = -2 * torch.log1p(-u).sum(1)
        x = self.mean + (z * (TAILS / chi2)[:, None].sqrt()) @ self.factor.T
        square = z.square().sum(1) * TAILS / chi2
        log_norm = math.lgamma((TAILS + d) / 2) - math.lgamma(TAILS / 2)
        log_norm -= 0.5 * d * math.log(TAILS * math.pi)
        log_q = log_norm - self.factor.diagonal().log().sum()
        log_q = log_q - (TAILS + d) / 2 * torch.log1p(square / TAILS)
        log_r = torch.cat([target.log_reward(part) for part in x.float().split(5000)])
        return x.float(), log_r.double() - log_q


def _tempered(log_w: Tensor, least: float) -> Tensor:
    """The log-weights, flattened by halves until at least so many draws count."""
    while log_w.softmax(0).square().sum() > 1 / min(least, len(log_w) / 2):
        log_w = log_w / 2
    return log_w
