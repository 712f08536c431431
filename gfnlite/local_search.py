"""Local search: Metropolis-adjusted Langevin chains that leave the target invariant."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .arguments import positive, shown
from .checks import check_output, given, shape_of
from .config import integer
from .energy import Target

__all__ = ["Chains", "mala"]


@dataclass(frozen=True)
class Chains:
    """The kept states of B chains; a rejected proposal repeats the state.

    Attributes:
        x: (K, B, d).
        log_reward: log R(x; c) (K, B), not tempered.
        acceptance: mean acceptance probability () after burn-in.
        step_size: the adapted step size (), as used for the kept states.
        energy_calls: points at which the energy and its gradient were evaluated.
    """

    x: Tensor
    log_reward: Tensor
    acceptance: Tensor
    step_size: Tensor
    energy_calls: int


@torch.no_grad()
def mala(
    target: Target,
    x: Tensor,
    *,
    condition: Tensor | None = None,
    steps: int = 200,
    burn_in: int = 100,
    step_size: float = 0.01,
    adapt: float = 1.1,
    target_acceptance: float = 0.574,
    temperature: float = 1.0,
    thin: int = 1,
    generator: torch.Generator | None = None,
) -> Chains:
    """Metropolis-adjusted Langevin chains on R(x; c)^(1 / temperature) from x (B, d).

    A step proposes y = x + h grad log R(x) / temperature + sqrt(2 h) noise, and rejects it where
    log R or its gradient is not finite. The step size h is common to the chains and adapted in the
    burn-in only, so the kept transitions leave the target invariant, and chains that start with
    importance weights keep them (Roberts & Tweedie 1996, Exponential convergence of Langevin
    distributions; the acceptance sought: Roberts & Rosenthal 1998).

    Args:
        target: its energy and gradient are evaluated once a step, and once at the start.
        x: starting points (B, d).
        condition: (B, c), one for each chain, if the target takes one.
        steps: transitions, burn-in included.
        burn_in: leading transitions whose states are not kept.
        step_size: h at the start.
        adapt: largest factor by which one transition changes h; 1 keeps it.
        target_acceptance: acceptance that the adaptation seeks.
        temperature: above 1 flattens the target.
        thin: every so many states after the burn-in are kept; K = ceil((steps - burn_in) / thin).
        generator: random state.

    Raises:
        TypeError: if `target` is not a `Target`.
        ValueError: for a setting that is not allowed, or where log R or its gradient is not finite
            at a starting point.
    """
    check_is_target(target)
    _check(x, steps, burn_in, step_size, adapt, target_acceptance, temperature, thin)
    extra = given(condition)
    log_r, score = target.log_reward_and_score(x, *extra)
    check_output(target, "log_reward", log_r, x)
    check_output(target, "score", score, x)
    bad = ~(log_r.isfinite() & score.isfinite().all(-1))
    if bad.any():
        raise ValueError(
            f"log R of target '{target.name}' or its gradient is not finite at {int(bad.sum())} of "
            f"{len(x)} starting points"
        )
    score = score / temperature
    h = torch.as_tensor(step_size, dtype=x.dtype, device=x.device)
    kept_x = x.new_empty((-(-(steps - burn_in) // thin), *x.shape))
    kept_r = log_r.new_empty(kept_x.shape[:2])
    rates = log_r.new_empty(steps)
    threshold = torch.rand(
        (steps, len(x)), generator=generator, device=x.device, dtype=log_r.dtype
    ).log_()
    for i in range(steps):
        noise = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
        noise *= (2 * h).sqrt()
        y = torch.addcmul(x + noise, score, h)
        log_r_y, score_y = target.log_reward_and_score(y, *extra)
        score_y = score_y / temperature
        # log q(x | y) - log q(y | x) = -s . (2 noise + h s) / 4 with s = score(x) + score(y)
        s = score + score_y
        log_ratio = (log_r_y - log_r) / temperature
        log_ratio = log_ratio - 0.25 * (s * torch.addcmul(2 * noise, s, h)).sum(-1)
        log_ratio = torch.where(log_ratio < torch.inf, log_ratio, -torch.inf)  # NaN too
        accept = threshold[i] < log_ratio
        accept_d = accept[:, None]
        x, score = torch.where(accept_d, y, x), torch.where(accept_d, score_y, score)
        log_r = torch.where(accept, log_r_y, log_r)
        rates[i] = log_ratio.exp().clamp_(max=1).mean()
        if i < burn_in:  # by `adapt` where far from the acceptance sought, by less where near
            h = h * adapt ** (5 * (rates[i] - target_acceptance)).clamp(-1, 1)
        elif (i - burn_in) % thin == 0:
            kept_x[(i - burn_in) // thin], kept_r[(i - burn_in) // thin] = x, log_r
    return Chains(kept_x, kept_r, rates[burn_in:].mean(), h, (steps + 1) * len(x))


def check_is_target(target) -> None:
    """Refuse what is no `Target`.

    Raises:
        TypeError: if it is not.
    """
    if not isinstance(target, Target):
        name = getattr(target, "__name__", type(target).__name__)
        raise TypeError(
            f"target={name} must be a Target: wrap a callable E(x) with "
            "gl.targets.as_target(fn, dim)"
        )


def _check(x, steps, burn_in, step_size, adapt, target_acceptance, temperature, thin) -> None:
    if not isinstance(x, Tensor) or x.ndim != 2 or not len(x):
        got = shape_of(x) if isinstance(x, Tensor) else shown(x)
        raise ValueError(f"x must have shape (B, d) with B >= 1, got {got}")
    integer("steps", steps, 1)
    if integer("burn_in", burn_in, 0) >= steps:
        raise ValueError(f"burn_in={burn_in} must be at least 0 and below steps={steps}")
    integer("thin", thin, 1)
    positive("step_size", step_size)
    positive("temperature", temperature)
    if positive("adapt", adapt) < 1:
        raise ValueError(f"adapt={adapt} must be at least 1")
    if positive("target_acceptance", target_acceptance) >= 1:
        raise ValueError(f"target_acceptance={target_acceptance} must be between 0 and 1")
