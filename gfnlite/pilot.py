"""The pilot: how wide a target is, and so the variance and exploration to train with.

Pinned Brownian motion ends as N(0, sigma2 I) before training. Much narrower than the target, it
never sees the outer modes; much wider, its steps are too coarse for the inner structure.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .callables import as_target
from .checks import shape_of
from .combine import conditioned
from .energy import Target
from .smc import annealed_smc

__all__ = ["Scale", "suggest_scale"]

SCALES = tuple(10 ** (i / 2) for i in range(-2, 5))  # standard deviations of the starts: 0.1 to 100
CHAINS, MOVES, LEVELS = 128, 8, 24  # chains a scale, transitions a level, most levels of a scale
SIGMAS = 4.0  # a normal variable is never seen beyond so many standard deviations


@dataclass(frozen=True)
class Scale:
    """What the pilot found.

    Attributes:
        sigma2: variance per unit time of the reference process.
        exploration: variance per unit time to add at the start of training.
        spread: root mean square of a coordinate, about the origin.
        radius: 99% of the samples have `|x_i| <= radius`, in the widest coordinate i.
        energy_calls: points at which the energy was evaluated.
        warning: why not to rely on it, or None.
    """

    sigma2: float
    exploration: float
    spread: float
    radius: float
    energy_calls: int
    warning: str | None = None

    def reaches(self, sigma2: float, exploration: float = 0.0) -> str | None:
        """A warning if training that starts with these variances cannot see all of the target.

        Raises:
            ValueError: unless sigma2 is positive and exploration at least 0, and both finite.
        """
        if not (0 < sigma2 < math.inf and 0 <= exploration < math.inf):
            raise ValueError(
                f"{sigma2=} must be positive and {exploration=} at least 0, and finite"
            )
        sigma = math.sqrt(sigma2 + exploration)
        if self.radius <= SIGMAS * sigma:
            return None
        return (
            f"samples reach to {self.radius:.3g}, which is {self.radius / sigma:.1f} standard "
            f"deviations of sigma2={sigma2:g} with exploration={exploration:g}: they may never be "
            f"found; try sigma2={self.sigma2:.2g}, exploration={self.exploration:.2g}"
        )


def suggest_scale(
    energy_fn: Target | Callable[..., Tensor],
    dim: int | None = None,
    *,
    condition: Tensor | Sequence[float] | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> Scale:
    """Variance and exploration that suit a target, from a short pilot run.

    Sequential Monte Carlo (Del Moral et al. 2006, Sequential Monte Carlo samplers) goes from
    N(0, s^2 I) to the target by MALA moves, for s from 0.1 to 100. The runs are pooled by their
    estimates of the normaliser, so that those that miss much of the mass count little. Then

    `sigma2 = mean over coordinates of (E[x_i^2] / E[score_i^2])^(1/2)`,

    the geometric mean of the width of the whole, `E[x_i^2]`, and of the finest structure,
    `1 / E[score_i^2]`; for N(0, s^2 I) both are s^2, the exact optimum. And

    `exploration = max(0, max_i E[x_i^2] / 2 - sigma2)`,

    a rule of thumb that meets the best settings known for 9GMM, 25GMM and Manywell. Heavy
    tails, such as the funnel's, are measured roughly.

    Args:
        energy_fn: a target, or a callable E(x) or E(x, c).
        dim: d; needed for a callable.
        condition: (c,), of a conditional target; None draws one that it is trained on.
        seed: the same seed gives the same answer.
        device: where the target lives.

    Raises:
        ValueError: if no run comes to an end, the energy is flat, or a condition is needed and
            unknown, or not (c,).
    """
    if condition is not None:
        condition = torch.as_tensor(condition, dtype=torch.float32)
        if condition.ndim != 1:
            raise ValueError(f"condition must be one, of shape (c,), got {shape_of(condition)}")
    condition_dim = 0 if condition is None or isinstance(energy_fn, Target) else len(condition)
    target = as_target(energy_fn, dim, condition_dim).to(device)
    generator = torch.Generator(device).manual_seed(seed)
    if condition is None and target.condition_dim:
        if target.sample_condition is None:
            raise ValueError(f"target '{target.name}' needs a condition")
        condition = target.sample_condition(1, generator)[0]
    if condition is not None:
        target = conditioned(target, condition.to(device))
    options = {"keep": 0.5, "moves": MOVES, "levels": LEVELS, "device": device}
    runs = [annealed_smc(target, CHAINS, s, generator=generator, **options) for s in SCALES]
    log_z = torch.tensor([run.log_z for run in runs], device=device)
    if not log_z.isfinite().any():
        raise ValueError(
            f"no start of the pilot came to an end on target '{target.name}': energy not finite or "
            "too rough, or dim too large; choose sigma2 by hand"
        )
    share = log_z.softmax(0)
    weight = share.repeat_interleave(CHAINS) / CHAINS
    x, score = (torch.cat([getattr(run, part) for run in runs]) for part in ("x", "score"))
    x, score = x[weight > 0], score[weight > 0]
    weight = weight[weight > 0]
    second = weight @ x.square()  # (d,)
    sigma2 = (second / (weight @ score.square())).sqrt().mean().item()
    if not 0 < sigma2 < math.inf:
        raise ValueError(
            f"energy of target '{target.name}' is flat wherever the pilot looked, and so has no "
            "scale: choose sigma2 by hand"
        )
    exploration = max(0.0, second.max().item() / 2 - sigma2)
    radius = max(_quantile(column, weight, 0.99) for column in x.abs().T)
    warning = None
    if radius > 2 * SCALES[-1]:
        warning = f"samples reach to {radius:.3g}, as far as the pilot sees: rescale x"
    elif log_z.isfinite().sum() < 2:
        warning = (
            "only one start of the pilot came to an end: energy too rough, or dim too large; "
            "choose sigma2 by hand"
        )
    spread, calls = second.mean().sqrt().item(), sum(run.energy_calls for run in runs)
    return Scale(sigma2, exploration, spread, radius, calls, warning)


def _quantile(x: Tensor, weight: Tensor, q: float) -> float:
    x, order = x.sort()
    cells = weight[order].cumsum(0)
    return x[torch.searchsorted(cells, q * cells[-1]).clamp(max=len(x) - 1)].item()
