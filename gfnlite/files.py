"""Files that are either whole or not there: written to a temporary name, then renamed.

Mappings that are kept as JSON say their own digest, so that a flipped bit is not taken for a
number.
"""

import errno
import hashlib
import io
import json
import os
import re
import tempfile
import zipfile
from pathlib import Path

import torch

__all__ = [
    "as_json", "is_whole_zip", "load_state", "opened", "read_json", "remove_leftovers", "sealed",
    "write_bytes", "write_json",
]  # fmt: skip

SEAL = "sha256"

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


def sealed(value: dict) -> dict:
    """The mapping with a last key "sha256", the digest of all the others."""
    value = {name: part for name, part in value.items() if name != SEAL}
    return value | {SEAL: _digest(value)}


def opened(data: bytes):
    """What JSON says; a mapping without its "sha256", if it has one.

    Raises:
        ValueError: if it is no JSON, or says something else than its "sha256" is of.
    """
    try:
        value = json.loads(data)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if isinstance(value, dict) and SEAL in value and value.pop(SEAL) != _digest(value):
        raise ValueError(f'it says something else than its "{SEAL}" is of')
    return value


def as_json(value, indent: int | None = 1) -> bytes:
    """`value` as JSON, a mapping sealed; raises ValueError for a NaN or an infinity.

    With `indent` None on one line, which is written many times faster.
    """
    value = sealed(value) if isinstance(value, dict) else value
    return (json.dumps(value, indent=indent, allow_nan=False) + "\n").encode()


def write_json(path: str | Path, value) -> None:
    """Write `value` as readable JSON; a NaN or an infinity is refused, not written.

    A mapping gets a last key "sha256" in place of any that it has, a digest by which `read_json`
    knows damage.
    """
    write_bytes(path, as_json(value))


def read_json(path: str | Path):
    """What `write_json` wrote; a file without a digest is taken as it is.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged.
    """
    try:
        return opened(_read(path))
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def _read(path: str | Path) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        if error.errno != errno.ESTALE:
            raise
    with open(path, "rb") as file:  # a network's file that was replaced is there when asked again
        return file.read()


def is_whole_zip(data: bytes) -> bool:
    """Whether what `torch.save` wrote is as it was written, which `torch.load` does not ask.

    It is a zip file, with a checksum of each part.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as file:
            return file.testzip() is None
    except MemoryError:
        raise
    except Exception:  # whatever a flipped bit makes of it
        return False


def load_state(path: str | Path, kind: str) -> dict:
    """What `torch.save` wrote at `path`, on the CPU; data only, nothing in it is executed.

    Raises:
        OSError: if it cannot be read, which says nothing about what is in it.
        ValueError: if it is not whole, naming the `kind` of file that it should be.
    """
    data, problem = _read(path), f"{path} is not a whole {kind}"
    if not is_whole_zip(data):
        raise ValueError(problem)
    try:
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:
        raise ValueError(problem) from error
    if not isinstance(state, dict):
        raise ValueError(problem)
    return state


def _digest(value: dict) -> str:
    """Of what JSON says, however it is laid out."""
    return hashlib.sha256(json.dumps(value, separators=(",", ":")).encode()).hexdigest()


def remove_leftovers(folder: str | Path) -> None:
    """Remove the temporary files of writers that were killed; nobody may be writing there."""
    for path in Path(folder).rglob(".*"):
        if TEMPORARY.fullmatch(path.name):
            path.unlink(missing_ok=True)
