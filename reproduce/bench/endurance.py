"""Does memory grow with the steps of a training? `load` runs this in a process of its own.

`python -m reproduce.bench.endurance STEPS FOLDER` trains a tiny sampler by few-step TB with replay
and local search, history and checkpoints kept in FOLDER, and prints as JSON the MB that are
resident at each of sixty moments. "keep" as a third word keeps what each moment's samples need, as
a leak would: the twin by which it is known that one would be seen.
"""

import json
import sys
from pathlib import Path

import torch

import gfnlite as gl

__all__ = ["grown", "resident"]

TINY = {
    "steps": 4, "coarse_steps": 2, "batch_size": 8, "hidden": 8, "replay_capacity": 1000,
    "ls_every": 100, "ls_steps": 10, "ls_burn_in": 5,
}  # fmt: skip


def resident() -> float:
    """MB of this process that are in memory now; only Linux says."""
    status = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in status if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1024 / 1e6


def grown(points: list[tuple[int, float]]) -> float:
    """MB by which memory grows in 10,000 steps, once a fifth of them has warmed it up."""
    last = points[-1][0]
    warm = [(step, mb) for step, mb in points if step >= last / 5]
    (first, before), (step, after) = warm[0], warm[-1]
    return (after - before) / (step - first) * 10_000


def main(steps: str, folder: str, leak: str = "") -> None:
    """Train, and print (step, MB) pairs."""
    torch.set_num_threads(1)
    settings = TINY | {"iterations": int(steps)}
    config = gl.preset("9gmm", "TB+Expl+LS+Few", "quick", settings)
    sampler, points, kept = gl.GFNDiffusion(gl.gmm9, config=config, device="cpu"), [], []

    def note(sampler: gl.GFNDiffusion, entry: dict) -> None:
        if leak:
            kept.append(torch.ones(250_000))
        points.append((entry["iteration"], resident()))

    sampler.fit(folder=folder, progress=False, callbacks=note)
    print(json.dumps(points))


if __name__ == "__main__":
    main(*sys.argv[1:])
