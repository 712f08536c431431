"""What is read of files that people or killed processes may have damaged."""

import json
import os
from pathlib import Path

import yaml

__all__ = ["BadInput", "leads_out", "printable", "read_mapping", "read_yaml"]


class BadInput(ValueError):
    """A mistake in a file or on the command line, in one line that says what is allowed."""


def read_mapping(path: Path) -> dict:
    """A mapping that is kept as JSON; empty if there is none, or none that can be read."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def leads_out(folder: Path) -> str | None:
    """The symbolic link in a folder, or in its place, that leads out of it; None: there is none.

    Through one in a run that came from elsewhere, other files here would be read or written.
    """
    home = Path(os.path.realpath(folder.parent), folder.name)
    # What a tracker links to is its own: nothing here goes there.
    tracker = folder / "wandb"
    for path in (folder, *(p for p in folder.rglob("*") if tracker not in p.parents)):
        if path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(home):
            return printable(str(path.relative_to(folder.parent)))
    return None


def printable(text: str) -> str:
    """One line in which a terminal finds no command: what cannot be printed is written out."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def read_yaml(path: Path) -> object:
    """What a file of YAML says.

    Raises:
        BadInput: for one that cannot be read or is not valid, naming the line if it is known.
    """
    name = printable(path.name)
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(f"{name}: cannot be read: {error.strerror}") from error
    # Among the ValueErrors are bytes that are no text and an impossible date.
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}" if mark else ""
        raise BadInput(f"{name}{line}: not valid YAML") from error
