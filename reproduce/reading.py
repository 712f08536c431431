"""What is read of files that people or killed processes may have damaged."""

import json
from pathlib import Path

import yaml

from gfnlite.arguments import shown

__all__ = ["BadInput", "one_line", "parse_yaml", "read_mapping", "read_yaml"]


class BadInput(ValueError):
    """A mistake in a file or on the command line, in one line that says what is allowed."""


def read_mapping(path: Path) -> dict:
    """A mapping that is kept as JSON; empty if there is none, or none that can be read."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def read_yaml(path: Path) -> object:
    """What a file of YAML says.

    Raises:
        BadInput: for one that cannot be read or is not valid, naming the line if it is known.
    """
    name = one_line(path.name)
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
        return yaml.load(text, _Strict)
    except yaml.YAMLError:
        raise
    # Whatever Python says of an impossible date, a tag that does not fit, too deep a nest, …
    except Exception as error:
        raise yaml.YAMLError(str(error)) from error


class _Twice(yaml.constructor.ConstructorError):
    pass


class _Strict(yaml.SafeLoader):
    def construct_mapping(self, node, deep=False):
        seen = set()
        for key, _ in node.value:
            name = (key.tag, key.value) if isinstance(key, yaml.ScalarNode) else id(key)
            if name in seen:
                problem = f"the key {shown(key.value)} is given twice"
                raise _Twice(None, None, problem, key.start_mark)
            seen.add(name)
        return super().construct_mapping(node, deep)


def one_line(text: str) -> str:
    """Text with what would end its line, or steer a terminal, written as Python would."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
