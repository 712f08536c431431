"""Part `ideas`: from the plain step of TB+Expl to gfnlite's, one idea at a time.

A stage is a function of its `Rig` and of the random stream of its noise, which adds the loss's
gradient to the parameters and returns the loss. Each is the stage before it with one idea added,
written with as little change as that allows, and all give the same gradient.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from gfnlite import cpu, objectives, rollout
from gfnlite.process import time_grid

from . import plain
from .sizes import SMALL, Sizes
from .tasks import Step, sampler, target, trainer

__all__ = ["STAGES", "Rig", "can_compile", "step"]

CHUNK = 20  # times


class Rig:
    """One task's networks for the stages, plain and gfnlite's, with the same weights.

    Attributes:
        trainer: the plain baseline, which the first stages use.
        sampler: gfnlite's, which the last use.
        target: gfnlite's, vectorised.
        spread: standard deviation of the sampling noise of one step.
    """

    def __init__(self, task: str, sizes: Sizes):
        step = Step()
        self.trainer, self.sampler = trainer(task, step, sizes), sampler(task, step, sizes)
        self.target, self.exploration = target(task), step.exploration
        self.T, self.B, self.d = sizes.steps, sizes.batch, self.target.dim
        self.dt, self.sigma2 = 1 / sizes.steps, self.trainer.sigma2
        self.spread = math.sqrt((self.sigma2 + self.exploration) * self.dt)
        self.policy, self.net = self.trainer.policy, self.trainer.policy.forward_net
        self.match()

    def match(self) -> None:
        """Give the plain networks the weights of gfnlite's."""
        theirs = dict(self.sampler.policy.named_parameters())
        for name, p in self.policy.named_parameters():
            p.data.copy_(theirs[name].view_as(p))

    def noise(self, generator: torch.Generator) -> Tensor:
        """Standard normal numbers for one walk (T, B, d)."""
        return torch.randn((self.T, self.B, self.d), generator=generator)

    def optimisers(self) -> dict[str, torch.optim.Optimizer]:
        """By the name of the implementation whose parameters they update."""
        return {
            "plain": self.trainer.optimiser, "ours": self.sampler.optimiser,
            "fused": torch.optim.Adam(self._groups(), fused=True),
        }  # fmt: skip

    def _groups(self) -> list[dict]:
        groups = self.trainer.optimiser.param_groups
        return [{"params": group["params"], "lr": group["lr"]} for group in groups]

    def tb(self, log_weight: Tensor) -> Tensor:
        """The loss."""
        return 0.5 * ((self.policy.log_z_value - log_weight) ** 2).mean()

    def terminal(self, x: Tensor) -> Tensor:
        """log R less the reference's log-density at the ends x (B, d): (B,)."""
        return self.target.log_reward(x) - plain.log_normal(x, 0.0, self.sigma2)


def plain_loop(rig: Rig, generator: torch.Generator) -> Tensor:
    """The baseline."""
    path = rig.trainer.generate(rig.B, rig.exploration, rig.noise(generator))
    loss = rig.trainer.loss(path)
    loss.backward()
    return loss


def vectorised_target(rig: Rig, generator: torch.Generator) -> Tensor:
    """The target's modes, or wells, in one expression."""
    before, rig.trainer.log_reward = rig.trainer.log_reward, rig.target.log_reward
    loss = plain_loop(rig, generator)
    rig.trainer.log_reward = before
    return loss


def _written_out(
    rig: Rig, generator: torch.Generator, drift: Callable[[Tensor, int], Tensor]
) -> Tensor:
    """The loop with both densities written out, for any way to get the drift at step i."""
    x, log_weight, noise = torch.zeros(rig.B, rig.d), 0.0, rig.noise(generator)
    for i in range(rig.T):
        mean = x + drift(x, i) * rig.dt
        after = (mean + rig.spread * noise[i]).detach()
        log_weight = log_weight - plain.log_normal(after, mean, rig.sigma2 * rig.dt)
        back = i / (i + 1)
        if i > 0:
            log_pb = plain.log_normal(x, back * after, rig.sigma2 * rig.dt * back)
            log_weight = log_weight + log_pb
        x = after
    loss = rig.tb(rig.target.log_reward(x) + log_weight)
    loss.backward()
    return loss


def time_once_a_step(rig: Rig, generator: torch.Generator) -> Tensor:
    """The time network sees one time a step, not one for each row."""
    return _written_out(rig, generator, lambda x, i: _clip(rig.net(x, torch.tensor([i * rig.dt]))))


def time_once_a_grid(rig: Rig, generator: torch.Generator) -> Tensor:
    """The time network sees all times of the grid at once."""
    times = rig.net.time(torch.arange(rig.T) * rig.dt)
    return _written_out(rig, generator, lambda x, i: _clip(_values(rig.net, x, times[i])))


def telescoped(rig: Rig, generator: torch.Generator) -> Tensor:
    """Of both densities the ratio to the reference alone: what else there is telescopes."""
    times = rig.net.time(torch.arange(rig.T) * rig.dt)
    x, ratio, noise = torch.zeros(rig.B, rig.d), 0.0, rig.noise(generator)
    for i in range(rig.T):
        u = _clip(_values(rig.net, x, times[i]))
        moved = (u * rig.dt + rig.spread * noise[i]).detach()
        ratio = ratio + (u * (moved - 0.5 * rig.dt * u)).sum(1) / rig.sigma2
        x = x + moved
    loss = rig.tb(rig.terminal(x) - ratio)
    loss.backward()
    return loss


@torch.no_grad()
def _walk(rig: Rig, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Phase 1: states (T + 1, B, d) and moves (T, B, d), with no graph."""
    times = rig.net.time(torch.arange(rig.T) * rig.dt)
    x, moved = torch.zeros(rig.T + 1, rig.B, rig.d), rig.spread * rig.noise(generator)
    for i in range(rig.T):
        u = _clip(_values(rig.net, x[i], times[i]))
        moved[i] += u * rig.dt
        x[i + 1] = x[i] + moved[i]
    return x, moved


def two_phases(rig: Rig, generator: torch.Generator) -> Tensor:
    """First walk without a graph, then differentiate all transitions as one batch."""
    x, moved = _walk(rig, generator)
    times = rig.net.time(torch.arange(rig.T) * rig.dt)
    u = _clip(_values(rig.net, x[:-1], times[:, None]))
    ratio = (u * (moved - 0.5 * rig.dt * u)).sum(2) / rig.sigma2
    loss = rig.tb(rig.terminal(x[-1]) - ratio.sum(0))
    loss.backward()
    return loss


def in_chunks(rig: Rig, generator: torch.Generator) -> Tensor:
    """The second phase in chunks of times that stay in cache: the walk has told the loss."""
    times = rig.net.time(torch.arange(rig.T) * rig.dt)
    x, ratio = torch.zeros(rig.T + 1, rig.B, rig.d), torch.zeros(rig.B)
    residual = rig.spread * rig.noise(generator)  # moved - dt u
    with torch.no_grad():
        for i in range(rig.T):
            u = _clip(_values(rig.net, x[i], times[i]))
            ratio += (u * (residual[i] + 0.5 * rig.dt * u)).sum(1) / rig.sigma2
            x[i + 1] = x[i] + u * rig.dt + residual[i]
    log_weight = (rig.terminal(x[-1]) - ratio).requires_grad_()
    loss = rig.tb(log_weight)
    loss.backward()
    slope = -log_weight.grad[:, None] / rig.sigma2  # of the loss by the ratio
    cut = times.detach().requires_grad_()
    for i in range(0, rig.T, CHUNK):
        part = slice(i, i + CHUNK)
        u = _clip(_values(rig.net, x[:-1][part], cut[part, None]))
        u.backward(residual[part] * slope)
    times.backward(cut.grad)
    return loss


def gfnlite_default_library(rig: Rig, generator: torch.Generator) -> Tensor:
    """gfnlite keeps what the walk computed, and its gradient is written out by hand."""
    before, cpu._medium_is_float32 = cpu._medium_is_float32, lambda: False
    try:
        return gfnlite(rig, generator)
    finally:
        cpu._medium_is_float32 = before


def gfnlite(rig: Rig, generator: torch.Generator) -> Tensor:
    """Large products by the faster library: gfnlite as it is."""
    trajectory = rig.sampler.rollout(
        time_grid(rig.T), rig.B, exploration=rig.exploration, generator=generator, record=True
    )
    return rollout.gradient(rig.sampler.policy, trajectory, objectives.tb)[0]


# By name: the stage, whose parameters and optimiser it uses, and whether freed memory is kept.
STAGES = {
    "plain": (plain_loop, "plain", False),
    "target vectorised": (vectorised_target, "plain", False),
    "time network once a step": (time_once_a_step, "plain", False),
    "time network once a grid": (time_once_a_grid, "plain", False),
    "densities as ratios": (telescoped, "plain", False),
    "two phases": (two_phases, "plain", False),
    "in chunks of times": (in_chunks, "plain", False),
    "Adam in one call": (in_chunks, "fused", False),
    "gradient by hand": (gfnlite_default_library, "ours", False),
    "large products by oneDNN": (gfnlite, "ours", False),
    "memory kept": (gfnlite, "ours", True),
    "compiled": (gfnlite, "ours", True),  # an option: it takes a minute to start
}


def step(rig: Rig, name: str) -> Callable[[], object]:
    """A call that takes one whole training step in the way of a stage."""
    stage, owner, _ = STAGES[name]
    optimiser, generator = rig.optimisers()[owner], torch.Generator().manual_seed(0)
    rig.sampler.policy.use(name == "compiled")

    def call():
        optimiser.zero_grad(set_to_none=True)
        stage(rig, generator)
        optimiser.step()

    return call


def can_compile() -> bool:
    """Whether gfnlite's `compile=True` works here: it asks for a C++ compiler."""
    try:
        sampler("25gmm", Step(), SMALL).policy.use(True)
    except ValueError:
        return False
    return True


def _values(net: plain.StateNet, x: Tensor, time: Tensor) -> Tensor:
    """`plain.StateNet` at x, given what its time network says."""
    h = net.state(x) + time
    for layer in net.joint:
        h = layer(F.gelu(h))
    return net.out(F.gelu(h))


def _clip(u: Tensor) -> Tensor:
    return torch.clamp(u, -plain.DRIFT_CLIP, plain.DRIFT_CLIP)
