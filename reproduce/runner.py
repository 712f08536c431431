"""One run: a notebook executed by papermill into its run folder, resumable at any moment."""

import dataclasses
import re
import resource
import time
import traceback
from pathlib import Path

import gfnlite as gl
from gfnlite.files import is_whole_zip, read_json, remove_leftovers
from gfnlite.machine import device_name, peak_memory

from .experiments import Run, defaults
from .lock import is_locked, locked
from .provenance import code_label, now, provenance
from .reading import leads_out, read_mapping
from .stopping import GRACE, Stop, Stopped, stoppable

__all__ = [
    "amend", "execute", "finished", "folder_status", "is_stale", "look", "missing_seeds",
    "record_of", "status", "why_not",
]  # fmt: skip


def finished(run: Run) -> bool:
    """Whether every seed of the run has its metrics, made with its settings of today."""
    return status(run) == "done" and not missing_seeds(run)


def why_not(run: Run) -> str | None:
    """Why the run is not to be executed, in words; None: it is."""
    if link := leads_out(run.folder):
        return f"left alone: {link} is a symbolic link that leads out of the run's folder"
    state = status(run)
    if state == "stale":  # its seeds and new ones would be of different settings
        return "stale: made with other settings; `clean --what stale` removes it"
    return "done already" if state == "done" and not missing_seeds(run) else None


def missing_seeds(run: Run) -> list[int]:
    """Seeds of the run that have no metrics yet, or damaged ones."""
    folder = run.folder
    return [seed for seed in run.seeds if not _has_metrics(f"{folder}/seed-{seed}/metrics.json")]


def _has_metrics(path: str) -> bool:
    try:
        return isinstance(read_json(path), dict)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return False


def record_of(folder: Path) -> dict:
    """run.json of a folder; empty if there is none, or none that can be read."""
    return read_mapping(folder / "run.json")


def status(run: Run) -> str:
    """missing, running, done, failed, interrupted (also if its process is no more), or stale."""
    return folder_status(run.folder)


def folder_status(folder: Path, ours: bool = False) -> str:
    """The same of a folder; unreadable if its run.json or config.json is there and damaged.

    Args:
        folder: of a run.
        ours: this process holds its lock, so that nobody else works in it.
    """
    return look(folder, ours)[0]


def look(folder: Path, ours: bool = False) -> tuple[str, dict]:
    """`folder_status`, and run.json as far as it can be read."""

    def at_work() -> bool:
        return not ours and is_locked(folder)

    if not (folder / "run.json").exists():
        return "running" if at_work() else "missing", {}
    record = record_of(folder)
    if record.get("status") == "running" and not at_work():
        record = record_of(folder)  # it may have ended between the two looks
        if record.get("status") == "running":
            record["status"] = "interrupted"
    state = record.get("status")
    if state not in ("running", "done", "failed", "interrupted"):
        return "unreadable", record
    if state == "running":
        return state, record
    try:
        stale = is_stale(read_json(folder / "config.json"))
    except FileNotFoundError:  # nothing ran there
        return state, record
    except (OSError, ValueError):
        return "unreadable", record
    return "stale" if stale else state, record


def is_stale(about: dict) -> bool:
    """Whether what config.json is about was made with settings that can no longer be made.

    A setting that did not exist then is at its default now, or the run had another name.
    """
    try:
        made = about["config"]
        names = (about["task"], about["method"], about["profile"])
        now = Run(*names, (), about["notebook"], about["overrides"]).config
    except ValueError:  # its task, its method or a setting is no more
        return True
    except (KeyError, TypeError):  # nothing ran there, or nothing can be told
        return False
    return isinstance(made, dict) and defaults(type(now)) | made != vars(now)


def execute(run: Run, limit: float | None = None, grace: float = GRACE) -> str:
    """Execute the run's notebook, going on from its checkpoints; returns the status it ends in.

    A failure is recorded with its traceback and its cause in one line, and not raised. A signal,
    or the `limit` in seconds, interrupts the kernel, which has `grace` seconds to save its
    checkpoint.

    Raises:
        Busy: if another process works in the run's folder.
    """
    with locked(run.folder) as handle, stoppable(limit, grace) as stop:
        # Somebody else may have finished it while this process waited.
        return "done" if finished(run) else _execute(run, handle, stop)


def amend(run: Run, cause: str) -> None:
    """Write into the record of a run whose process is no more why it ended.

    Raises:
        Busy: if another process works on it by now.
    """
    with locked(run.folder):
        record = record_of(run.folder) | {"status": "interrupted", "cause": cause}
        gl.write_json(run.folder / "run.json", record)


def _execute(run: Run, handle: int, stop: Stop) -> str:
    from . import papers  # seconds to import, and only a run needs it

    folder, before = run.folder, record_of(run.folder)
    remove_leftovers(folder)  # of a process that was killed
    damaged = _set_damaged_aside(run)
    (folder / "machine.json").unlink(missing_ok=True)
    config = {"task": run.task, "method": run.method, "profile": run.profile}
    config |= {"notebook": run.notebook, "overrides": dict(run.overrides)}
    gl.write_json(folder / "config.json", config | {"config": dataclasses.asdict(run.config)})
    record = provenance(run) | {"seeds": list(run.seeds), "status": "running", "cause": None}
    record["damaged"] = [*(before.get("damaged") or []), *damaged]  # files that were made anew
    record["commits"] = _commits(run, before, code_label(record))
    record["device"] = _devices(run, before)
    spent = before.get("wall_seconds", 0) if before.get("status") != "done" else 0
    record["wall_seconds"] = spent
    gl.write_json(folder / "run.json", record)
    started = time.monotonic()
    try:
        papers.execute_notebook(run, handle, stop)
        missing = missing_seeds(run)
        if missing:
            raise RuntimeError(f"the notebook ended without metrics.json for seeds {missing}")
        record["status"] = "done"
    except (Exception, KeyboardInterrupt, Stopped) as error:
        if stop.cause is not None:
            record |= {"status": "interrupted", "cause": stop.cause}
        else:
            record |= {"status": "failed", "cause": _cause(error)}
            record["traceback"] = _plain(traceback.format_exc())
    finally:
        record["finished"] = now()
        record["wall_seconds"] = round(spent + time.monotonic() - started, 1)
        record |= _told(run)
        gl.write_json(folder / "run.json", record)
    return record["status"]


def _set_damaged_aside(run: Run) -> list[str]:
    """Rename what nothing can go on from, so that it is made anew; what it was."""
    aside = []
    for seed in missing_seeds(run):
        folder = run.folder / f"seed-{seed}"
        metrics, checkpoint = folder / "metrics.json", folder / "checkpoint.pt"
        for path in (metrics, checkpoint):
            if path.exists() and not (path == checkpoint and is_whole_zip(path.read_bytes())):
                path.replace(path.with_name(f"{path.name}.damaged"))
                aside.append(f"{folder.name}/{path.name}")
    return aside


def _cause(error: BaseException) -> str:
    """The last line of what went wrong, such as "ValueError: steps=0 must be at least 1"."""
    if name := getattr(error, "ename", None):  # an error of a cell
        value = _plain(error.evalue).strip().splitlines()
        return f"{name}: {value[0] if value else ''}"
    first = str(error).strip().splitlines()
    return f"{type(error).__name__}: {first[0] if first else ''}"


def _plain(text: str) -> str:
    """Without the escape sequences that colour a terminal."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def _told(run: Run) -> dict:
    """What is known at the end: the machine, peak memory in bytes, calls of the energy."""
    told: dict = {"peak_memory": peak_memory(resource.RUSAGE_CHILDREN)}
    try:
        told["machine"] = read_json(run.folder / "machine.json")
    except (OSError, ValueError):
        told["machine"] = None  # it did not get that far
    calls = 0
    for seed in run.seeds:
        try:
            metrics = read_json(run.folder / f"seed-{seed}" / "metrics.json")
            calls += metrics["energy_calls"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return told | {"energy_calls": calls}


def _commits(run: Run, before: dict, now: str) -> dict[str, list[str]]:
    """By seed, the code that made it; several if a training was interrupted and went on later.

    Seeds that have their metrics keep what is recorded of them: this execution only shows them.
    """
    kept = before.get("commits")
    commits = dict(kept) if isinstance(kept, dict) else {}
    for path in run.folder.glob("seed-*/metrics.json"):  # also those of which a lost record told
        commits.setdefault(path.parent.name[5:], ["unknown"])
    for seed in missing_seeds(run):
        begun = (run.folder / f"seed-{seed}" / "checkpoint.pt").exists()
        known = commits.get(str(seed), ["unknown"]) if begun else []
        commits[str(seed)] = [*known, *([now] if now not in known else [])]
    return commits


def _devices(run: Run, before: dict) -> str:
    """What the seeds were trained on; "a then b" if any of it was done on another device before."""
    missing, now = missing_seeds(run), device_name()
    begun = any((run.folder / f"seed-{seed}" / "checkpoint.pt").exists() for seed in missing)
    earlier = before.get("device") if begun or len(missing) < len(run.seeds) else None
    devices = [*(earlier or "").split(" then "), now if missing else ""]
    return " then ".join(dict.fromkeys(filter(None, devices))) or now
