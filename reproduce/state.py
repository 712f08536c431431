"""Where runs stand, all together: from their folders, their locks and Slurm's queue."""

import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from rich.table import Table
from rich.text import Text

from . import experiments, runner
from .display import fraction_done
from .experiments import Run
from .lock import Busy, locked
from .reading import printable, read_mapping
from .slurm import Queued, queue
from .table import aligned

__all__ = ["Standing", "lines", "removable", "remove", "standing", "standings", "table"]

STATES = {  # in this order, with the colour that a terminal shows them in
    "running": "cyan",
    "queued": "blue",
    "failed": "red",
    "interrupted": "yellow",
    "partly done": "yellow",
    "stale": "magenta",
    "unreadable": "red",
    "done": "green",
    "missing": "bright_black",
}


@dataclass(frozen=True)
class Standing:
    """A run, its state (a key of `STATES`), and what is known beside.

    Attributes:
        done: the seeds that have their metrics.
        fraction: of the training, between 0 and 1.
        elapsed: seconds since it began, if it runs, or that it took.
        note: where it runs, or why it ended.
    """

    run: Run
    state: str
    done: tuple[int, ...]
    fraction: float
    elapsed: float | None
    note: str


def standing(run: Run, queued: Queued | None = None) -> Standing:
    """Where a run stands; `queued` is what Slurm's queue says of it."""
    state, record = runner.look(run.folder)
    missing = runner.missing_seeds(run)
    done = tuple(seed for seed in run.seeds if seed not in missing)
    if state == "done" and missing:  # it was run with other seeds than these
        state = "partly done" if done else "missing"
    note = str(record.get("cause") or "")
    if state == "running":
        note = _place(record)
    elif state != "done" and queued:  # locks may not reach from one node to another: it knows
        state, note = ("running" if queued.running else "queued"), queued.words
    fraction = 0.0 if state == "missing" else fraction_done(run) if missing else 1.0
    return Standing(run, state, done, fraction, _elapsed(state, record), note)


def standings(runs: Iterable[Run], strict: bool = False) -> list[Standing]:
    """Where runs stand, Slurm's queue read once; `strict` as for `queue`."""
    queued = queue(strict)
    return [standing(run, queued.get(run.name)) for run in runs]


def table(found: list[Standing], everything: bool = False) -> Table:
    """A table of what has begun or waits (or of everything), and how many there are of each."""
    count = Counter(one.state for one in found)
    title = ", ".join(f"{count[state]} {state}" for state in STATES if count[state])
    made = Table(title=title or "no runs", title_justify="left", box=None, pad_edge=False)
    for name in ("run", "state", "seeds", "trained", "time", "note"):
        made.add_column(name, justify="right" if name in ("seeds", "trained", "time") else "left")
    for one in sorted(found, key=lambda one: list(STATES).index(one.state)):
        if one.state != "missing" or everything:
            made.add_row(
                one.run.name,
                Text(one.state, STATES[one.state]),
                f"{len(one.done)}/{len(one.run.seeds)}",
                f"{one.fraction:.0%}",
                _clock(one.elapsed),
                Text(printable(one.note)),  # in which a bracket is no markup
            )
    return made


def lines(made: Table) -> Iterator[str]:
    """The same as plain text, every name in full."""
    columns = [[str(column.header), *map(str, column.cells)] for column in made.columns]
    yield str(made.title)
    yield from aligned([list(row) for row in zip(*columns, strict=True)])


def removable(kinds: set[str]) -> list[Path]:
    """Folders of these kinds (stale, failed, interrupted, smoke) that nobody works in.

    Raises:
        BadInput: if Slurm is there and does not say which of them wait or run.
    """
    queued = queue(strict=True)
    folders = sorted(experiments.RUNS.glob("[!.]*/"))
    return [f for f in folders if f.name not in queued and kinds & _kinds(f)]


def remove(folder: Path, kinds: set[str]) -> bool:
    """Remove a folder if it still is of these kinds and nobody works in it; whether it was."""
    try:
        with locked(folder, patience=0):
            found = bool(kinds & _kinds(folder, ours=True))
            if found:
                shutil.rmtree(folder)
            return found
    except Busy:
        return False


def _kinds(folder: Path, ours: bool = False) -> set[str]:
    state = runner.folder_status(folder, ours)
    if state == "running":
        return set()
    smoke = read_mapping(folder / "config.json").get("profile") == "smoke"
    return {state, "smoke"} if smoke else {state}


def _place(record: dict) -> str:
    slurm = record.get("slurm")
    slurm = slurm if isinstance(slurm, dict) else {}
    if "array" in slurm:
        return f"Slurm job {slurm['array']}_{slurm.get('task')} on {record.get('host')}"
    job = f"Slurm job {slurm['job']}, " if "job" in slurm else ""
    return f"{job}{record.get('host')}, process {record.get('pid')}"


def _elapsed(state: str, record: dict) -> float | None:
    if state != "running":
        seconds = record.get("wall_seconds")
        return seconds if isinstance(seconds, int | float) else None
    try:
        elapsed = datetime.now(UTC) - datetime.fromisoformat(record["started"])
        return max(0.0, elapsed.total_seconds())  # a clock can be set back
    except (KeyError, ValueError, TypeError):
        return None


def _clock(seconds: float | None) -> str:
    if seconds is None:
        return ""
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"
