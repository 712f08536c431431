"""What is read of files that people or killed processes may have damaged."""

from pathlib import Path

import yaml

from gfnlite.files import opened, read_json

__all__ = ["BadInput", "read_history", "read_mapping", "read_yaml"]


class BadInput(ValueError):
    """A mistake in a file or on the command line, in one line that says what is allowed."""


def read_mapping(path: Path) -> dict:
    """A mapping that is kept as JSON; empty if there is none, or none that can be read."""
    try:
        found = read_json(path)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def read_history(path: Path) -> list[dict]:
    """The entries of a history.jsonl, up to the first that cannot be read."""
    entries = []
    try:
        for line in path.read_bytes().splitlines():
            entries.append(opened(line))
    except (OSError, ValueError):
        pass
    return [entry for entry in entries if isinstance(entry, dict)]


def read_yaml(path: Path) -> object:
    """What a file of YAML says.

    Raises:
        BadInput: for one that cannot be read or is not valid, naming the line if it is known.
    """
    name = path.name if path.name.isprintable() else ascii(path.name)[1:-1]
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(f"{name}: cannot be read: {error.strerror}") from error
    # Among the ValueErrors are bytes that are no text and an impossible date.
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}" if mark else ""
        raise BadInput(f"{name}{line}: not valid YAML") from error
