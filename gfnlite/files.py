"""Files that are either whole or not there: written to a temporary name, then renamed."""

import json
import os
import re
import tempfile
from pathlib import Path

__all__ = ["remove_leftovers", "as_json", "write_bytes", "write_json"]


UMASK = os.umask(0)  # it can only be read by setting it
os.umask(UMASK)
TEMPORARY = re.compile(r"\..+\.[a-z0-9_]{8}")


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write `data` so that a reader, or a kill at any moment, sees the old file or the new one."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            os.fchmod(handle, 0o666 & ~UMASK)  # as any other file: colleagues may read it
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def as_json(value) -> bytes:
    """`value` as readable JSON; raises ValueError for a NaN or an infinity."""
    return (json.dumps(value, indent=1, allow_nan=False) + "\n").encode()


def write_json(path: str | Path, value) -> None:
    """Write `value` as readable JSON; a NaN or an infinity is refused, not written."""
    write_bytes(path, as_json(value))


def remove_leftovers(folder: str | Path) -> None:
    """Remove the temporary files of writers that were killed; nobody may be writing there."""
    for path in Path(folder).rglob(".*"):
        if TEMPORARY.fullmatch(path.name):
            path.unlink(missing_ok=True)
