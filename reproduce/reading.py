"""What is read of files that people or killed processes may have damaged."""

import itertools
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import yaml

from gfnlite.arguments import shown
from gfnlite.files import opened, read_json

__all__ = [
    "BadInput", "leads_out", "parse_yaml", "printable", "read_history", "read_mapping", "read_yaml",
]  # fmt: skip


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


def leads_out(folder: Path, below: Iterable[str] | None = None) -> str | None:
    """The symbolic link in a folder, or in its place, that leads out of it; None: there is none.

    Through one in a run that came from elsewhere, other files here would be read or written.

    Args:
        folder: of a run.
        below: names in it that are to be looked at, those of a name's folders too; None: all.
    """
    below = _links(folder) if below is None else (f"{folder}/{name}" for name in below)
    for path in filter(os.path.islink, itertools.chain((folder,), below)):
        home = os.path.join(os.path.realpath(folder.parent), folder.name)
        if os.path.commonpath((home, os.path.realpath(path))) != home:
            return printable(os.path.relpath(path, folder.parent))
    return None


def _links(folder: str | Path, but: str = "wandb") -> Iterator[str]:
    """Every symbolic link below a folder, but those of a tracker, by which nothing here goes."""
    try:
        entries = list(os.scandir(folder))
    except OSError:  # there is none
        return
    for entry in entries:
        if entry.is_symlink():
            yield entry.path
        elif entry.is_dir() and entry.name != but:
            yield from _links(entry.path, "")


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
        return parse_yaml(path.read_bytes())
    except OSError as error:
        raise BadInput(f"{name}: cannot be read: {error.strerror}") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}" if mark else ""
        twice = f": {error.problem}" if isinstance(error, _Twice) else ""
        raise BadInput(f"{name}{line}: not valid YAML{twice}") from error


def parse_yaml(text: str | bytes) -> object:
    """What YAML says; a key that is given twice in one mapping is a mistake.

    Raises:
        yaml.YAMLError: if it is not valid.
    """
    try:
        loader = _Strict(text)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except yaml.YAMLError:
        raise
    # Whatever Python says of an impossible date, a tag that does not fit, too deep a nest, …
    except Exception as error:
        raise yaml.YAMLError(str(error)) from error


class _Twice(yaml.constructor.ConstructorError):
    pass


class _Strict(yaml.SafeLoader):
    def compose_mapping_node(self, anchor):  # as it stands, before any other is merged into it
        node, seen = super().compose_mapping_node(anchor), set()
        for key, _ in node.value:
            name = (key.tag, key.value) if isinstance(key, yaml.ScalarNode) else id(key)
            if name in seen:
                problem = f"the key {shown(key.value)} is given twice"
                raise _Twice(None, None, problem, key.start_mark)
            seen.add(name)
        return node
