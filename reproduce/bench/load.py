"""Commands over many runs, a large buffer, a long training: `python -m reproduce.bench.load`.

Takes a quarter of an hour, and writes results/bench/load.json.
"""

import json
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from gfnlite.replay import ReplayBuffer

from . import endurance, grid
from .measure import Progress
from .process import ROOT, command
from .sizes import Sizes

__all__ = ["buffer", "measure"]

COMMANDS = ("list", "status", "collect", "report")
BATCH, ROUNDS = 300, 100


def buffer(size: int, dim: int, priority: str = "rank") -> dict:
    """A full buffer: bytes a sample at its peak, CPU ms of adding a batch and of drawing one."""
    before = endurance.resident()
    made = ReplayBuffer(size, dim, priority=priority)
    for part in range(0, size, 100_000):  # as a training would, and not all at once
        count = min(100_000, size - part)
        made.add(torch.randn(count, dim), torch.randn(count))
    made.sample(BATCH)
    grown = endurance.resident() - before
    spent = [0.0, 0.0]
    for _ in range(ROUNDS):
        x, log_reward = torch.randn(BATCH, dim), torch.randn(BATCH)
        for place, call in enumerate(
            (lambda x=x, r=log_reward: made.add(x, r), lambda: made.sample(BATCH))
        ):
            began = time.process_time()
            call()
            spent[place] += time.process_time() - began
    add, draw = (1e3 * seconds / ROUNDS for seconds in spent)
    about = {"samples": size, "dim": dim, "priority": priority, "mb": round(grown)}
    return about | {"bytes_per_sample": 1e6 * grown / size, "add_ms": add, "draw_ms": draw}


def measure(sizes: Sizes, progress: Progress) -> Iterator[dict]:
    """An entry for each command, buffer and training."""
    with tempfile.TemporaryDirectory() as folder:
        root, count = Path(folder) / "root", 100 if sizes.small else 10_000
        progress.start(f"{count} runs")
        runs = len(grid.build(root, count))
        for name in COMMANDS:
            progress.start(name)
            seconds, cpu, mb = grid.cost(root, name)
            entry = {"what": name, "runs": runs, "seconds": round(seconds, 2)}
            yield entry | {"cpu_s": round(cpu, 2), "mb": round(mb)}
        for size in (1000, 2000) if sizes.small else (100_000, 10_000_000):
            for dim in (2, 32):
                progress.start(f"buffer of {size}, {dim}-d")
                yield {"what": "buffer"} | buffer(size, dim)
        steps = 200 if sizes.small else 200_000
        progress.start(f"{steps} steps")
        words = command("endurance", str(steps), str(Path(folder) / "training"))
        done = subprocess.run(words, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
        points = json.loads(done.stdout)
        entry = {"what": "training", "steps": steps, "mb": round(points[-1][1], 1)}
        yield entry | {"mb_in_10_000_steps": round(endurance.grown(points), 3)}


def main() -> None:
    """Measure all of it and keep it among the results."""
    from . import worker

    worker.alone("load", measure)


if __name__ == "__main__":
    main()
