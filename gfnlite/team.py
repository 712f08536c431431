"""Team: samplers of one target and config that are trained as one program, side by side."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from . import build
from .graph import Captured
from .policy import Policy
from .rollout import rollout
from .trajectory import Trajectory

if TYPE_CHECKING:
    from .data_loss import DataLoss
    from .sampler import GFNDiffusion

__all__ = ["Team"]


class Team:
    """What a training step works on: S samplers at the same iteration, with all their parts.

    Each has its own parameters, random streams and buffers, so that none knows of the others. The
    parameters and Adam's moments are stacked while the team exists; `part` ends that.

    Args:
        samplers: of the same target, config, device and iteration, of different seeds.
        compile: compile the gradient, or on a GPU capture each step as a CUDA graph.
        data: a loss of data beside the objective.

    Raises:
        ValueError: if there are none, or they are not at the same iteration, or the data are for
            another process.
    """

    def __init__(
        self,
        samplers: Sequence["GFNDiffusion"],
        compile: bool = False,
        data: "DataLoss | None" = None,
    ):
        self.samplers = list(samplers)
        if len({sampler.iteration for sampler in self.samplers}) != 1:
            raise ValueError("samplers must be at least one, all at the same iteration")
        self.first = self.samplers[0]
        self.config, self.target = self.first.config, self.first.seen
        self.process, self.device = self.first.process, self.first.device
        self.policy, self.optimiser = self.first.policy, self.first.optimiser
        if len(self.samplers) > 1:
            self.policy = Policy.stack([sampler.policy for sampler in self.samplers])
            self.optimiser = build.optimiser(self.config, self.policy)
            for joint, *own in zip(*map(_parameters, self._optimisers()), strict=True):
                states = [
                    sampler.optimiser.state.get(parameter)
                    for sampler, parameter in zip(self.samplers, own, strict=True)
                ]
                if all(states):
                    self.optimiser.state[joint] = _join(states)
        self.policy.use(compile)
        self.data = data
        if data is not None:
            data.check(self.first)
        # a loss of data draws its levels of noise on the CPU
        self.captures = compile and self.device.type == "cuda" and data is None
        self.programs: dict[tuple, Captured] = {}

    def __len__(self):
        return len(self.samplers)

    @property
    def iteration(self) -> int:
        """Training steps taken."""
        return self.first.iteration

    def generators(self, name: str) -> list[torch.Generator]:
        """The random stream of that name of each sampler."""
        return [sampler.generators[name] for sampler in self.samplers]

    def rollout(
        self, t: Tensor, batch_size: int | None = None, x: Tensor | None = None, **options
    ) -> Trajectory:
        """As `GFNDiffusion.rollout`, `batch_size` trajectories of each, or x (S B, d).

        States, in and out, are in the coordinates of the process.
        """
        parts = (self.policy, self.process, self.target, t)
        options["forward_looking"] = self.config.forward_looking
        options["generator"] = self.generators("train")
        return rollout(*parts, batch_size, x, **options)

    def run(self, function: Callable, kind: str, inputs: dict[str, Tensor]):
        """function(team, kind, inputs), captured where that is wanted and possible."""
        if not self.captures:
            return function(self, kind, inputs)
        key = (kind, *((name, value.shape) for name, value in inputs.items()))
        if key not in self.programs:
            self.programs[key] = Captured(
                partial(function, self, kind), self.generators("train"), self.optimiser.zero_grad
            )
        return self.programs[key](inputs)

    def share(self) -> None:
        """Give each sampler's optimiser its part of the state, as a checkpoint needs it."""
        if len(self.samplers) == 1:
            return
        for joint, *own in zip(*map(_parameters, self._optimisers()), strict=True):
            if state := self.optimiser.state.get(joint):
                for s, (sampler, parameter) in enumerate(zip(self.samplers, own, strict=True)):
                    sampler.optimiser.state[parameter] = _part(state, s)

    def part(self) -> None:
        """Let each sampler stand alone again; the team must not be used any more."""
        self.share()
        self.policy.use(False)
        if len(self.samplers) > 1:
            for sampler in self.samplers:
                for parameter in sampler.policy.parameters():
                    parameter.data = parameter.data.clone()

    def _optimisers(self) -> list[torch.optim.Optimizer]:
        return [self.optimiser, *(sampler.optimiser for sampler in self.samplers)]


def _parameters(optimiser: torch.optim.Optimizer) -> list[Tensor]:
    return [parameter for group in optimiser.param_groups for parameter in group["params"]]


def _join(states: Sequence[dict]) -> dict:
    """One state of Adam from several: moments side by side, at the same step."""
    moments = {name: [state[name] for state in states] for name in ("exp_avg", "exp_avg_sq")}
    joint = {name: torch.cat(parts) for name, parts in moments.items()}
    return {"step": states[0]["step"].clone()} | joint


def _part(state: dict, s: int) -> dict:
    parts = {name: state[name][s : s + 1].clone() for name in ("exp_avg", "exp_avg_sq")}
    return {"step": state["step"].clone()} | parts
