"""One runner at a time in a run folder, by a lock that ends with the last process that has it."""

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["Busy", "is_locked", "locked"]

NAME = ".lock"
PATIENCE = 5.0  # seconds; a kernel whose runner was killed ends within two, on Linux at once


class Busy(RuntimeError):
    """Another process works in the folder."""


@contextmanager
def locked(folder: Path, patience: float = PATIENCE) -> Iterator[int]:
    """Hold the folder; yields the file descriptor, for a child that is to hold it as well.

    The kernel of the operating system frees it when all who have it are dead, however they died.

    Raises:
        Busy: if somebody else still holds it after `patience` seconds.
    """
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder / NAME, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    try:
        until = time.monotonic() + patience
        while not _take(handle):
            if time.monotonic() > until:
                raise Busy(f"{folder.name} is being worked on by another process")
            time.sleep(0.1)
        yield handle
    finally:
        os.close(handle)


def is_locked(folder: Path) -> bool:
    """Whether somebody holds the folder at this moment."""
    try:
        handle = os.open(folder / NAME, os.O_RDWR)
    except OSError:
        return False
    try:
        # Shared: two that look at once do not take each other for somebody at work.
        return not _take(handle, fcntl.LOCK_SH)
    finally:
        os.close(handle)


def _take(handle: int, kind: int = fcntl.LOCK_EX) -> bool:
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        if error.errno not in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):
            raise
        # A file system without locks: nobody can hold it, and a job array has one task a run.
    return True
