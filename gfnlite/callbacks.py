"""Callbacks for `GFNDiffusion.fit`: each is called as callback(sampler, entry), and needs an extra.

An entry is a dict with iteration, seconds, energy_calls, loss, log_z, elbo and eubo, as a line of
history.jsonl. Any function with these two arguments is a callback.
"""

import importlib
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .sampler import GFNDiffusion

__all__ = ["NAMES", "check", "named", "tensorboard", "wandb"]

NAMES = {"tensorboard": "torch.utils.tensorboard", "wandb": "wandb"}  # and what each imports


def check(name: str) -> None:
    """Whether there is a tracker of that name, and its package is here.

    Raises:
        ValueError: for an unknown name.
        ImportError: without the package.
    """
    if name not in NAMES:
        raise ValueError(f"track={name!r} is unknown; allowed: {', '.join(NAMES)}")
    _package(name)


def named(name: str | None, folder: str | Path | None = None) -> list[Callable]:
    """What a batch run gives `fit` to log each seed below its `folder`; nothing for None.

    TensorBoard: event files in folder/tensorboard/seed-<seed>. Weights & Biases: a run for each
    seed, in the group of the folder's name, with its files in folder/wandb; where they go beyond
    that is for the variables WANDB_MODE, WANDB_PROJECT and WANDB_API_KEY to say.

    Raises:
        ValueError: for an unknown name, or without a folder.
        ImportError: without the package.
    """
    if name is None:
        return []
    check(name)
    if folder is None:
        raise ValueError(f"track={name!r} needs a folder to write to: set out_dir")
    folder, logs = Path(folder), {}

    def start(sampler: "GFNDiffusion", entry: dict) -> Callable:
        seed = f"seed-{sampler.seed}"
        if name == "tensorboard":
            return tensorboard(folder / name / seed, purge_step=entry["iteration"])
        return wandb(
            project=os.environ.get("WANDB_PROJECT", "gfnlite"), group=folder.name, dir=str(folder),
            name=f"{folder.name}-{seed}", id=f"{folder.name}-{seed}", config=asdict(sampler.config),
            resume="allow", reinit="create_new",  # several at a time in one process
        )  # fmt: skip

    def log(sampler: "GFNDiffusion", entry: dict) -> None:
        if sampler.seed not in logs:
            logs[sampler.seed] = start(sampler, entry)
        logs[sampler.seed](sampler, entry)
        if entry["iteration"] == sampler.planned:  # a notebook's kernel may end without a word
            logs.pop(sampler.seed).close()

    return [log]


def tensorboard(folder: str | Path, purge_step: int | None = None) -> Callable:
    """Write each entry to TensorBoard event files in `folder`.

    Entries there from iteration `purge_step` on, of a training that was interrupted and is taken
    up from before, are no longer shown.

    Raises:
        ImportError: without the package tensorboard.
    """
    writer = _package("tensorboard").SummaryWriter(str(folder), purge_step=purge_step)

    def write(sampler: "GFNDiffusion", entry: dict) -> None:
        for name, value in _numbers(entry).items():
            writer.add_scalar(name, value, entry["iteration"])
        writer.flush()

    write.close = writer.close
    return write


def wandb(**options) -> Callable:
    """Log each entry to Weights & Biases; `options` go to wandb.init (mode="offline" works).

    Raises:
        ImportError: without the package wandb.
    """
    run = _package("wandb").init(**options)

    def log(sampler: "GFNDiffusion", entry: dict) -> None:
        run.log(_numbers(entry), step=entry["iteration"])

    log.close = run.finish
    return log


def _package(name: str):
    try:
        return importlib.import_module(NAMES[name])
    except ImportError as error:
        raise ImportError(f"this callback needs {name}: pip install {name}") from error


def _numbers(entry: dict) -> dict:
    return {name: value for name, value in entry.items() if value is not None}
