"""Diagnosis: what is wrong with a sampler, how one can tell, and which setting to change.

`diagnose` collects `Evidence` from trajectories; each check is a pure function from the evidence to
a `Finding` or None. Their order is that of causes: what comes first may explain what follows.
"""

import math
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from . import metrics
from .config import Config, integer
from .evaluation import Diagnosis, at_condition, draw, has_score, pilot
from .targets import Target

if TYPE_CHECKING:
    from .sampler import GFNDiffusion

__all__ = ["CHECKS", "Diagnosis", "Evidence", "Finding", "Mode", "diagnose", "pilot"]

FOUND = 0.2  # of its exact mass: a mode counts as found, as in `modes_found`
MARGIN = 3.0  # nats above every generated log-weight: never visited, not merely rare
UNSEEN = 0.01  # fraction of the target that may lie there before it counts
GAP = 1.0  # nats between ELBO and log Z that a trained sampler may have
FAR, TOO_FAR = 4.0, 6.0  # standard deviations of the reference process: see check_sigma
LEAST_ESS, LARGEST_SHARE = 0.01, 0.25


@dataclass(frozen=True)
class Mode:
    """A mode's name, its exact mass, its sampled weight, and its group (see `mode_groups`)."""

    name: str
    mass: float
    weight: float
    group: int = 0


@dataclass(frozen=True)
class Evidence:
    """All that the checks look at; log-weights in nats, fractions from 0 to 1."""

    config: Config
    elbo: float
    log_z_is: float
    ess: float
    largest: float  # share of the largest weight in the sum of all
    reach: float  # 90% quantile of |x_i| in the target's widest coordinate
    spread: float  # mean square of that coordinate
    history: list[dict] = field(default_factory=list)  # `sampler.history`, empty before training
    eubo: float | None = None
    modes: list[Mode] = field(default_factory=list)  # if the target knows them
    exact: bool = True  # whether there are exact samples, or else what the pilot found
    piloted: bool = True  # if not exact: whether there was a pilot, which needs a gradient
    unseen: float = 0.0  # fraction of them that outweighs every generated trajectory by MARGIN
    where: list[str] = field(default_factory=list)  # some of those, in words

    @property
    def unfinished(self) -> bool:
        """Whether a tenth of the planned training or more is left."""
        return not self.history or self.history[-1]["iteration"] < 0.9 * self.config.iterations

    @property
    def missing(self) -> list[Mode]:
        """Modes with less than 20% of their exact mass."""
        return [mode for mode in self.modes if mode.weight < FOUND * mode.mass]

    @property
    def missing_mass(self) -> float:
        """Mass that those modes lack, as a fraction of the target; groups are independent."""
        groups = {mode.group for mode in self.missing}
        lost = (sum(m.mass - m.weight for m in self.missing if m.group == g) for g in groups)
        return 1 - math.prod(1 - mass for mass in lost)

    @property
    def loses_mass(self) -> bool:
        """Whether a trained sampler leaves a part of the target out."""
        # With degenerate weights, heavy trajectories are everywhere and say nothing.
        unseen = not self.modes and self.ess >= LEAST_ESS and self.unseen > UNSEEN
        return bool(self.history) and (bool(self.missing) or unseen)


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong: a verdict of two or three words, its evidence, and what to do."""

    verdict: str
    evidence: str
    advice: str


def check_sigma(e: Evidence) -> Finding | None:
    """Whether the target lies too many standard deviations of the reference process away.

    25GMM with the paper's sigma2 = 5 lies at 4.7, and is learned with exploration alone. So from 4
    on this is a finding if mass is missing as well, and from 6 on always.
    """
    distance = e.reach / math.sqrt(e.config.sigma2)
    if e.config.standardise or distance <= (FAR if e.loses_mass else TOO_FAR):
        return None  # standardised, the target is as far away as it should be
    return Finding(
        "sigma too small",
        f"a tenth of the target lies beyond {e.reach:.3g} in its widest coordinate, {distance:.1f} "
        f"standard deviations of the reference process (sigma2={e.config.sigma2:.3g})",
        f"set sigma2={(e.reach / FAR) ** 2:.2g} or more",
    )


def check_convergence(e: Evidence) -> Finding | None:
    """Whether the ELBO is far below importance-sampled (IS) log Z, and training still helps."""
    gap, planned = e.log_z_is - e.elbo, e.config.iterations
    evidence = f"the ELBO is {gap:.1f} nats below IS log Z"
    if not e.history:
        return Finding("not converged", f"not trained yet; {evidence}", "call fit()")
    if gap <= GAP:
        return None
    if e.unfinished:
        done = e.history[-1]["iteration"]
        evidence += f" after {done:,} of {planned:,} iterations"
        return Finding("not converged", evidence, f"call fit() for the other {planned - done:,}")
    quarter, elbos = len(e.history) // 4, [entry["elbo"] for entry in e.history]
    if quarter == 0:
        return None  # too short to see a trend
    gain = median(elbos[-quarter:]) - median(elbos[-2 * quarter : -quarter])
    if gain <= 0.1 * gap:
        return None
    evidence += f" and still rises, by {gain:.1f} nats in the last quarter of training"
    return Finding("not converged", evidence, f"set iterations={2 * planned} (now {planned})")


def check_collapse(e: Evidence) -> Finding | None:
    """Whether modes, or regions of high weight, are never visited."""
    if not e.loses_mass:
        return None
    if e.missing:
        evidence = f"{e.missing_mass:.1%} of the target is missing, {len(e.missing)} of "
        evidence += f"{len(e.modes)} modes with less than {FOUND:.0%} of their mass: "
        evidence += _some([mode.name for mode in e.missing])
    elif e.exact:
        evidence = f"{e.unseen:.1%} of the target is never visited, such as {_some(e.where)}"
    else:
        evidence = f"a pilot run found regions, of unknown mass, never visited: {_some(e.where)}"
    if e.eubo is not None:
        evidence += f". The EUBO, which sees it, is {e.eubo - e.log_z_is:.1f} nats above IS log Z"
    return Finding("collapsed", evidence, _advice_to_explore(e))


def check_weights(e: Evidence) -> Finding | None:
    """Whether a few trajectories carry nearly all weight, so that no weighted mean can be trusted.

    The gap of fixed variances shrinks about as 1 / T, so more steps may be the remedy.
    """
    if e.ess >= LEAST_ESS and e.largest <= LARGEST_SHARE:
        return None
    c = e.config
    return Finding(
        "weights degenerate",
        f"the effective sample size is {e.ess:.2%} and one weight is {e.largest:.0%} of their sum, "
        "so IS log Z and ESS are unreliable",
        f"first what is above, if anything; then steps={2 * c.steps} (now {c.steps}) and "
        f"iterations={2 * c.iterations} (now {c.iterations})",
    )


def check_gap(e: Evidence) -> Finding | None:
    """Whether ELBO or EUBO is far from importance-sampled (IS) log Z, and nothing else was found.

    Another check may be silent because the history is too short for a trend, or flat.
    """
    below, above = e.log_z_is - e.elbo, -math.inf if e.eubo is None else e.eubo - e.log_z_is
    if max(below, above) <= GAP or any(check(e) for check in CHECKS[:-1]):
        return None
    evidence = f"the ELBO is {below:.1f} nats below IS log Z"
    evidence += f" and the EUBO {above:.1f} nats above it" if e.eubo is not None else ""
    return Finding("not converged", evidence, _advice_to_close(e, max(below, above)))


CHECKS = (check_sigma, check_convergence, check_collapse, check_weights, check_gap)


@torch.no_grad()
def diagnose(
    sampler: "GFNDiffusion",
    n_samples: int = 2000,
    seed: int = 0,
    condition: Tensor | None = None,
) -> Diagnosis:
    """Say what is wrong with a sampler and which setting to change; the same seed repeats.

    The verdicts are "sigma too small", "not converged", "collapsed", "weights degenerate", or else
    "fine". Where the target has no exact samples, annealed SMC from wide starts looks for
    regions that the sampler misses; they may miss some too, so "fine" is then no proof. It needs
    the energy's gradient, and without one nothing but the sampler's own regions is known. A
    conditional target is diagnosed at one `condition` (c,); the history is of all.

    Raises:
        ValueError: if `n_samples` is not a positive integer or `seed` none from 0 to 2**32 - 1, or
            if the condition is missing, unasked for or not of shape (c,).
    """
    n_samples, seed = integer("n_samples", n_samples, 1), integer("seed", seed, 0, 2**32 - 1)
    target, condition = at_condition(sampler, condition)
    generator = torch.Generator(sampler.device).manual_seed(seed)
    options = {"generator": generator, "condition": condition}
    generated, x, log_reward = draw(sampler, n_samples, **options)
    exact, piloted = target.sample is not None, False
    standardised, sigma = sampler.config.standardise, math.sqrt(sampler.config.sigma2)
    if exact:
        points = target.sample(n_samples, generator)
    elif piloted := has_score(target, x[:1]):
        points = pilot(sampler.seen if standardised else target, sigma, generator)
        points = sampler.seen.decode(points) if standardised else points
        # A chain may be stuck where there is next to no mass: keep what could hold some percent.
        kept = target.log_reward(points) >= log_reward.quantile(0.01) - 0.5 * target.dim
        points = points[kept] if kept.any() else x
    else:
        points = x
    log_weight = draw(sampler, len(points), ends=points, **options)[0]
    unseen = log_weight > generated.max() + MARGIN
    unseen &= exact or piloted
    e = sampler.seen.encode(points) if standardised else points  # as the process sees them
    evidence = Evidence(
        config=sampler.config,
        elbo=metrics.elbo(generated),
        log_z_is=metrics.log_z_is(generated),
        ess=metrics.ess(generated),
        largest=generated.double().softmax(0).max().item(),
        reach=e.abs().quantile(0.9, 0).max().item(),
        spread=e.square().mean(0).max().item(),
        history=list(sampler.history),
        eubo=metrics.eubo(log_weight) if exact else None,
        modes=_modes(target, x, points if exact else None) if target.mode_mass is not None else [],
        unseen=unseen.double().mean().item(),
        where=[_place(point) for point in points[unseen][:3]],
        exact=exact,
        piloted=piloted,
    )
    findings = [finding for check in CHECKS if (finding := check(evidence)) is not None]
    return Diagnosis(target.name, evidence, findings)


def _modes(target: Target, x: Tensor, exact: Tensor | None) -> list[Mode]:
    groups = metrics.mode_groups(target.mode_mass).tolist()
    names = [f"mode {k}" for k in range(len(groups))]
    if groups[-1] > 0:  # counted well by well
        names = [f"well {g} {('left', 'right')[k % 2]}" for k, g in enumerate(groups)]
    elif exact is not None:
        # A mode need not contain its mean (a ring does not), so name it by its likeliest sample.
        log_r = target.log_reward(exact)[:, None].where(target.modes_of(exact) > 0, -torch.inf)
        names = [f"mode {k} near {_place(exact[i])}" for k, i in enumerate(log_r.argmax(0))]
    shares = zip(target.mode_mass.tolist(), target.modes_of(x).mean(0).tolist(), strict=True)
    return [Mode(name, *s, group) for name, s, group in zip(names, shares, groups, strict=True)]


def _advice_to_explore(e: Evidence) -> str:
    if check_sigma(e) is not None:
        return "first the larger sigma2"
    if e.unfinished:
        return "first the rest of the training, as modes may still be found"
    # A third of the variance that sigma2 lacks: what works on 9GMM (4) and on 25GMM (16).
    if e.config.replay_ratio == 1:
        longer, more = 2 * e.config.iterations, 2 * e.config.prefill
        return f"set iterations={longer}; if that is no help, prefill={more}, to find more"
    c, wanted = e.config, max((e.spread - e.config.sigma2) / 3, e.config.sigma2 / 2)
    if c.objective == "reverse_kl":
        return f"set objective='tb' and exploration={wanted:.2g}: reverse KL cannot explore"
    if c.exploration < 0.75 * wanted:
        return f"set exploration={wanted:.2g} (now {c.exploration:.2g})"
    longer = f"exploration_decay=1.0 and iterations={2 * c.iterations} (now {c.iterations})"
    return f"let exploration last, {longer}, or set exploration={2 * c.exploration:.2g}"


def _advice_to_close(e: Evidence, gap: float) -> str:
    c, done = e.config, e.history[-1]["iteration"]
    if e.unfinished:
        return f"call fit() for the other {c.iterations - done:,}"
    usual = Config().iterations
    if done < usual:  # as a plateau so early is often a slow rise
        return f"set iterations={usual} (now {done}); if that is no help, steps={2 * c.steps}"
    quarter, elbos = len(e.history) // 4, [entry["elbo"] for entry in e.history]
    parts = [median(elbos[i * quarter : (i + 1) * quarter]) for i in range(4 if quarter else 0)]
    if parts and max(parts) - parts[-1] > 0.1 * gap:
        return f"set lr={c.lr / 3:.1g} (now {c.lr:.2g}), as the ELBO was higher before"
    more = f"steps={2 * c.steps} (now {c.steps})"
    return f"set {more}" if c.learn_variance else f"set learn_variance=True, or {more}"


def _some(names: list[str]) -> str:
    return "; ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")


def _place(x: Tensor) -> str:
    values = [str(round(value, 1) + 0.0) for value in x[:4].tolist()]  # + 0.0: no "-0.0"
    return f"({', '.join(values)}{', …' if len(x) > 4 else ''})"
