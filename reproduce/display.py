"""What is seen of runs while they run: bars on a terminal, lines elsewhere."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from . import runner
from .experiments import Run
from .pool import Watcher
from .reading import read_history

__all__ = ["fraction_done", "last_entry", "watching"]

LINE_EVERY = 60.0  # seconds between two lines about a run, where no bar moves


def last_entry(folder: Path) -> dict | None:
    """The newest whole entry of a seed's history; None if there is none."""
    entries = read_history(folder / "history.jsonl")
    return next((e for e in reversed(entries) if isinstance(e.get("iteration"), int)), None)


def fraction_done(run: Run) -> float:
    """How much of its training is done, over its seeds."""
    done = 0.0
    for seed in run.seeds:
        folder = run.folder / f"seed-{seed}"
        if (folder / "metrics.json").exists():
            done += 1
        elif entry := last_entry(folder):
            done += entry["iteration"] / run.config.iterations
    return done / len(run.seeds)


@contextmanager
def watching(runs: list[Run]) -> Iterator[Watcher]:
    """What `run_all` tells of the runs, as bars if standard error is a terminal, else as lines."""
    numbers = {run.name: f"[{i}/{len(runs)}]" for i, run in enumerate(runs, 1)}
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines(numbers)
        return
    columns = (
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console) as progress:
        everything = progress.add_task("all runs", total=len(runs))
        bars: dict[str, int] = {}

        def watcher(run: Run, state: str | None) -> None:
            if state == "started":
                bars[run.name] = progress.add_task(run.name, total=1.0)
            progress.update(bars[run.name], completed=fraction_done(run))
            if state not in (None, "started"):
                progress.remove_task(bars.pop(run.name))
                progress.advance(everything)
                console.print(_ending(run, state, numbers), markup=False, highlight=False)

        yield watcher


def _lines(numbers: dict[str, str]) -> Watcher:
    said: dict[str, float] = {}

    def watcher(run: Run, state: str | None) -> None:
        if state == "started":
            click.echo(f"{numbers[run.name]} {run.name}: running seeds {list(run.seeds)}")
            said[run.name] = time.monotonic()
        elif state is not None:
            click.echo(_ending(run, state, numbers))
        elif time.monotonic() - said[run.name] > LINE_EVERY:
            click.echo(f"{numbers[run.name]} {run.name}: {fraction_done(run):.0%} of its training")
            said[run.name] = time.monotonic()

    return watcher


def _ending(run: Run, state: str, numbers: dict[str, str]) -> str:
    if state == "busy":
        return f"{numbers[run.name]} {run.name}: left alone, another process works on it"
    cause = runner.record_of(run.folder).get("cause")
    return f"{numbers[run.name]} {run.name}: {state}" + (f", {cause}" if cause else "")
