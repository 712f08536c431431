"""One run: a notebook executed by papermill into its run folder, resumable at any moment."""

import dataclasses
import json
import logging
import os
import platform
import subprocess
import sys
import time
import traceback
from datetime import UTC, datetime

import jupytext
import papermill
import torch

import gfnlite as gl

from .experiments import NOTEBOOKS, ROOT, Run, parameters

# It warns of parameters written `int | None`, which its reader misses; ours were checked before.
logging.getLogger("papermill").setLevel(logging.ERROR)

CELL_TIMEOUT = 24 * 3600  # a cell may train for hours; a hung kernel must still end one day


def finished(run: Run) -> bool:
    """Whether every seed of the run has its metrics."""
    return status(run) == "done" and not missing_seeds(run)


def missing_seeds(run: Run) -> list[int]:
    """Seeds of the run that have no metrics yet."""
    return [s for s in run.seeds if not (run.folder / f"seed-{s}" / "metrics.json").exists()]


def status(run: Run) -> str:
    """What run.json says: running, done, failed or interrupted; missing if there is none."""
    try:
        return json.loads((run.folder / "run.json").read_text())["status"]
    except FileNotFoundError:
        return "missing"
    except (json.JSONDecodeError, KeyError, TypeError):
        return "unreadable"


def execute(run: Run) -> str:
    """Execute the run's notebook, going on from its checkpoints; returns the status it ends in.

    A failure is recorded with its traceback and not raised; KeyboardInterrupt is recorded and
    raised.
    """
    folder = run.folder
    config = {"task": run.task, "method": run.method, "profile": run.profile}
    config |= {"notebook": run.notebook, "overrides": dict(run.overrides)}
    gl.write_json(folder / "config.json", config | {"config": dataclasses.asdict(run.config)})
    record = _provenance() | {"seeds": list(run.seeds), "status": "running"}
    before = _record_before(run)
    record["commits"] = _commits(run, before, code_label(record))
    record["device"] = _devices(run, before, record["device"])
    gl.write_json(folder / "run.json", record)
    started = time.monotonic()
    try:
        _papermill(run)
        missing = missing_seeds(run)
        if missing:
            raise RuntimeError(f"the notebook ended without metrics.json for seeds {missing}")
        record["status"] = "done"
    except KeyboardInterrupt:
        record["status"] = "interrupted"
        raise
    except Exception:
        record |= {"status": "failed", "traceback": traceback.format_exc()}
    finally:
        record["finished"] = _now()
        record["wall_seconds"] = round(time.monotonic() - started, 1)
        gl.write_json(folder / "run.json", record)
    return record["status"]


def _papermill(run: Run) -> None:
    output = run.folder / "notebook.ipynb"
    temporary = run.folder / ".notebook.ipynb"
    os.environ["GFNLITE_STATIC"] = "1"  # nobody moves a slider
    notebook = jupytext.read(NOTEBOOKS / f"{run.notebook}.py")
    try:
        papermill.execute_notebook(
            notebook,
            str(temporary),
            parameters(run),
            kernel_name="python3",
            language="python",
            cwd=str(NOTEBOOKS),
            progress_bar=False,  # the training's own bar says more, and comes through stderr
            stderr_file=sys.stderr,
            execution_timeout=CELL_TIMEOUT,
            shutdown_kernel="immediate",  # all is written; a polite end prints an interrupt
        )
    finally:  # after a failure too: the executed cells show what went wrong
        if temporary.exists():
            os.replace(temporary, output)


def code_label(record: dict) -> str:
    """The code behind a record: its commit, "+changes" if dirty, "unknown" without a history."""
    if record["commit"] is None:
        return "unknown"
    return record["commit"] + ("+changes" if record["dirty"] else "")


def _record_before(run: Run) -> dict:
    """What an earlier execution in the folder recorded of itself; empty if there is none."""
    try:
        record = json.loads((run.folder / "run.json").read_text())
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def _commits(run: Run, before: dict, now: str) -> dict[str, list[str]]:
    """By seed, the code that made it; several if a training was interrupted and went on later.

    Seeds that have their metrics keep what is recorded of them: this execution only shows them.
    """
    kept = before.get("commits")
    commits = dict(kept) if isinstance(kept, dict) else {}
    for seed in missing_seeds(run):
        begun = (run.folder / f"seed-{seed}" / "checkpoint.pt").exists()
        known = commits.get(str(seed), ["unknown"]) if begun else []
        commits[str(seed)] = [*known, *([now] if now not in known else [])]
    return commits


def _devices(run: Run, before: dict, now: str) -> str:
    """What the seeds were trained on; "a then b" if any of it was done on another device before."""
    missing = missing_seeds(run)
    begun = any((run.folder / f"seed-{seed}" / "checkpoint.pt").exists() for seed in missing)
    earlier = before.get("device") if begun or len(missing) < len(run.seeds) else None
    devices = [*(earlier or "").split(" then "), now if missing else ""]
    return " then ".join(dict.fromkeys(filter(None, devices))) or now


def _provenance() -> dict:
    return {
        "started": _now(),
        "commit": _git("rev-parse", "HEAD"),
        "dirty": _git("status", "--porcelain", "--", *_CODE) != "",
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "gfnlite": gl.__version__,
        },
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "threads": os.environ.get("OMP_NUM_THREADS", "1"),
    }


# What decides a result; a changed sentence in a book page does not make a run dirty.
_CODE = ("gfnlite", "notebooks", "reproduce/*.py", "reproduce/experiments", "requirements.txt")


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None  # a copy without its history
    return done.stdout.strip()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
