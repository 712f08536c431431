"""Records of validated settings: what a mistaken value is told, and how records are changed."""

import dataclasses
import math
import numbers
import types
import typing
from collections.abc import Collection
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
        hints = _hints(type(self))
        for field in dataclasses.fields(self):
            value = _checked(field, hints[field.name], getattr(self, field.name))
            object.__setattr__(self, field.name, value)  # an int given for a float becomes one
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
        known = [field.name for field in dataclasses.fields(self)]
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
                shown = f"{value:.4g}" if isinstance(value, float) else value
                lines.append(f"| `{name}` | `{shown}` | {meaning} |")
        return "\n".join(lines)


# Evaluating the annotations takes longer than checking the values.
_hints = cache(typing.get_type_hints)


def _checked(field: dataclasses.Field, hint, value):
    rule, label = field.metadata, f"{field.name}={shown(value)}"
    optional = isinstance(hint, types.UnionType)
    kind = typing.get_args(hint)[0] if optional else hint
    if optional and value is None:
        return None
    number = {int: numbers.Integral, float: numbers.Real}.get(kind)  # NumPy's too, never a bool
    if number and isinstance(value, number) and not isinstance(value, bool):
        try:
            value = kind(value)
        except OverflowError as error:
            raise ValueError(f"{label} must be finite") from error
    if type(value) is not kind:
        hint_yaml = ""
        if kind is float and isinstance(value, str):
            hint_yaml = " (YAML reads 1e-3 as text: write 1.0e-3)"
        raise ValueError(
            f"{label} has type {type(value).__name__}, must be {kind.__name__}{hint_yaml}"
        )
    if kind is float and not math.isfinite(value):
        raise ValueError(f"{label} must be finite")
    if rule["choices"] is not None and value not in rule["choices"]:
        raise ValueError(f"{label} is unknown; allowed: {', '.join(rule['choices'])}")
    if rule["above"] is not None and value <= rule["above"]:
        raise ValueError(f"{label} must be greater than {rule['above']}")
    if rule["low"] is not None and value < rule["low"]:
        raise ValueError(f"{label} must be at least {rule['low']}")
    if rule["high"] is not None and value > rule["high"]:
        raise ValueError(f"{label} must be at most {rule['high']}")
    return value
