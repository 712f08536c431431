"""What a run was made with, so that it can be made again: code, machine and scheduler."""

import hashlib
import os
import platform
import socket
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version

from .experiments import NOTEBOOKS, ROOT, Run

__all__ = ["code", "code_label", "now", "provenance", "slurm_ids"]

# What decides a result; a changed sentence in a book page does not make a run dirty.
CODE = ("gfnlite", "notebooks", "reproduce/*.py", "reproduce/experiments", "requirements.txt")
PACKAGES = ("gfnlite", "torch", "numpy", "papermill", "nbclient", "ipykernel")
SLURM = {
    "job": "SLURM_JOB_ID",
    "array": "SLURM_ARRAY_JOB_ID",
    "task": "SLURM_ARRAY_TASK_ID",
    "restarts": "SLURM_RESTART_COUNT",
    "node": "SLURMD_NODENAME",
    "partition": "SLURM_JOB_PARTITION",
}


def provenance(run: Run) -> dict:
    """Of the process that executes a run: commit and changes, notebook, versions, host, Slurm."""
    return code() | {
        "notebook": _digest((NOTEBOOKS / f"{run.notebook}.py").read_bytes()),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "slurm": slurm_ids(os.environ),
    }


def code() -> dict:
    """When, the commit, a digest of what was changed since, and versions of packages."""
    changed = git("status", "--porcelain", "--", *CODE)
    return {
        "started": now(),
        "commit": git("rev-parse", "HEAD"),
        "dirty": changed != "",
        "changes": _digest(changed + (git("diff", "HEAD", "--", *CODE) or "")) if changed else None,
        "versions": {
            "python": platform.python_version(), **{name: version(name) for name in PACKAGES},
        },
    }  # fmt: skip


def slurm_ids(environment) -> dict[str, str] | None:
    """Job, array and task of the process, as Slurm tells it; None outside of Slurm."""
    known = {name: environment[variable] for name, variable in SLURM.items()
             if variable in environment}  # fmt: skip
    return known or None


def code_label(record: dict) -> str:
    """The code behind a record: its commit, "+changes" if dirty, "unknown" without a history."""
    if record["commit"] is None:
        return "unknown"
    return record["commit"] + ("+changes" if record["dirty"] else "")


def git(*arguments: str) -> str | None:
    """What git says in the repository; None in a copy without its history."""
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _digest(data: str | bytes) -> str:
    return hashlib.sha256(data.encode() if isinstance(data, str) else data).hexdigest()[:16]
