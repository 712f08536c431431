"""Posteriors one by one: how far a conditional sampler is from the truth at each condition.

log-weights of different conditions must not be pooled: E[w] is Z(c), so that a mean of w over
conditions is that of the easiest of them. Everything here is per condition first.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .ensemble import half_width
from .evaluation import BATCH, batches
from .importance import Truth
from .metrics import STATISTICS
from .targets import check_condition

if TYPE_CHECKING:
    from .sampler import GFNDiffusion

__all__ = [
    "PosteriorEvaluation",
    "evaluate_posteriors",
    "importance_bound",
    "log_weights_each",
    "pooled_log_z",
    "ranks",
]


EXACT = 100  # samples of each posterior that the EUBO is taken over, if a target has exact ones


@torch.no_grad()
def log_weights_each(
    sampler: "GFNDiffusion",
    conditions: Tensor,
    n: int = 1000,
    ends: Tensor | None = None,
    steps: int | None = None,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Log-weights (n_c, n) and ends (n_c, n, d) of n trajectories for each condition (n_c, c).

    Generated, or destroyed from the `ends` (n_c, n, d). Each condition is encoded once a batch.
    """
    count = len(conditions)
    if ends is not None:
        n = ends.shape[1]
    # as many conditions at a time as fit into memory, and for many samples less than one
    most = batches(sampler, BATCH, steps)[0]
    each, together = min(n, most), max(1, most // n)
    log_w, x = [], []
    for rows in torch.arange(count).split(together):
        parts = []
        for place in torch.arange(n).split(each):
            condition = conditions[rows].repeat_interleave(len(place), 0)
            start = None if ends is None else ends[rows][:, place].flatten(0, 1)
            made = sampler.trajectory(
                None if ends is not None else len(condition), start, steps, generator, condition,
                repeats=len(place),
            )  # fmt: skip
            parts.append((made.log_weight, made.x[-1].clone()))
        for kept, values in zip((log_w, x), zip(*parts, strict=True), strict=True):
            kept.append(torch.cat([part.unflatten(0, (len(rows), -1)) for part in values], 1))
    return torch.cat(log_w), torch.cat(x)


def importance_bound(log_weight: Tensor, k: int) -> Tensor:
    """The k-sample bound of log Z, E[log mean_k w]: (..., n) -> (...), n a multiple of k.

    k = 1 is the ELBO; it grows with k, to log Z (Burda et al., arXiv:1509.00519).

    Raises:
        ValueError: if n is no multiple of k.
    """
    n = log_weight.shape[-1]
    if k < 1 or n % k:
        raise ValueError(f"k={k} must be positive and divide the number of samples, {n}")
    return (log_weight.unflatten(-1, (-1, k)).logsumexp(-1) - math.log(k)).mean(-1)


@torch.no_grad()
def pooled_log_z(
    sampler: "GFNDiffusion", conditions: Tensor, generator: torch.Generator | None = None
) -> float:
    """log of the mean of w over conditions (n, c), one trajectory each: as arXiv:2402.05098 does.

    No log Z of anything: it estimates log of the mean of Z(c), which a few conditions dominate.
    """
    log_w, _ = log_weights_each(sampler, conditions, 1, generator=generator)
    return importance_bound(log_w.T, len(log_w)).item()


@torch.no_grad()
def ranks(
    sampler: "GFNDiffusion",
    conditions: Tensor,
    exact: Tensor,
    draws: int = 63,
    steps: int | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Rank of an exact draw among the sampler's own, coordinate by coordinate: (n, d) in 0..draws.

    Uniform on 0 to `draws` if the sampler is right (simulation-based calibration: Talts et al.,
    arXiv:1804.06788). Piled up at both ends, its posteriors are too narrow; in the middle, too
    wide.

    Args:
        sampler: of a conditional target.
        conditions: (n, c), drawn as c is distributed.
        exact: one draw of the posterior at each, (n, d).
        draws: the sampler's, for each condition.
        steps, generator: as `GFNDiffusion.trajectory`.
    """
    _, x = log_weights_each(sampler, conditions, draws, None, steps, generator)
    return (x.cpu() < exact.cpu()[:, None]).sum(1)


class PosteriorEvaluation(dict):
    """What `evaluate_posteriors` returns: values (n,) per condition, by name; shows their means.

    Names: elbo, bound_<k> for each k, log_z_is, ess, eubo, log_z, log_z_learned; where there is a
    truth also gap_<name> = log Z(c) less a bound, or the other way for the EUBO.
    """

    LABELS = {
        "elbo": "ELBO",
        "log_z_is": "importance-sampled log Z",
        "log_z": "true log Z",
        "eubo": "EUBO",
        "log_z_learned": "learned log Z",
        "ess": "effective sample size",
    }

    def mean(self, name: str) -> tuple[float, float]:
        """Mean over the conditions and half of its 95% interval (Student's t)."""
        values = self[name].tolist()
        return sum(values) / len(values), half_width(values)

    def rows(self) -> list[tuple[str, str, str]]:
        """Label, mean and interval of each name."""
        rows = []
        for name in self:
            mean, half = self.mean(name)
            form = ".1%" if name == "ess" else ".2f"
            rows.append((self.label(name), f"{mean:{form}}", f"± {half:{form}}"))
        return rows

    def label(self, name: str) -> str:
        """Of a name, to be read."""
        if name.startswith("gap_"):
            return f"gap of the {self.label(name[4:])} to log Z"
        if name.startswith("bound_"):
            return f"{name[6:]}-sample bound"
        return self.LABELS[name]

    def __repr__(self):
        n = len(next(iter(self.values())))
        lines = [f"mean over {n} conditions, with its 95% interval"]
        return "\n".join(lines + [f"{a:<38} {b:>9} {c:>8}" for a, b, c in self.rows()])

    def _repr_html_(self):
        n = len(next(iter(self.values())))
        body = "".join(
            f"<tr><th style='text-align:left'>{a}</th><td style='text-align:right'>{b}</td>"
            f"<td style='text-align:right;white-space:nowrap'>{c}</td></tr>"
            for a, b, c in self.rows()
        )
        head = f"Mean over {n} conditions, with its 95% interval"
        return f"<table><caption style='color:inherit'>{head}</caption>{body}</table>"


@torch.no_grad()
def evaluate_posteriors(
    sampler: "GFNDiffusion",
    conditions: Tensor,
    n: int = 1000,
    k: Sequence[int] = (100, 1000),
    truth: Truth | None = None,
    steps: int | None = None,
    seed: int = 0,
) -> PosteriorEvaluation:
    """How good a conditional sampler is at each condition (n_c, c), by n trajectories at each.

    `truth`, or the target's own log Z and exact samples, gives the EUBO and all gaps. Values are on
    the CPU, wherever the sampler is.

    Raises:
        ValueError: if `n` is no multiple of each `k`, or a condition does not fit.
    """
    target, generator = sampler.target, torch.Generator(sampler.device).manual_seed(seed)
    conditions = torch.as_tensor(conditions, dtype=torch.float32, device=sampler.device)
    check_condition(target, conditions, conditions)
    log_w, _ = log_weights_each(sampler, conditions, n, None, steps, generator)
    log_w = log_w.double().cpu()
    values = {"elbo": log_w.mean(1)}
    values |= {f"bound_{size}": importance_bound(log_w, size) for size in k}
    values["log_z_is"] = importance_bound(log_w, n)
    values["ess"] = STATISTICS["ess"](log_w)
    log_z = ends = None
    if truth is not None:
        log_z, ends = truth.log_z, truth.samples
    elif callable(target.log_z) and target.sample is not None:
        log_z, each = target.log_z(conditions), conditions.repeat_interleave(EXACT, 0)
        ends = target.sample(len(each), generator, each).unflatten(0, (-1, EXACT))
    if ends is not None:
        options = {"ends": ends, "steps": steps, "generator": generator}
        upper, _ = log_weights_each(sampler, conditions, **options)
        values |= {"eubo": upper.double().mean(1).cpu(), "log_z": log_z.double().cpu()}
    if sampler.config.learns_log_z:
        values["log_z_learned"] = sampler.log_z(conditions).double().cpu()
    if log_z is not None:
        lower = ["elbo", *(f"bound_{size}" for size in k)]
        values |= {f"gap_{name}": values["log_z"] - values[name] for name in lower}
        values["gap_eubo"] = values["eubo"] - values["log_z"]
    return PosteriorEvaluation(values)
