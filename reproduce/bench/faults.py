"""Damage to every kind of file that is kept: `python -m reproduce.bench.faults`.

Bits are flipped and files cut short, at places that are always the same ones. A fault is detected
if reading says so, naming the file, and the run is one that `run` would go on with; harmless if all
that is read is as before; and lost if neither, which must never be. Counts go to
results/bench/faults.json.
"""

import contextlib
import random
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import torch

import gfnlite as gl
from gfnlite import checkpoint
from gfnlite.files import read_json
from gfnlite.vae import VAE

from .. import experiments, report, runner
from ..experiments import Run
from ..reading import read_history
from .grid import finish
from .measure import Progress
from .sizes import Sizes

__all__ = ["PLACES", "damaged", "files", "inject", "measure"]

# Of each file so many: 500 in all.
PLACES = {
    "checkpoint.pt": 120, "metrics.json": 90, "config.json": 60, "run.json": 60,
    "history.jsonl": 50, "results": 60, "safetensors": 60,
}  # fmt: skip
SETTINGS = {"steps": 3, "batch_size": 8, "hidden": 8, "iterations": 60, "replay_capacity": 50,
            "ls_every": 20, "ls_steps": 4, "ls_burn_in": 2}  # fmt: skip


def damaged(data: bytes, count: int) -> Iterator[bytes]:
    """The data with one bit flipped, and each fifth time instead cut short."""
    choose = random.Random(len(data))
    for number in range(count):
        place = choose.randrange(len(data))
        if number % 5 == 4:
            yield data[:place]
        else:
            flipped = data[place] ^ 1 << choose.randrange(8)
            yield data[:place] + bytes([flipped]) + data[place + 1 :]


def files(root: Path) -> dict[str, tuple[Path, Callable[[], object]]]:
    """A run that is done and other files that are kept, in `root`: each, and how it is read.

    A reader returns what is compared, or raises ValueError naming the file.
    """
    run = replace(experiments.load("smoke", only=["task=9gmm", "method=TB+Expl+LS"])[0], seeds=(0,))
    seed = run.folder / "seed-0"
    finish(run, run.folder, random.Random(0))
    sampler = gl.GFNDiffusion(gl.gmm9, config=run.config.replace(**SETTINGS), device="cpu")
    sampler.fit(folder=seed, progress=False)
    result, weights = root / "results.json", root / "vae.safetensors"
    gl.write_json(result, {"task": "9gmm", "rows": report.collect([])})
    with torch.random.fork_rng():
        VAE(16, 8, 2).save(weights, half=True)
    row, entries = _row(run), read_history(seed / "history.jsonl")

    def history() -> object:
        found = read_history(seed / "history.jsonl")
        found = [{name: entry.get(name) for name in entries[0]} for entry in found]
        # What is left is shown, whatever comes after it.
        if found != entries and found == entries[: len(found)]:
            raise ValueError("history.jsonl ends early")
        return found

    def results() -> object:
        found = read_json(result)
        return {name: found.get(name) for name in ("task", "rows")}

    return {
        "checkpoint.pt": (seed / "checkpoint.pt", lambda: _flat(checkpoint.read(
            seed / "checkpoint.pt"))),
        "metrics.json": (seed / "metrics.json", row),
        "config.json": (run.folder / "config.json", row),
        "run.json": (run.folder / "run.json", row),
        "history.jsonl": (seed / "history.jsonl", history),
        "results": (result, results),
        "safetensors": (weights, lambda: _flat(dict(VAE.load(weights).state_dict()))),
    }  # fmt: skip


def _row(run: Run) -> Callable[[], object]:
    def read() -> object:
        notes: list[str] = []
        rows = report.collect(notes)
        if rows or runner.why_not(run) is not None:  # then no command would mend it
            return rows
        raise ValueError(notes[0])

    return read


def _flat(value) -> list:
    """All that a state has in it, as what can be compared."""
    if isinstance(value, torch.Tensor):
        return [str(value.dtype), value.tolist()]
    if isinstance(value, dict):
        return [[str(name), _flat(part)] for name, part in value.items()]
    if isinstance(value, list | tuple):
        return [_flat(part) for part in value]
    return [repr(value)]


def inject(path: Path, read: Callable[[], object], count: int) -> Counter:
    """Damage a file `count` times; how often that was detected, harmless or lost."""
    whole, before, found = path.read_bytes(), read(), Counter()
    for data in damaged(whole, count):
        path.write_bytes(data)
        try:
            found["harmless" if read() == before else "lost"] += 1
        except ValueError as error:
            found["detected" if path.name in str(error) else "lost"] += 1
        finally:
            path.write_bytes(whole)
    return found


@contextlib.contextmanager
def elsewhere() -> Iterator[Path]:
    """An empty folder, and runs in it."""
    before = experiments.RUNS
    with tempfile.TemporaryDirectory() as folder:
        experiments.RUNS = Path(folder) / "runs"
        try:
            yield Path(folder)
        finally:
            experiments.RUNS = before


def measure(sizes: Sizes, progress: Progress) -> Iterator[dict]:
    """An entry for each kind of file: faults injected, detected, harmless, lost."""
    with elsewhere() as root:
        for name, (path, read) in files(root).items():
            progress.start(name)
            injected = 5 if sizes.small else PLACES[name]
            found = inject(path, read, injected)
            survived = found["detected"] + found["harmless"]
            counts = {"injected": injected, "survived": survived, "lost": found["lost"]}
            yield {"fault": "bit flips and truncation", "file": name, **counts, **found}


def main() -> None:
    """Measure all of it and keep it among the results."""
    from . import worker

    worker.alone("faults", measure)


if __name__ == "__main__":
    main()
