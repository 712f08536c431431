"""The pilot: how wide a target is, and so the variance and exploration to train with.

Pinned Brownian motion ends as N(0, sigma2 I) before training. Much narrower than the target, it
never sees the outer modes; much wider, its steps are too coarse for the inner structure.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .smc import annealed_smc
from .targets import Target, as_target

__all__ = ["Scale", "reach", "suggest_scale"]

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
        radius: 99% of the samples have |x_i| <= radius, in the widest coordinate i.
        energy_calls: points at which the energy was evaluated.
        warning: why not to rely on it, or None.
    """

    sigma2: float
    exploration: float
    spread: float
    radius: float
    energy_calls: int
    warning: str | None = None


def suggest_scale(
    energy_fn: Target | Callable[..., Tensor],
    dim: int | None = None,
    *,
    condition: Tensor | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> Scale:
    """Variance and exploration that suit a target, from a short pilot run.

    Sequential Monte Carlo (Del Moral et al. 2006, Sequential Monte Carlo samplers) goes from
    N(0, s^2 I) to the target by MALA moves, for s from 0.1 to 100. The runs are pooled by their
    estimates of the normaliser, so that those that miss much of the mass count little. Then
        sigma2 = mean over coordinates of (E[x_i^2] / E[score_i^2])^(1/2):
    the geometric mean of the width of the whole, E[x_i^2], and of the finest structure,
    1 / E[score_i^2]; for N(0, s^2 I) both are s^2, the exact optimum. And
        exploration = max(0, max_i E[x_i^2] / 2 - sigma2),
    a rule of thumb that meets the best settings known for 9GMM, 25GMM and Manywell. Heavy
    tails, such as the funnel's, are measured roughly.

    Args:
        energy_fn: a target, or a callable E(x) or E(x, c).
        dim: d; needed for a callable.
        condition: (c,), of a conditional target; None draws one that it is trained on.
        seed: the same seed gives the same answer.
        device: where the target lives.

    Raises:
        ValueError: if no run comes to an end, or if a condition is needed and unknown.
    """
    condition_dim = 0 if condition is None or isinstance(energy_fn, Target) else len(condition)
    target = as_target(energy_fn, dim, condition_dim).to(device)
    generator = torch.Generator(device).manual_seed(seed)
    if condition is None and target.condition_dim:
        if target.sample_condition is None:
            raise ValueError(f"target '{target.name}' needs a condition")
        condition = target.sample_condition(1, generator)[0]
    options = {"keep": 0.5, "moves": MOVES, "levels": LEVELS, "device": device}
    options |= {"condition": None if condition is None else condition.to(device)}
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
    exploration = max(0.0, second.max().item() / 2 - sigma2)
    radius = max(_quantile(column, weight, 0.99) for column in x.abs().T)
    warning = None
    if radius > 2 * SCALES[-1]:
        warning = f"samples reach to {radius:.3g}, as far as the pilot sees: rescale x"
    elif log_z.isfinite().sum() < 2:
        warning = "only one start of the pilot came to an end: energy too rough, or dim too large"
    spread, calls = second.mean().sqrt().item(), sum(run.energy_calls for run in runs)
    return Scale(sigma2, exploration, spread, radius, calls, warning)


def reach(
    energy_fn: Scale | Target | Callable[..., Tensor],
    sigma2: float,
    exploration: float = 0.0,
    dim: int | None = None,
    **pilot,
) -> str | None:
    """A warning if training that starts with sigma2 and exploration cannot see all of the target.

    Args:
        energy_fn: a scale already found, or what `suggest_scale` takes.
        sigma2: chosen variance per unit time.
        exploration: chosen variance per unit time, added to it.
        dim: d; needed for a callable.
        **pilot: passed on to `suggest_scale`.
    """
    found = energy_fn
    if not isinstance(found, Scale):
        found = suggest_scale(energy_fn, dim, **pilot)
    sigma = math.sqrt(sigma2 + exploration)
    if found.radius <= SIGMAS * sigma:
        return None
    return (
        f"samples reach to {found.radius:.3g}, which is {found.radius / sigma:.1f} standard "
        f"deviations of sigma2={sigma2:g} with exploration={exploration:g}: they may never be "
        f"found; try sigma2={found.sigma2:.2g}, exploration={found.exploration:.2g}"
    )


def _quantile(x: Tensor, weight: Tensor, q: float) -> float:
    x, order = x.sort()
    cells = weight[order].cumsum(0)
    return x[torch.searchsorted(cells, q * cells[-1]).clamp(max=len(x) - 1)].item()
