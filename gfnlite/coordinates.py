"""Coordinates to train in: the target moved, turned and stretched until the process fits it.

A shift of the origin, a unit of length or a correlation is nothing that a network should have to
learn. All of them are an affine map, which a pilot can see.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .energy import Target
from .pilot import suggest_scale
from .smc import annealed_smc

__all__ = ["Standardised", "standardised"]

PARTICLES = 5000  # of the pilot that measures mean and covariance


class Standardised(Target):
    """A target in coordinates e with x = m + A e: R(m + A e) det A, of the same normaliser.

    Args:
        target: R; it takes no condition.
        mean: m (d,).
        factor: A (d, d), lower triangular with a positive diagonal.
        spread: standard deviation of the widest coordinate of e.
        energy_calls: what finding them cost.

    Attributes:
        log_det: log det A.
    """

    def __init__(
        self,
        target: Target,
        mean: Tensor,
        factor: Tensor,
        spread: float = 1.0,
        energy_calls: int = 0,
    ):
        self.original, self.mean, self.factor = target, mean, factor
        self.spread, self.energy_calls = spread, energy_calls
        self.log_det = factor.diagonal().log().sum().item()
        self.name, self.dim = target.name, target.dim
        self.log_z, self.mode_mass = target.log_z, target.mode_mass

    @property
    def sample(self) -> Callable[..., Tensor] | None:
        """The target's exact samples, if it has any."""
        return None if self.original.sample is None else self._sample

    def _sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        return self.encode(self.original.sample(n, generator))

    def state_dict(self) -> dict:
        """What makes it again, but the target."""
        names = ("mean", "factor", "spread", "energy_calls")
        return {name: getattr(self, name) for name in names}

    def decode(self, e: Tensor) -> Tensor:
        """x = m + A e, (..., d)."""
        return self.mean + e @ self.factor.mT

    def encode(self, x: Tensor) -> Tensor:
        """The e of x, (..., d)."""
        return torch.linalg.solve_triangular(self.factor.mT, x - self.mean, upper=True, left=False)

    def log_reward(self, e: Tensor, condition: Tensor | None = None) -> Tensor:
        """log R(m + A e) + log det A: (B, d) -> (B,)."""
        return self.original.log_reward(self.decode(e)) + self.log_det

    def log_reward_and_score(
        self, e: Tensor, condition: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """That (B,), and its gradient A^T grad log R (B, d), as the target itself finds it."""
        log_reward, score = self.original.log_reward_and_score(self.decode(e))
        return log_reward + self.log_det, score @ self.factor

    def modes_of(self, e: Tensor) -> Tensor:
        """The target's own."""
        return self.original.modes_of(self.decode(e))


@torch.no_grad()
def standardised(target: Target, sigma2: float, device: torch.device | str) -> Standardised:
    """The target in uncorrelated coordinates of mean 0, each of a unit that `sigma2` fits.

    Annealed SMC, from as wide as `suggest_scale` says, measures mean m and covariance C = L L^T. In
    e with x = m + L D e the target has the mean 0 and the covariance D^-2; the diagonal D is so
    that in each coordinate

    `sigma2 = (E[e_i^2] / E[score_i^2])^(1/2)`,

    the geometric mean of the width of the whole and of the finest structure, which is how
    `suggest_scale` chooses sigma2 for given coordinates. The map is the same whatever the sampler's
    seed, so that samplers of several seeds can be trained together.

    Raises:
        ValueError: if the pilot does not arrive at the target.
    """
    scale = suggest_scale(target, device=device)
    generator = torch.Generator(device).manual_seed(0)
    found = annealed_smc(target, PARTICLES, scale.spread, generator=generator, device=device)
    calls = scale.energy_calls + found.energy_calls
    x, score = found.x, found.score
    mean = x.mean(0)
    covariance = torch.atleast_2d(torch.cov(x.mT))
    if found.log_z == -math.inf or not 0 < covariance.diagonal().min() < math.inf:
        raise ValueError(
            f"standardise=True: the pilot did not arrive at target '{target.name}', whose energy "
            "is infinite or too rough nearly everywhere; choose sigma2 by hand"
        )
    # towards independence as far as there are too few particles to tell
    trust = 1 - target.dim / (len(x) + target.dim)
    covariance = trust * covariance + (1 - trust) * covariance.diagonal().diag()
    root = torch.linalg.cholesky(covariance)
    # in coordinates of covariance I, where it is at least 1
    finest = (score @ root).square().mean(0).clamp(min=1)
    spread = (sigma2 * finest.sqrt()).sqrt()
    return Standardised(target, mean, root / spread, spread.max().item(), calls)
