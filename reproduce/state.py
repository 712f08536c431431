"""Where runs stand, all together: from their folders, their locks and Slurm's queue."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from rich.table import Table

from . import experiments, runner
from .display import fraction_done
from .experiments import Run
from .slurm import Queued, queue

__all__ = ["Standing", "lines", "removable", "standing", "standings", "table"]

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
    state, record = runner.status(run), runner.record_of(run.folder)
    missing = runner.missing_seeds(run)
    done = tuple(seed for seed in run.seeds if seed not in missing)
    if state == "done" and _made_otherwise(run, record):
        state = "stale"
    elif state == "done" and missing:  # it was run with other seeds than these
        state = "partly done" if done else "missing"
    note = record.get("cause") or ""
    if state == "running":
        note = _place(record)
    elif state != "done" and queued:  # locks may not reach from one node to another: it knows
        state, note = ("running" if queued.running else "queued"), queued.words
    fraction = 0.0 if state == "missing" else fraction_done(run)
    return Standing(run, state, done, fraction, _elapsed(state, record), note)


def standings(runs: Iterable[Run]) -> list[Standing]:
    """Where runs stand, Slurm's queue read once."""
    queued = queue()
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
                f"[{STATES[one.state]}]{one.state}[/]",
                f"{len(one.done)}/{len(one.run.seeds)}",
                f"{one.fraction:.0%}",
                _clock(one.elapsed),
                one.note.replace("[", r"\["),
            )
    return made


def lines(made: Table) -> Iterator[str]:
    """The same as plain text, every name in full."""
    from rich.text import Text

    columns = [[Text.from_markup(str(cell)).plain for cell in c.cells] for c in made.columns]
    heads = [str(column.header) for column in made.columns]
    widths = [max(map(len, [head, *cells])) for head, cells in zip(heads, columns, strict=True)]
    yield str(made.title)
    for row in [heads, *zip(*columns, strict=True)]:
        yield "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()


def removable(kinds: set[str]) -> list[Path]:
    """Folders of these kinds (stale, failed, interrupted, smoke) that nobody works in."""
    known = {run.name for name in ("smoke", "quick", "full") for run in experiments.load(name)}
    found = []
    for folder in sorted(experiments.RUNS.glob("[!.]*/")):
        state, about = runner.folder_status(folder), _about(folder)
        default = not about.get("overrides")  # with settings of one's own it is nobody's grid
        is_kind = {
            "stale": default and folder.name not in known and bool(about),
            "failed": state == "failed",
            "interrupted": state == "interrupted",
            "smoke": about.get("profile") == "smoke",
        }
        if state != "running" and any(is_kind[kind] for kind in kinds):
            found.append(folder)
    return found


def _about(folder: Path) -> dict:
    try:
        about = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError):
        return {}
    return about if isinstance(about, dict) else {}


def _made_otherwise(run: Run, record: dict) -> bool:
    """Whether the settings that it was made with, or gfnlite's version, are no longer these."""
    made, version = _about(run.folder).get("config"), record.get("versions", {}).get("gfnlite")
    now = asdict(run.config)
    # A setting that did not exist then is at its default now, or the run had another name.
    same = isinstance(made, dict) and now | made == now
    return not same or version != runner.gl.__version__


def _place(record: dict) -> str:
    slurm = record.get("slurm") or {}
    if "array" in slurm:
        return f"Slurm job {slurm['array']}_{slurm.get('task')} on {record.get('host')}"
    job = f"Slurm job {slurm['job']}, " if "job" in slurm else ""
    return f"{job}{record.get('host')}, process {record.get('pid')}"


def _elapsed(state: str, record: dict) -> float | None:
    if state != "running":
        return record.get("wall_seconds")
    try:
        return (datetime.now(UTC) - datetime.fromisoformat(record["started"])).total_seconds()
    except (KeyError, ValueError):
        return None


def _clock(seconds: float | None) -> str:
    if seconds is None:
        return ""
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"
