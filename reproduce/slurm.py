"""Slurm does the scheduling; here its queue is read, and jobs in it are cancelled or requeued."""

import json
import os
import subprocess
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, fields

from . import experiments
from .experiments import BadInput, Run
from .provenance import slurm_ids
from .reading import read_mapping

__all__ = ["PATIENCE", "Queued", "cancel", "queue", "requeue", "run_of", "slurm"]

PATIENCE = 10  # seconds that Slurm's controller may take to answer
PAUSES = (1, 5)  # seconds before the second and the third try of what must not fail


class NoSlurm(BadInput):
    """A machine without Slurm's commands."""


@dataclass(frozen=True)
class Queued:
    """What Slurm's queue says of a run: whether it is running, and more in words."""

    running: bool
    words: str


@dataclass(frozen=True)
class _Row:
    """A job, or a task of an array, in the queue; `run` is its entry in the manifest, if whole."""

    job: str
    task: str
    state: str
    reason: str
    run: dict | None

    @property
    def id(self) -> str:
        return f"{self.job}_{self.task}" if self.task else self.job


def requeue() -> bool:
    """Have the job that this process is in start again later; False if it has been cancelled.

    Raises:
        BadInput: if Slurm does not answer when asked three times.
    """
    ids = slurm_ids(os.environ) or {}
    job = f"{ids['array']}_{ids['task']}" if "array" in ids else ids.get("job")
    if job is None:
        return False
    state = _insist("squeue", "--noheader", f"--jobs={job}", "--format=%T").strip()
    # A job that has been cancelled could be requeued as well, which nobody would expect.
    if state == "RUNNING":
        _insist("scontrol", "requeue", job)
    return state == "RUNNING"


def _insist(*words: str) -> str:
    """As `slurm`, three times if need be: its controller may be busy when many jobs are warned."""
    for pause in PAUSES:
        try:
            return slurm(*words, timeout=PATIENCE)
        except BadInput:
            time.sleep(pause)
    return slurm(*words, timeout=PATIENCE)


def queue(strict: bool = False) -> dict[str, Queued]:
    """What Slurm's queue says of runs, by their names; empty without Slurm, or if it is silent.

    Raises:
        BadInput: if it is there and silent, and `strict`.
    """
    try:
        rows = _ours()
    except BadInput as error:
        if strict and not isinstance(error, NoSlurm):
            raise
        return {}
    found = {}
    for row in rows:
        if row.run is not None:
            running = row.state != "PENDING"
            where = f"on {row.reason}" if running else f"({row.reason})"
            words = f"Slurm job {row.id} {row.state.lower()} {where}"
            found[row.run["name"]] = Queued(running, words)
    return found


def cancel(ids: Collection[str] = (), only: Sequence[str] = ()) -> list[str]:
    """Cancel what was submitted from here, or these jobs of it, or its runs that match `only`.

    Returns a line for each job that was cancelled.

    Raises:
        BadInput: for an id that is not among them, or where Slurm does not answer.
    """
    rows = _ours()
    for wanted in ids:
        if wanted not in {name for row in rows for name in (row.job, row.id)}:
            known = ", ".join(dict.fromkeys(row.job for row in rows)) or "none"
            raise BadInput(f"{wanted!r} is no job in the queue submitted from here; these: {known}")
    if ids:
        rows = [row for row in rows if row.job in ids or row.id in ids]
    if only:
        rows = [row for row in rows if row.run is not None]
        chosen = experiments.select([run_of(row.run) for row in rows], list(only))
        rows = [row for row in rows if run_of(row.run) in chosen]
    if rows:
        slurm("scancel", *(row.id for row in rows))
    return [f"{row.id} {row.run['name'] if row.run else ''}".strip() for row in rows]


def _ours() -> list[_Row]:
    """The jobs of this user in the queue that were submitted from this repository."""
    told = slurm(
        "squeue", "--me", "--noheader", "--array", "--format=%F|%K|%T|%R", timeout=PATIENCE
    )
    known = dict(_submitted())
    rows = []
    for line in told.splitlines():
        job, task, state, reason = line.split("|", 3)
        task = task if task.isdecimal() else ""
        if job in known and state != "COMPLETING":  # it ends
            run = dict(enumerate(known[job])).get(int(task)) if task else None
            rows.append(_Row(job, task, state, reason.strip("()"), run if _is_entry(run) else None))
    return rows


def _submitted() -> Iterator[tuple[str, list[dict]]]:
    """Ids of all jobs ever submitted from here, oldest first, each with its manifest's entries."""
    for record in sorted((experiments.RUNS / ".slurm").glob("*/submitted.json")):
        for name, job in read_mapping(record).items():
            if not isinstance(job, str):  # about to be submitted, and not known to have been
                continue
            try:
                entries = json.loads(record.with_name(f"{name}.json").read_text())
            except (OSError, ValueError):  # no array, or damaged
                entries = []
            yield job, entries if isinstance(entries, list) else []


def _is_entry(run) -> bool:
    whole = isinstance(run, dict) and run.keys() >= {"name", *(one.name for one in fields(Run))}
    return whole and isinstance(run["name"], str) and isinstance(run["seeds"], list)


def run_of(entry: dict) -> Run:
    """The run that an entry of a manifest stands for, not checked."""
    values = {one.name: entry[one.name] for one in fields(Run)}
    return Run(**values | {"seeds": tuple(values["seeds"])})


def slurm(*words: str, timeout: float | None = None) -> str:
    """What a command of Slurm says; given as words, so that no value of it is read by a shell.

    Raises:
        BadInput: if it is not there, does not answer, or refuses, in its own words.
    """
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=timeout)
    except FileNotFoundError as error:
        raise NoSlurm(f"{words[0]} is not here: this needs Slurm's commands") from error
    except (subprocess.TimeoutExpired, ValueError, OSError) as error:
        raise BadInput(f"{words[0]}: {error}") from error
    if done.returncode:
        raise BadInput(f"{words[0]}: {' '.join(done.stderr.split()) or 'failed'}")
    return done.stdout
