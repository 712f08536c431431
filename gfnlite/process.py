"""Reference processes, the kernels that tilt them, and time grids.

A reference process is a linear Gaussian one, from its start at t = 0 to N(0, v_1 sigma^2 I) at
t = 1. It is given by a scale a and marginal variances v (in units of sigma^2); a step from t to t'
and its exact reversal are then

    x' = a x + N(0, sigma^2 h I),    x = b x' + N(0, sigma^2 g I),
    h = v' - a^2 v,                  b = a v / v',   g = h v / v'.

P_F and P_B tilt these: P_F(x' | x) = N(x'; a x + h u, sigma^2 h e^s) with a learned drift u and,
if learned, a log-variance s, and P_B likewise. Only ratios to the reference are ever computed. In
log w everything else telescopes to the two ends, with no large constants left to cancel.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .arguments import shown

__all__ = [
    "PinnedBrownian",
    "Steps",
    "VariancePreserving",
    "log_ratio",
    "normal",
    "ratio_slope",
    "time_grid",
]

LOG_2PI = math.log(2 * math.pi)
GRIDS = ("uniform", "random", "cosine")


def time_grid(steps: int, kind: str = "uniform", generator: torch.Generator | None = None):
    """Times 0 = t_0 < ... < t_T = 1 of a trajectory: (T + 1,), on the CPU.

    `uniform` has equal steps. `random` draws each inner time near its uniform place (stratified:
    within 0.45 / T of it, so that no step is shorter than 0.1 / T): a sampler trained on it can be
    run on any finer grid (arXiv:2501.06148). `cosine` has steps that shrink towards the sample,
    t = sin(pi s / 2) for uniform s, where narrow modes need them.

    Raises:
        ValueError: if steps is not a positive integer or the kind is unknown.
    """
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ValueError(f"steps={shown(steps)} must be a positive integer")
    t = torch.arange(steps + 1, dtype=torch.float32) / steps
    if kind == "random":
        t[1:-1] += (torch.rand(steps - 1, generator=generator) - 0.5) * (0.9 / steps)
    elif kind == "cosine":
        t[1:-1] = torch.sin(t[1:-1] * (math.pi / 2))
    elif kind != "uniform":
        raise ValueError(f"grid={shown(kind)} is unknown; allowed: {', '.join(GRIDS)}")
    return t


@dataclass(frozen=True)
class Steps:
    """A time grid t (T + 1,) and the reference process's a, h, b, g on it, each (T,)."""

    t: Tensor
    a: Tensor
    h: Tensor
    b: Tensor
    g: Tensor

    def __len__(self):
        return len(self.a)


@dataclass(frozen=True)
class _Process:
    sigma2: float

    def steps(self, t: Tensor, device: torch.device | str = "cpu") -> Steps:
        """What both kernels need on the grid t (T + 1,), a CPU tensor, as tensors on `device`."""
        t = t.double()  # 1 - a^2 of a short step would lose digits in float32
        v, a = self._variance(t), self._scale(t)
        h = v[1:] - a.square() * v[:-1]
        parts = (t, a, h, a * v[:-1] / v[1:], h * v[:-1] / v[1:])
        moved = torch.cat(parts).to(device, torch.get_default_dtype())  # in one piece
        return Steps(*moved.split([len(part) for part in parts]))

    def end_variance(self) -> float:
        """Variance of each coordinate of the reference process at t = 1."""
        return self.sigma2 * self._variance(torch.ones(1, dtype=torch.float64)).item()

    def log_marginal(self, x: Tensor, t: Tensor) -> Tensor:
        """Log density of the reference process at x (n, B, d) and times t (n,): (n, B).

        At a time when it is certain where the process is (the start of a pinned one) it is 0.
        """
        variance = (self.sigma2 * self._variance(t.double())).to(x)[:, None]
        quadratic = x.square().sum(-1) / variance
        log_density = -0.5 * (quadratic + x.shape[-1] * (LOG_2PI + variance.log()))
        return torch.where(variance > 0, log_density, torch.zeros_like(log_density))

    def start(self, shape: tuple, device, generator=None) -> Tensor:
        """States at t = 0, of `shape`, by one generator or one for each run: see `normal`."""
        std = math.sqrt(self.sigma2 * self._variance(torch.zeros(1, dtype=torch.float64)).item())
        if std == 0:
            return torch.zeros(shape, device=device)
        return std * normal(shape, device, generator)


@dataclass(frozen=True)
class PinnedBrownian(_Process):
    """Brownian motion from the origin with variance sigma2 per unit time; P_B is its bridge."""

    pinned = True

    def _variance(self, t: Tensor) -> Tensor:
        return t

    def _scale(self, t: Tensor) -> Tensor:
        return torch.ones_like(t[1:])


@dataclass(frozen=True)
class VariancePreserving(_Process):
    """Ornstein-Uhlenbeck process in equilibrium N(0, sigma2 I): DDPM seen from noise to data.

    The signal that destruction leaves at noise time s = 1 - t is sqrt(alpha_bar(s)):
    `linear` has -log alpha_bar = 0.1 s + 19.9 s^2 / 2 (Ho et al., arXiv:2006.11239, in continuous
    time), `cosine` has alpha_bar = cos(pi s / 2)^2 (Nichol & Dhariwal, arXiv:2102.09672), cut at
    s = 0.97 as theirs is near there. As a reference for samplers: DIS (arXiv:2211.01364) and DDS
    (arXiv:2302.13834).

    Raises:
        ValueError: for another schedule.
    """

    schedule: str = "linear"
    pinned = False

    def __post_init__(self):
        if self.schedule not in ("linear", "cosine"):
            raise ValueError(f"schedule={self.schedule!r} is unknown; allowed: linear, cosine")

    def log_alpha_bar(self, t: Tensor) -> Tensor:
        """Log of the squared signal left at t, where 1 is the data and 0 the noise."""
        s = 1 - t
        if self.schedule == "linear":
            return -(0.1 * s + 9.95 * s.square())
        return 2 * torch.cos(0.97 * s * (math.pi / 2)).log()

    def _variance(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def _scale(self, t: Tensor) -> Tensor:
        return (-0.5 * self.log_alpha_bar(t).diff()).exp()


def normal(
    shape: tuple[int, int, int],
    device: torch.device | str,
    generator: torch.Generator | Sequence[torch.Generator] | None = None,
) -> Tensor:
    """Standard normal numbers (n, S B, d) from one generator, or B rows from each of S."""
    if not isinstance(generator, Sequence):
        return torch.randn(shape, device=device, generator=generator)
    shape = (shape[0], shape[1] // len(generator), shape[2])
    return torch.cat([torch.randn(shape, device=device, generator=g) for g in generator], 1)


def log_ratio(moved: Tensor, h: Tensor, sigma2: float, u: Tensor, s: Tensor | None = None):
    """log N(moved; h u, sigma^2 h e^s) - log N(moved; 0, sigma^2 h): (n, B).

    `moved` (n, B, d) is x' - a x, or x - b x' for P_B with g in the place of h (n,). Without s
    this is Girsanov's `(u . moved - h |u|^2 / 2) / sigma^2`.
    """
    h = h[:, None, None]
    if s is None:
        return (u * torch.addcmul(moved, u, h, value=-0.5)).sum(-1) / sigma2
    squared = torch.addcmul(moved, u, h, value=-1).square() * (-s).exp()
    return -0.5 * ((squared - moved.square()) / (sigma2 * h) + s).sum(-1)


def ratio_slope(moved: Tensor, h: Tensor, sigma2: float, u: Tensor, s: Tensor | None = None):
    """Derivatives of `log_ratio` by u and, if given, by s: a tuple of (n, B, d)."""
    h = h[:, None, None]
    residual = torch.addcmul(moved, u, h, value=-1)
    if s is None:
        return (residual / sigma2,)
    scaled = residual * (-s).exp() / sigma2
    return scaled, 0.5 * (residual * scaled / h - 1)
