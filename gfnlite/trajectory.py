"""Trajectory: the record of a batch that every objective and every metric is a function of."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .coordinates import Standardised
from .process import Steps

__all__ = ["Trajectory", "importance_resample"]


@dataclass(repr=False)
class Trajectory:
    """A batch of B trajectories on one time grid; its log-densities are relative to the reference.

    Attributes:
        process: the reference process, `PinnedBrownian` or `VariancePreserving`.
        steps: the time grid with the process's coefficients on it.
        x: states (T + 1, B, d); `x[-1]` are the samples.
        log_reward: log R(x_1) (B,).
        log_terminal: log R(x_1) - log of the reference's density at x_1 (B,).
        log_z: log Z_theta of each trajectory's run, or condition (B,).
        ratio_pf, ratio_pb: log P_F and log P_B over the reference's kernels (T, B).
        flow: log F_theta over the reference's density at the inner times (T - 1, B), or None.
        score: of the target at x[:-1] (T, B, d), where the drift uses it, or None.
        condition: (B, c) or None.
        repeats: so many neighbours in the batch share a condition.
        runs: S independent runs that lie side by side in the batch, B / S trajectories each.
        terms: the networks behind ratio_pf, ratio_pb and flow, for `rollout.gradient`.
        log_proposal: log-density of the noise that drew the trajectory over P_F's (B,): not 0 if
            it explored.
        energy_calls: points at which the energy was asked for.
        seen: None, or the target in the coordinates of the process: then x and log_reward are in
            the target's own, the score in the process's, and ratios know of neither.
    """

    process: object
    steps: Steps
    x: Tensor
    log_reward: Tensor
    log_terminal: Tensor
    log_z: Tensor
    ratio_pf: Tensor
    ratio_pb: Tensor
    flow: Tensor | None = None
    score: Tensor | None = None
    condition: Tensor | None = None
    log_proposal: Tensor | float = 0.0
    energy_calls: int = 0
    repeats: int = 1
    runs: int = 1
    terms: Sequence = ()
    seen: Standardised | None = None

    def seen_from(self, target: Standardised) -> "Trajectory":
        """The same, with states in that target's own coordinates in place of the process's."""
        x, log_reward = target.decode(self.x), self.log_reward - target.log_det
        return replace(self, x=x, log_reward=log_reward, seen=target)

    def split(self) -> list["Trajectory"]:
        """The trajectories of each run, in a record of its own."""
        if self.runs == 1:
            return [self]
        axes = {"x": 1, "ratio_pf": 1, "ratio_pb": 1, "flow": 1, "score": 1}
        axes |= dict.fromkeys(("log_reward", "log_terminal", "log_z", "condition"), 0)
        axes |= {"log_proposal": 0} if isinstance(self.log_proposal, Tensor) else {}
        parts = {
            name: getattr(self, name).chunk(self.runs, axis)
            for name, axis in axes.items()
            if getattr(self, name) is not None
        }
        own = {"energy_calls": self.energy_calls // self.runs, "runs": 1, "terms": ()}
        return [
            replace(self, **own, **{name: part[s] for name, part in parts.items()})
            for s in range(self.runs)
        ]

    def __repr__(self):
        return f"Trajectory(T={len(self.steps)}, B={len(self.log_reward)}, d={self.x.shape[-1]})"

    @property
    def t(self) -> Tensor:
        """Times (T + 1,)."""
        return self.steps.t

    @property
    def log_weight(self) -> Tensor:
        """log w = log R(x_1) + sum log_pb - sum log_pf - log_p0 (B,); the reference cancels."""
        return self.log_terminal + self.ratio_pb.sum(0) - self.ratio_pf.sum(0)

    @property
    def ratio_flow(self) -> Tensor:
        """log F over the reference's density at all times (T + 1, B), from log Z_theta to log R."""
        if self.flow is None:
            raise ValueError("this objective needs a state flow: objective='db' or 'subtb'")
        return torch.cat((self.log_z[None], self.flow, self.log_terminal[None]))

    @property
    def _process_x(self) -> tuple[Tensor, float]:
        """The states in the coordinates of the process, and log det of the map from there."""
        return (self.x, 0.0) if self.seen is None else (self.seen.encode(self.x), self.seen.log_det)

    @property
    def log_pf(self) -> Tensor:
        """log P_F of each transition, without exploration noise (T, B)."""
        x, log_det = self._process_x
        moved = x[1:] - self.steps.a[:, None, None] * x[:-1]
        return self.ratio_pf + _log_normal(moved, self.process.sigma2 * self.steps.h) - log_det

    @property
    def log_pb(self) -> Tensor:
        """log P_B of each transition (T, B); that of a pinned process's first is certain, so 0."""
        first, (x, log_det) = int(self.process.pinned), self._process_x
        moved = x[first:-1] - self.steps.b[first:, None, None] * x[first + 1 :]
        inner = _log_normal(moved, self.process.sigma2 * self.steps.g[first:]) - log_det
        return torch.cat((self.ratio_pb[:first], self.ratio_pb[first:] + inner))

    @property
    def log_p0(self) -> Tensor:
        """Log-density of the start (B,), which is 0 when it is pinned."""
        return self._log_marginal()[0]

    @property
    def log_flow(self) -> Tensor:
        """log F_theta(x, t) (T + 1, B); at the start log Z_theta + log_p0, at the end log R."""
        return self.ratio_flow + self._log_marginal()

    def _log_marginal(self) -> Tensor:
        """The reference's log-density at all states (T + 1, B); 0 where it is pinned."""
        x, log_det = self._process_x
        density = self.process.log_marginal(x, self.t)
        first = int(self.process.pinned)
        return torch.cat((density[:first], density[first:] - log_det))


def _log_normal(x: Tensor, variance: Tensor) -> Tensor:
    scale = variance.sqrt()[:, None, None]
    return torch.distributions.Normal(0.0, scale, validate_args=False).log_prob(x).sum(-1)


def importance_resample(
    x: Tensor, log_weight: Tensor, n: int, generator: torch.Generator | None = None
) -> Tensor:
    """n of the points x (B, d), drawn in proportion to their weights w (systematic): (n, d)."""
    cumulative = (log_weight.double() - log_weight.max()).exp().cumsum(0)
    start = torch.rand(1, generator=generator, device=x.device, dtype=torch.float64)
    places = (torch.arange(n, device=x.device) + start) / n * cumulative[-1]
    chosen = torch.searchsorted(cumulative, places).clamp_(max=len(x) - 1)
    order = torch.randperm(n, generator=generator, device=x.device)  # copies not side by side
    return x[chosen[order]]
