"""The training loop: schedules, one optimiser step, progress, history and checkpoints."""

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from . import metrics, objectives
from .files import write_bytes
from .process import time_grid
from .rollout import Trajectory, backward_rollout, forward_rollout, pull_back

if TYPE_CHECKING:
    from .sampler import GFNDiffusion

__all__ = ["exploration_at", "learning_rate_factor", "train", "train_step"]

LOGS = 60  # entries in the history of a training run
LOG_SAMPLES = 500  # trajectories behind each ELBO and EUBO in the history
CHECKPOINT_SECONDS = 30


def exploration_at(config, progress: float) -> float:
    """Added variance per unit time when a fraction `progress` of training is done."""
    return config.exploration * max(0.0, 1 - progress / config.exploration_decay) ** 2


def learning_rate_factor(config, progress: float) -> float:
    """1, then linear to 0 over the last fraction `lr_decay` of training."""
    return min(1.0, (1 - progress) / config.lr_decay) if config.lr_decay else 1.0


def train_step(sampler: "GFNDiffusion") -> torch.Tensor:
    """One optimiser step on one batch of on-policy or exploring trajectories; its loss ()."""
    config = sampler.config
    progress = min(1.0, sampler.iteration / config.iterations)
    if config.coarse_steps and progress < config.coarse_fraction:
        grid = time_grid(config.coarse_steps, "random", sampler.generators["grid"])
    else:
        grid = time_grid(config.steps)
    for group in sampler.optimiser.param_groups:
        group["lr"] = group["initial_lr"] * learning_rate_factor(config, progress)

    trajectory = forward_rollout(
        sampler.net,
        sampler.process,
        sampler.target,
        grid.to(sampler.device),
        config.batch_size,
        exploration_at(config, progress),
        sampler.generators["train"],
    )
    sampler.optimiser.zero_grad(set_to_none=True)
    trajectory.log_weight.requires_grad_()
    loss = getattr(objectives, config.objective)(trajectory, sampler.log_z)
    loss.backward()  # to the log-weights and log Z_theta ...
    pull_back(sampler.net, trajectory, trajectory.log_weight.grad)  # ... and on to the network
    # Reading a value makes a GPU wait, so there a bad batch is found at the next log instead.
    if sampler.device.type == "cpu":
        _refuse_non_finite(trajectory, sampler.iteration)
    sampler.optimiser.step()
    sampler.iteration += 1
    sampler.energy_calls += config.batch_size
    return loss.detach()


def _refuse_non_finite(trajectory: Trajectory, iteration: int) -> None:
    if trajectory.log_weight.isfinite().all():
        return
    log_reward = trajectory.log_reward
    bad = int((~log_reward.isfinite()).sum())
    if trajectory.x.isfinite().all() and bad:
        kind = "NaN" if log_reward.isnan().any() else "an infinite value"
        cause = f"energy returned {kind} at {bad} of {len(log_reward)} points"
    else:
        cause = "the drift network diverged (try a smaller lr)"
    raise FloatingPointError(f"iteration {iteration}: {cause}; the last step was not taken")


def train(
    sampler: "GFNDiffusion", iterations: int, folder: Path | None = None, progress: bool = True
) -> None:
    """Take `iterations` steps; keep a checkpoint and history.jsonl in `folder`, if there is one."""
    end = sampler.iteration + iterations
    log_every = max(1, sampler.config.iterations // LOGS)
    bar = _progress_bar(sampler.iteration, end, progress)
    started, before, saved = time.monotonic(), sampler.seconds, time.monotonic()
    with bar:
        while sampler.iteration < end:
            loss = train_step(sampler)
            bar.update(1)
            if sampler.iteration % log_every and sampler.iteration < end:
                continue
            sampler.seconds = before + time.monotonic() - started
            entry = _measure(sampler, loss)
            sampler.history.append(entry)
            bar.set_postfix_str(f"ELBO {entry['elbo']:.2f}", refresh=False)
            if folder and time.monotonic() - saved > CHECKPOINT_SECONDS:
                save(sampler, folder)
                saved = time.monotonic()
    if folder:
        save(sampler, folder)


def save(sampler: "GFNDiffusion", folder: Path) -> None:
    """Write checkpoint.pt and the history up to it."""
    sampler.save(folder / "checkpoint.pt")
    lines = "".join(json.dumps(entry) + "\n" for entry in sampler.history)
    write_bytes(folder / "history.jsonl", lines.encode())


def _measure(sampler: "GFNDiffusion", loss: torch.Tensor) -> dict:
    """One entry of the history; its own random state, so that logging never changes training."""
    generator = torch.Generator(sampler.device).manual_seed(sampler.iteration)
    grid = time_grid(sampler.config.steps).to(sampler.device)
    parts = (sampler.net, sampler.process, sampler.target, grid)
    forward = forward_rollout(*parts, LOG_SAMPLES, generator=generator)
    _refuse_non_finite(forward, sampler.iteration)
    upper = None
    if sampler.target.sample is not None:
        exact = sampler.target.sample(LOG_SAMPLES, generator)
        upper = metrics.eubo(backward_rollout(*parts, exact, generator).log_weight)
    return {
        "iteration": sampler.iteration,
        "seconds": round(sampler.seconds, 3),
        "loss": loss.item(),
        "log_z": sampler.log_z.item() if sampler.config.objective == "tb" else None,
        "elbo": metrics.elbo(forward.log_weight),
        "eubo": upper,
    }


class _Silent:
    """A progress bar that is not there."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def update(self, _):
        """Take no notice."""

    def set_postfix_str(self, _, refresh):
        """Take no notice."""


def _progress_bar(start: int, end: int, wanted: bool):
    try:
        from tqdm import tqdm
    except ImportError:  # an extra: training works without it
        wanted = False
    if not wanted:
        return _Silent()
    return tqdm(total=end, initial=start, desc="training", unit="it", mininterval=0.5)
