"""Every setting of a training run, in one validated record."""

import dataclasses
import math
import types
import typing
from dataclasses import dataclass

__all__ = ["Config"]


def _setting(default, doc: str, *, low=None, high=None, above=None, choices=None):
    rule = {"doc": doc, "low": low, "high": high, "above": above, "choices": choices}
    return dataclasses.field(default=default, metadata=rule)


@dataclass(frozen=True)
class Config:
    """Settings of a sampler and its training; `Config.describe()` lists them with their meaning.

    Raises:
        ValueError: for a value of the wrong type or out of range, naming setting and value.
    """

    objective: str = _setting("tb", "loss", choices=("tb", "vargrad"))
    sigma2: float = _setting(1.0, "variance of the reference process per unit time", above=0)
    steps: int = _setting(100, "transitions T of a trajectory (uniform grid)", low=1, high=10_000)
    coarse_steps: int | None = _setting(
        None, "train first on random grids of this many steps; None: never", low=1, high=10_000
    )
    coarse_fraction: float = _setting(
        0.8, "fraction of the training that is coarse, if coarse_steps is set", low=0, high=1
    )
    batch_size: int = _setting(300, "trajectories B in a training batch", low=1)
    iterations: int = _setting(4000, "training steps", low=1)
    exploration: float = _setting(
        0.0, "variance per unit time added to the sampling noise at the start of training", low=0
    )
    exploration_decay: float = _setting(
        0.5, "fraction of training in which its standard deviation falls linearly to 0",
        above=0, high=1,
    )  # fmt: skip
    lr: float = _setting(3e-3, "Adam's learning rate of the drift network", above=0)
    lr_log_z: float = _setting(0.1, "Adam's learning rate of log Z_theta", above=0)
    lr_decay: float = _setting(
        0.5, "last fraction of training in which both rates fall linearly to 0", low=0, high=1
    )
    hidden: int = _setting(64, "width of the drift network", low=1)
    layers: int = _setting(2, "joint hidden layers of the drift network", low=1)

    def __post_init__(self):
        hints = typing.get_type_hints(type(self))
        for field in dataclasses.fields(self):
            value = _checked(field, hints[field.name], getattr(self, field.name))
            object.__setattr__(self, field.name, value)  # an int given for a float becomes one
        if self.objective == "vargrad" and self.batch_size < 2:
            raise ValueError(
                "batch_size=1 with objective='vargrad': a variance needs at least 2 trajectories"
            )

    def replace(self, **changes) -> "Config":
        """A copy with some settings changed and checked.

        Raises:
            ValueError: for an unknown setting, or as the class does.
        """
        known = [field.name for field in dataclasses.fields(self)]
        for name in changes:
            if name not in known:
                raise ValueError(f"unknown setting {name!r}; known: {', '.join(known)}")
        return dataclasses.replace(self, **changes)

    @classmethod
    def describe(cls) -> dict[str, str]:
        """What each setting means, by name."""
        return {field.name: field.metadata["doc"] for field in dataclasses.fields(cls)}


def _checked(field: dataclasses.Field, hint, value):
    rule, label = field.metadata, f"{field.name}={value!r}"
    optional = isinstance(hint, types.UnionType)
    kind = typing.get_args(hint)[0] if optional else hint
    if optional and value is None:
        return None
    if kind is float and type(value) is int:
        value = float(value)
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
    if rule["low"] is not None and value < rule["low"]:
        raise ValueError(f"{label} must be at least {rule['low']}")
    if rule["above"] is not None and value <= rule["above"]:
        raise ValueError(f"{label} must be greater than {rule['above']}")
    if rule["high"] is not None and value > rule["high"]:
        raise ValueError(f"{label} must be at most {rule['high']}")
    return value
