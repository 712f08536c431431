"""What is compared: the same task and training step, in gfnlite and in the plain baseline."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch

import gfnlite as gl
from gfnlite.step import train_step
from gfnlite.team import Team

from . import plain
from .sizes import TASKS, Sizes

__all__ = [
    "TASKS", "Sizes", "Step", "ours", "plain_step", "points", "sampler", "target", "trainer",
]  # fmt: skip

PAPER_EXPLORATION = 4.0  # 0.2 more standard deviation in each of 100 steps


@dataclass(frozen=True)
class Step:
    """One kind of training step, by the settings that both implementations have.

    Attributes:
        objective, langevin, learn_variance: as in `gl.Config`; SubTB looks forward, "mle" replays.
        replay: destroy a batch from a buffer, rather than generate one.
        explore: generate with the paper's exploration.
    """

    objective: str = "tb"
    langevin: bool = False
    learn_variance: bool = False
    replay: bool = False
    explore: bool = True

    @property
    def is_plain(self) -> bool:
        """Whether the baseline has it."""
        return self.objective not in ("db", "mle") and not self.learn_variance

    @property
    def exploration(self) -> float:
        """Variance per unit time."""
        return PAPER_EXPLORATION if self.explore else 0.0


def target(task: str) -> gl.Target:
    """gfnlite's target of a task, 25gmm or manywell<dimension>."""
    return gl.named_target(task)


def points(task: str, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Exact samples (n, d) and their log R (n,), to fill buffers with."""
    x = target(task).sample(n, torch.Generator().manual_seed(0))
    return x, target(task).log_reward(x)


def sampler(
    task: str, step: Step, sizes: Sizes, seed: int = 0, device: str = "cpu", **changes
) -> gl.GFNDiffusion:
    """gfnlite's sampler for the step, with samples to replay if it does; `changes` as in Config."""
    of_replay = {"replay_objective": "mle"} if step.objective == "mle" else {}
    settings = {
        "objective": "tb" if of_replay else step.objective, "langevin": step.langevin,
        "learn_variance": step.learn_variance, "forward_looking": step.objective == "subtb",
        "exploration": step.exploration, "sigma2": 5.0 if task == "25gmm" else 1.0,
        "steps": sizes.steps, "batch_size": sizes.batch, "hidden": sizes.hidden, "lr": 1e-3,
        "lr_decay": 0.0, "warm_log_z": False, "iterations": 10**6,
    }  # fmt: skip
    if step.replay:
        settings |= {"replay_ratio": 1.0, "prefill": 2, "replay_capacity": sizes.held} | of_replay
    config = gl.Config(**(settings | changes))
    with warnings.catch_warnings():  # some settings never find all modes: only time counts here
        warnings.simplefilter("ignore", UserWarning)
        made = gl.GFNDiffusion(target(task), config=config, seed=seed, device=device)
    if step.replay:
        x, log_reward = (part.to(made.device) for part in points(task, sizes.held))
        made.buffers["search"].add(x, log_reward, torch.zeros_like(log_reward))
    return made


def ours(samplers: list[gl.GFNDiffusion], compile: bool = False) -> Callable[[], object]:
    """A call that takes one training step of the samplers, as one program."""
    team = Team(samplers, compile)
    return lambda: train_step(team)


def trainer(
    task: str, step: Step, sizes: Sizes, replay: bool = False, device: str = "cpu"
) -> plain.Trainer:
    """The plain baseline for the step; with `replay` it remembers what it generates."""
    with torch.device(device):
        made = plain.Trainer(
            task, step.objective, step.langevin, sizes.steps, sizes.batch, sizes.hidden,
            replay=replay,
        )  # fmt: skip
    if step.replay:
        made.search_buffer.add(*(part.to(device) for part in points(task, sizes.held)))
    return made


def plain_step(baseline: plain.Trainer, step: Step) -> Callable[[], object]:
    """A call that takes one training step of the baseline."""
    if step.replay:
        return baseline.replay_step
    return lambda: baseline.forward_step(step.exploration)
