"""What the command `bench` runs: each part, with each number of threads, in its own process."""

import json
import os
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch

from .. import experiments, report
from ..experiments import BadInput
from .process import ROOT, command, environment
from .sizes import FULL, SMALL, Sizes

__all__ = ["PARTS", "execute", "folder", "jobs"]

PARTS = (
    "steps", "vae", "ideas", "scaling", "seeds", "floor", "memory", "profile", "dead_ends",
    "quality", "gpu",
)  # fmt: skip
ONE_THREAD = ("memory", "profile", "dead_ends", "quality", "gpu")  # whatever was asked for


def jobs(
    only: Sequence[str], threads: Sequence[int], repeats: int | None, quick: bool
) -> list[tuple[str, int, Sizes]]:
    """(part, threads, sizes) of everything that was asked for.

    Raises:
        BadInput: for an unknown part, or a number of threads or a GPU that this machine has not.
    """
    here = [part for part in PARTS if part != "gpu" or torch.cuda.is_available()]
    parts = [part for words in only for part in words.split(",")] or here
    for part in parts:
        if part not in PARTS:
            raise BadInput(f"--only {part}: no such part; allowed: {', '.join(PARTS)}")
        if part not in here:
            raise BadInput(f"--only {part}: needs an NVIDIA GPU, and PyTorch sees none here")
    cores = os.cpu_count() or 1
    for count in threads:
        if not 1 <= count <= cores:
            raise BadInput(f"--threads {count}: must be from 1 to {cores}, the cores here")
    sizes = SMALL if quick else FULL
    sizes = sizes if repeats is None else replace(sizes, repeats=repeats)
    counts = sorted(set(threads)) or [1, 2][:cores]
    return [
        (part, count, sizes)
        for part in dict.fromkeys(parts)
        for count in ([1] if part in ONE_THREAD else counts)
    ]


def folder(quick: bool) -> Path:
    """Where results go: a quick run never to the committed ones."""
    return report.FOLDER / "local" / "bench" if quick else report.FOLDER / "bench"


def execute(job: tuple[str, int, Sizes], quick: bool) -> int:
    """Measure one part; the exit code of its process."""
    part, threads, sizes = job
    state = experiments.RUNS / ".bench" / ("quality-quick" if quick else "quality")
    words = command("worker", part, json.dumps(asdict(sizes)), str(folder(quick)), str(state))
    return subprocess.run(words, cwd=ROOT, env=environment(threads)).returncode
