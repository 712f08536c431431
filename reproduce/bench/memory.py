"""Part `memory`: by how much training makes a process grow, at its peak."""

import json
import subprocess
from collections.abc import Iterator
from dataclasses import asdict, replace

from .measure import Progress, summary
from .process import ROOT, command
from .sizes import Sizes

__all__ = ["measure"]

BATCHES = (300, 3000)
ITERATIONS = 5
RUNS = 3


def measure(sizes: Sizes, progress: Progress) -> Iterator[dict]:
    """An entry for each task and batch size: MiB of a TB+Expl forward training."""
    for task in sizes.tasks:
        for batch in (sizes.batch,) if sizes.small else BATCHES:
            progress.start(f"{task}, batch {batch}")
            entry = {"task": task, "step": "TB+Expl forward", "batch": batch}
            for who in ("ours", "plain"):
                runs = 1 if sizes.small else RUNS
                grown = [_grown(who, task, replace(sizes, batch=batch)) for _ in range(runs)]
                entry[who] = summary(grown, unit="MiB")
            yield entry


def _grown(who: str, task: str, sizes: Sizes) -> float:
    words = command("growth", who, task, json.dumps(asdict(sizes)), str(ITERATIONS))
    done = subprocess.run(words, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout)
