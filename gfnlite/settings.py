"""Records of validated settings: what a mistaken value is told, and how records are changed."""

import dataclasses
import math
import numbers
import types
import typing
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Self

from .arguments import shown

__all__ = ["Settings", "setting"]


def setting(default, doc: str, *, low=None, high=None, above=None, choices=None):
    """A field of `Settings`: its default, its meaning, and the values that it may have."""
    rule = {"doc": doc, "low": low, "high": high, "above": above}
    rule["choices"] = choices
    return dataclasses.field(default=default, metadata=rule)


@dataclass(frozen=True)
class Settings:
    """A frozen dataclass whose fields, each a `setting`, are checked.

    Raises:
        ValueError: for a value of the wrong type or out of range, naming setting and value.
    """

    def __post_init__(self):
        for name, (field, kind, optional) in _rules(type(self)).items():
            value = getattr(self, name)
            if value is not field.default:  # most are, and a large grid checks a million of them
                # an int given for a float becomes one
                object.__setattr__(self, name, _checked(field, kind, optional, value))
        for wrong, message in self._conflicts():
            if wrong:
                raise ValueError(message)

    def _conflicts(self) -> list[tuple[bool, str]]:
        return []

    def replace(self, **changes) -> Self:
        """A copy with some settings changed and checked.

        Raises:
            ValueError: for an unknown setting, or as the class does.
        """
        if not changes:
            return self
        known = _rules(type(self))
        for name in changes:
            if name not in known:
                raise ValueError(f"unknown setting {shown(name)}; known: {', '.join(known)}")
        return dataclasses.replace(self, **changes)

    @classmethod
    def describe(cls) -> dict[str, str]:
        """What each setting means, by name."""
        return {field.name: field.metadata["doc"] for field in dataclasses.fields(cls)}

    def markdown(self, always: Collection[str] = ()) -> str:
        """A table of the settings that are not at their defaults, and of those named `always`."""
        usual, lines = type(self)(), ["| setting | value | meaning |", "|:---|:---|:---|"]
        for name, meaning in self.describe().items():
            value = getattr(self, name)
            if name in always or value != getattr(usual, name):
                text = f"{value:.4g}" if isinstance(value, float) else value
                lines.append(f"| `{name}` | `{text}` | {meaning} |")
        return "\n".join(lines)


@cache  # evaluating the annotations takes longer than checking the values
def _rules(record: type[Settings]) -> dict[str, tuple[dataclasses.Field, type, bool]]:
    """Of each field: itself, its type, and whether it may be None."""
    hints, rules = typing.get_type_hints(record), {}
    for field in dataclasses.fields(record):
        hint = hints[field.name]
        optional = isinstance(hint, types.UnionType)
        rules[field.name] = field, typing.get_args(hint)[0] if optional else hint, optional
    return rules


def _checked(field: dataclasses.Field, kind: type, optional: bool, given):
    value = given
    if optional and value is None:
        return None
    if type(value) is not kind:
        number = {int: numbers.Integral, float: numbers.Real}.get(kind)  # NumPy's too, never a bool
        if number and isinstance(value, number) and not isinstance(value, bool):
            try:
                value = kind(value)
            except OverflowError:
                value = math.inf
    if wrong := _wrong(field.metadata, kind, value):
        raise ValueError(f"{field.name}={shown(given)} {wrong}")
    return value


def _wrong(rule: Mapping, kind: type, value) -> str | None:
    if type(value) is not kind:
        hint_yaml = ""
        if kind is float and isinstance(value, str):
            hint_yaml = " (YAML reads 1e-3 as text: write 1.0e-3)"
        return f"has type {type(value).__name__}, must be {kind.__name__}{hint_yaml}"
    if kind is float and not math.isfinite(value):
        return "must be finite"
    if rule["choices"] is not None and value not in rule["choices"]:
        return f"is unknown; allowed: {', '.join(rule['choices'])}"
    if rule["above"] is not None and value <= rule["above"]:
        return f"must be greater than {rule['above']}"
    if rule["low"] is not None and value < rule["low"]:
        return f"must be at least {rule['low']}"
    if rule["high"] is not None and value > rule["high"]:
        return f"must be at most {rule['high']}"
    return None
