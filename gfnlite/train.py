"""The training loop: progress, history and checkpoints of a team of samplers."""

import json
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from . import metrics
from .arguments import shown
from .checks import given
from .files import sealed, write_bytes
from .interrupt import deferred_interrupt
from .process import time_grid
from .progress import progress_bar
from .step import prefill, refuse_infinite, refuse_non_finite, train_step
from .team import Team

if TYPE_CHECKING:
    from .data_loss import DataLoss
    from .sampler import GFNDiffusion

__all__ = ["Callback", "check_fit", "train"]

Callback = Callable[["GFNDiffusion", dict], None]  # called with each entry of the history

LOGS = 60  # entries in the history of a training run
LOG_SAMPLES = 500  # trajectories behind each ELBO and EUBO in the history ...
LOG_NUMBERS = 20_000_000  # ... unless their states are more than so many numbers
CHECKPOINT_SECONDS = 30


def check_fit(iterations: int | None, callbacks: Callback | Iterable[Callback]) -> list[Callback]:
    """The callbacks as a list.

    Raises:
        ValueError: for a bad number of iterations, or a callback that is no function.
    """
    if iterations is not None and not (type(iterations) is int and iterations >= 0):
        raise ValueError(f"iterations={shown(iterations)} must be a non-negative integer")
    callbacks = [callbacks] if callable(callbacks) else list(callbacks)
    if not all(map(callable, callbacks)):
        raise ValueError(f"callbacks={shown(callbacks)} must be functions of (sampler, entry)")
    return callbacks


def train(
    samplers: Sequence["GFNDiffusion"],
    until: int,
    folders: Sequence[Path] | None = None,
    progress: bool = True,
    callbacks: Iterable[Callback] = (),
    compile: bool = False,
    data: "DataLoss | None" = None,
) -> None:
    """Train up to iteration `until`; checkpoint.pt and history.jsonl are kept in `folders`, if any.

    Samplers that are behind, after an interruption, catch up first; then all are one team. Ctrl-C
    ends the step that it falls into, saves it, and then is the KeyboardInterrupt that it was.
    """
    for sampler in samplers:
        sampler.planned = max(sampler.planned, until)  # the schedules stretch to a later end
    folders = folders or [None] * len(samplers)
    while behind := [sampler for sampler in samplers if sampler.iteration < until]:
        least = min(sampler.iteration for sampler in behind)
        ahead = [s.iteration for s in samplers if least < s.iteration < until]
        chosen = [i for i, sampler in enumerate(samplers) if sampler.iteration == least]
        _train_team(
            [samplers[i] for i in chosen], min(ahead, default=until), [folders[i] for i in chosen],
            progress, callbacks, compile, data,
        )  # fmt: skip
    _save(samplers, folders)


def _train_team(samplers, until, folders, progress, callbacks, compile, data) -> None:
    team = Team(samplers, compile, data)
    config, start, began = team.config, team.iteration, time.monotonic()
    log_every = max(1, config.iterations // LOGS)
    what = "training" if len(team) == 1 else f"training {len(team)} seeds"
    bar = progress_bar(progress, start, until, what)
    before, saved = [sampler.seconds for sampler in samplers], began
    try:
        for sampler in samplers:
            if config.prefill and not len(sampler.buffers["search"]):
                prefill(sampler)
        with deferred_interrupt() as interrupt, bar or nullcontext():
            while team.iteration < until:
                losses = train_step(team)
                if bar:
                    bar.update(1)
                for s, sampler in enumerate(samplers):
                    # what each has cost: together they cost less than one by one
                    sampler.seconds = before[s] + (time.monotonic() - began) / len(team)
                if team.iteration % log_every == 0 or team.iteration == until:
                    if callbacks:  # which may save a sampler
                        team.share()
                    for s, (sampler, folder) in enumerate(zip(samplers, folders, strict=True)):
                        sampler.history.append(_measure(team, s, losses[s].item()))
                        refuse_infinite(losses[s : s + 1], [sampler])  # a GPU's no earlier
                        if folder is not None:
                            _write_history(sampler, folder)  # how far it is, for whoever waits
                        for callback in callbacks:
                            callback(sampler, sampler.history[-1])
                    if bar:
                        mean = sum(s.history[-1]["elbo"] for s in samplers) / len(team)
                        bar.set_postfix_str(f"ELBO {mean:.2f}", refresh=False)
                if interrupt.came:
                    break
                if time.monotonic() - saved > CHECKPOINT_SECONDS:
                    team.share()
                    _save(samplers, folders)
                    saved = time.monotonic()
            if interrupt.came:
                team.share()
                _save(samplers, folders)
                raise KeyboardInterrupt
    finally:
        team.part()


def _save(samplers, folders: Sequence[Path | None]) -> None:
    for sampler, folder in zip(samplers, folders, strict=True):
        if folder is not None:
            save(sampler, folder)


def save(sampler: "GFNDiffusion", folder: Path) -> None:
    """Write checkpoint.pt and the history up to it."""
    sampler.save(folder / "checkpoint.pt")
    _write_history(sampler, folder)


def _write_history(sampler: "GFNDiffusion", folder: Path) -> None:
    lines = "".join(json.dumps(sealed(entry)) + "\n" for entry in sampler.history)
    write_bytes(folder / "history.jsonl", lines.encode())


def _measure(team: Team, s: int, loss: float) -> dict:
    """One history entry of a sampler; its own random state, so that logging changes no training."""
    sampler = team.samplers[s]
    target = sampler.target
    generator = torch.Generator(team.device).manual_seed(sampler.iteration)
    condition, config = None, team.config
    n = max(16, min(LOG_SAMPLES, LOG_NUMBERS // (config.steps * target.dim)))
    if target.condition_dim:
        condition = target.sample_condition(n, generator).to(team.device)
    grid = time_grid(config.steps, config.grid)
    generated = sampler.rollout(grid, n, condition=condition, generator=generator)
    refuse_non_finite(generated, [sampler])
    upper = None
    if target.sample is not None:
        exact = target.sample(n, generator, *given(condition))
        destroyed = sampler.rollout(grid, x=exact, condition=condition, generator=generator)
        upper = metrics.eubo(destroyed.log_weight)
    return {
        "iteration": sampler.iteration,
        "seconds": round(sampler.seconds, 3),
        "energy_calls": sampler.energy_calls,
        "loss": loss,
        "log_z": sampler.log_z_learned,
        "elbo": metrics.elbo(generated.log_weight),
        "eubo": upper,
    }
