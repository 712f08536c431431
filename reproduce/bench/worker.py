"""One part, measured in this process: `python -m reproduce.bench.worker PART SIZES FOLDER STATE`.

The sizes are JSON. Results go to FOLDER; what a part keeps to go on from later goes to STATE.
"""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch

import gfnlite as gl
from gfnlite.machine import device_name

from .. import report
from ..provenance import code
from . import (
    dead_ends,
    floor,
    gpu,
    memory,
    profile,
    quality,
    scaling,
    seeds,
    steps,
    vae,
    waterfall,
)  # fmt: skip
from .measure import Progress, clock_name
from .sizes import FULL, Sizes

__all__ = ["PARTS", "alone", "lines", "run", "save"]

PARTS = {
    "steps": steps.measure,
    "vae": vae.measure,
    "ideas": waterfall.measure,
    "scaling": scaling.measure,
    "seeds": seeds.measure,
    "floor": floor.measure,
    "memory": memory.measure,
    "profile": profile.measure,
    "dead_ends": dead_ends.measure,
    "quality": quality.measure,
    "gpu": gpu.measure,
}


def run(part: str, sizes: Sizes, folder: Path, state: Path) -> Iterator[str]:
    """Measure a part and save it; what it found, as lines of text."""
    where, threads = environment(), torch.get_num_threads()
    progress = Progress(f"{part}, {threads} thread{'s' * (threads > 1)}")
    if part == "quality":  # each task is saved once it is there: they take long
        results = quality.measure(sizes, progress, state)
        saved = ((f"quality-{task}", [entry]) for task, entry in results)
    else:
        saved = [(part, list(PARTS[part](sizes, progress)))]
    for name, entries in saved:
        save(folder / f"{name}.json", where, entries)
        yield from lines(entries)


def environment() -> dict:
    """What the figures depend on besides the code, and which code that is."""
    kept = code() | {"device": device_name(), "cpu": _cpu(), "cores": os.cpu_count()}
    kept["threads"] = torch.get_num_threads()
    kept["clock"] = clock_name()
    return kept


def alone(part: str, measure: Callable[[Sizes, Progress], Iterable[dict]]) -> None:
    """Measure what is no part of the benchmark, on one thread; keep and print its entries."""
    torch.set_num_threads(1)
    entries = list(measure(FULL, Progress(part)))
    save(report.FOLDER / "bench" / f"{part}.json", environment(), entries)
    for entry in entries:
        print(", ".join(f"{name} {value}" for name, value in entry.items()))


def save(path: Path, where: dict, entries: list[dict]) -> None:
    """Write a run beside the others of the file; one of as many threads and device is replaced."""
    try:
        runs = json.loads(path.read_text())["runs"]
    except FileNotFoundError:
        runs = []

    def key(run):
        return run["environment"]["threads"], run["environment"]["device"]

    new = {"environment": where, "entries": entries}
    runs = sorted([*(run for run in runs if key(run) != key(new)), new], key=key)
    gl.write_json(path, {"part": path.stem, "runs": runs})


def lines(entries: list[dict]) -> Iterator[str]:
    """Entries as text: what was measured, medians, and ratios with their intervals."""
    for entry in entries:
        words = [str(value) for value in entry.values() if isinstance(value, str | int)]
        parts = [", ".join(words)]
        for name, value in entry.items():
            if not isinstance(value, dict):
                continue
            if "cpu_seconds" in value:
                met = "good enough" if value["met"] else "not good enough"
                parts.append(f"{name} {value['cpu_seconds']:.4g} CPU seconds, {met}")
            elif "median" in value:
                parts.append(f"{name} {value['median']:.4g} {value['unit']}")
            elif "at_least" in value:
                parts.append(f"{name} {'at least ' * value['at_least']}{value['value']:.3g}x")
            elif "value" in value:
                interval = f"{value['low']:.3g} to {value['high']:.3g}"
                parts.append(f"{name} {value['value']:.3g}x ({interval})")
        yield "; ".join(parts)


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [li for li in info.read_text().splitlines() if li.startswith("model name")]
        return names[0].partition(":")[2].strip() if names else platform.machine()
    if sys.platform == "darwin":
        words = ["sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(words, capture_output=True, text=True).stdout.strip()
    return platform.processor()


def main(part: str, sizes: str, folder: str, state: str) -> None:
    """Run a part, and print its lines."""
    for line in run(part, Sizes(**json.loads(sizes)), Path(folder), Path(state)):
        print(line, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
