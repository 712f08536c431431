"""ManyWell: exponentially many modes, whose masses, samples and normaliser are all known."""

import math
from functools import cache

import torch
from torch import Tensor

from .arguments import shown
from .checks import check_states, is_count
from .energy import LOG_2PI, ClosedForm

__all__ = ["ManyWell"]


class ManyWell(ClosedForm):
    """d/2 independent double wells: log R = sum_i -a_i^4 + 6 a_i^2 + a_i / 2 - b_i^2 / 2.

    (a_i, b_i) are coordinates (2i, 2i + 1). Each a_i has a major well on the right, with 84.4% of
    the mass, and a minor one on the left: 2^(d/2) modes in all, counted well by well (Noé et al.,
    Boltzmann generators, 2019; Midgley et al., arXiv:2208.01893).

    Args:
        dim: d, even and positive.

    Raises:
        ValueError: if `dim` is not a positive even integer.
    """

    def __init__(self, dim: int = 32):
        if not is_count(dim) or dim % 2:
            raise ValueError(f"dim={shown(dim)} of ManyWell must be a positive even integer")
        dim = int(dim)
        self.dim, self.name = dim, f"manywell{dim}"
        self._grid, self._cdf, log_z1 = _double_well()
        self.log_z = dim / 2 * (log_z1 + 0.5 * LOG_2PI)
        left = self._cdf[torch.searchsorted(self._grid, 0.0)].item()
        self.mode_mass = torch.tensor([left, 1 - left]).repeat(dim // 2)  # (left, right) a well

    def _closed_form(self, x):
        a, b = x[:, 0::2], x[:, 1::2]
        a2 = a.square()
        log_r = (a2 * (6 - a2) + 0.5 * a - 0.5 * b.square()).sum(-1)
        return log_r, lambda: torch.stack((a * (12 - 4 * a2) + 0.5, -b), -1).flatten(1)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Samples (n, d): wells by inverting the distribution function on a grid of step 1e-4."""
        device = self._cdf.device
        x = torch.randn(n, self.dim, generator=generator, device=device)
        u = torch.rand(n, self.dim // 2, generator=generator, device=device, dtype=self._cdf.dtype)
        i = torch.searchsorted(self._cdf, u).clamp_(1, len(self._cdf) - 1)
        low, high = self._cdf[i - 1], self._cdf[i]
        step = self._grid[1] - self._grid[0]
        x[:, 0::2] = (self._grid[i - 1] + (u - low) / (high - low) * step).float()
        return x

    def modes_of(self, x: Tensor) -> Tensor:
        """Left or right in each double well: (B, d) -> (B, d), two entries a well."""
        check_states(self, x)
        right = x[:, 0::2] > 0
        return torch.stack((~right, right), -1).flatten(-2).float()


@cache
def _double_well() -> tuple[Tensor, Tensor, float]:
    """Grid, distribution function and log normaliser of exp(-a^4 + 6 a^2 + a / 2), in float64."""
    # The integrand is entire and below 1e-60 at both ends, so the trapezoid rule is exact to
    # rounding; dropping its half end weights loses nothing.
    grid = torch.linspace(-4, 4, 80_001, dtype=torch.float64)
    mass = torch.exp(-(grid**4) + 6 * grid**2 + 0.5 * grid)
    cdf = mass.cumsum(0) - 0.5 * mass
    total = mass.sum()
    return grid, cdf / total, math.log(total.item() * 1e-4)
