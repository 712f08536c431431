"""Reference process: pinned Brownian motion, its two kernels, and time grids.

The generation kernel P_F adds a learned drift u to Brownian motion that starts at 0; the
destruction kernel P_B is the Brownian bridge back to 0:

    P_F(x' | x) = N(x'; x + u(x, t) dt, sigma^2 dt I)
    P_B(x | x') = N(x; (t / t') x', sigma^2 (t / t') dt I),      dt = t' - t.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["PinnedBrownian", "time_grid"]

LOG_2PI = math.log(2 * math.pi)


def time_grid(steps: int, kind: str = "uniform", generator: torch.Generator | None = None):
    """Times 0 = t_0 < ... < t_T = 1 of a trajectory: (T + 1,), on the CPU.

    `uniform` has equal steps. `random` draws each inner time near its uniform place (stratified:
    within 0.45 / T of it, so that no step is shorter than 0.1 / T): a sampler trained on it can be
    run on any finer grid (arXiv:2501.06148).

    Raises:
        ValueError: if steps is not a positive integer or the kind is unknown.
    """
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ValueError(f"steps={steps!r} must be a positive integer")
    t = torch.arange(steps + 1, dtype=torch.float32) / steps
    if kind == "random":
        t[1:-1] += (torch.rand(steps - 1, generator=generator) - 0.5) * (0.9 / steps)
    elif kind != "uniform":
        raise ValueError(f"grid={kind!r} is unknown; allowed: uniform, random")
    return t


def _log_normal(residual: Tensor, variance: Tensor) -> Tensor:
    """log N(residual; 0, variance I): (T, B, d), (T,) -> (T, B)."""
    variance = variance[:, None]
    quadratic = residual.square().sum(-1) / variance
    return -0.5 * (quadratic + residual.shape[-1] * (LOG_2PI + variance.log()))


@dataclass(frozen=True)
class PinnedBrownian:
    """Brownian motion from the origin with variance sigma2 per unit time.

    States x are (T + 1, B, d), drifts (T, B, d) and times t (T + 1,) throughout.
    """

    sigma2: float

    def log_pf(self, x: Tensor, drift: Tensor, t: Tensor) -> Tensor:
        """log P_F of each transition, without exploration noise: (T, B)."""
        dt = t.diff()
        return _log_normal(x.diff(dim=0) - drift * dt[:, None, None], self.sigma2 * dt)

    def log_pb(self, x: Tensor, t: Tensor) -> Tensor:
        """log P_B of each transition: (T, B); the first, back to the origin, is certain: 0."""
        back = (t[:-1] / t[1:])[1:]
        residual = x[1:-1] - back[:, None, None] * x[2:]
        inner = _log_normal(residual, self.sigma2 * back * t.diff()[1:])
        return torch.cat((torch.zeros_like(x[:1, :, 0]), inner))

    def log_ratio(self, x: Tensor, drift: Tensor, t: Tensor) -> Tensor:
        """sum log P_F - sum log P_B of each trajectory: (B,).

        The bridge telescopes against the Brownian part of P_F, and what stays is Girsanov's sum
        and one Gaussian, with no per-step normalisers to cancel:
        sum_i [u_i . dx_i - dt_i |u_i|^2 / 2] / sigma^2 + log N(x_1; 0, sigma^2 I).
        """
        dt = t.diff()[:, None, None]
        girsanov = (drift * torch.addcmul(x.diff(dim=0), drift, dt, value=-0.5)).sum((0, 2))
        end = 0.5 * x[-1].square().sum(-1)
        norm = 0.5 * x.shape[-1] * (LOG_2PI + math.log(self.sigma2))
        return (girsanov - end) / self.sigma2 - norm

    def bridge(self, x1: Tensor, t: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """A destruction trajectory from each end point, all times at once: (B, d) -> (T + 1, B, d).

        A Brownian path w becomes the bridge to x1 as w_t + t (x1 - w_1), so no loop is needed.
        """
        std = (self.sigma2 * t.diff()).sqrt()[:, None, None]
        noise = torch.randn(
            (len(t) - 1, *x1.shape), generator=generator, device=x1.device, dtype=x1.dtype
        )
        x = torch.zeros((len(t), *x1.shape), device=x1.device, dtype=x1.dtype)
        torch.cumsum(noise.mul_(std), 0, out=x[1:])
        x += t[:, None, None] * (x1 - x[-1])
        x[-1] = x1
        return x
