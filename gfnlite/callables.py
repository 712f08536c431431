"""Any callable E(x) or E(x, c) as a target."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .arguments import floats, shown
from .checks import (
    check_condition,
    check_dims,
    check_shape,
    check_states,
    given,
    is_count,
    is_size,
    shape_of,
)
from .energy import Target

__all__ = ["as_target"]


class _EnergyTarget(Target):
    """A user's energy function as a target, with its output checked at every call."""

    def __init__(self, energy_fn: Callable[..., Tensor], dim: int, condition_dim: int, conditions):
        self.energy_fn, self.dim, self.condition_dim = energy_fn, dim, condition_dim
        self.conditions = conditions
        # With its arguments, so that no user's function is taken for the task of the same name.
        arguments = "(x, c)" if condition_dim else "(x)"
        self.name = _name(energy_fn) + arguments

    def log_reward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """-E(x) or -E(x, c): (B, d), (B, c) -> (B,)."""
        check_states(self, x)
        check_condition(self, x, condition)
        # Copies, since a user's energy may change what it is given.
        energy = self.energy_fn(*(part.clone() for part in (x, *given(condition))))
        check_shape(f"energy_fn '{self.name}'", energy, x, x[..., 0], "(B,)")
        return -energy.to(x.dtype)  # networks in half and data in double are common

    @property
    def sample_condition(self) -> Callable[..., Tensor] | None:
        """Draws `(n, generator=None) -> (n, c)` uniformly from `conditions`, if they are known."""
        return None if self.conditions is None else self._draw_condition

    def _draw_condition(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        device = self.conditions.device
        return self.conditions[
            torch.randint(len(self.conditions), (n,), generator=generator, device=device)
        ]


def as_target(
    energy_fn: Target | Callable[..., Tensor],
    dim: int | None = None,
    condition_dim: int = 0,
    conditions: Tensor | Sequence | None = None,
) -> Target:
    """A target as it is, or any callable E(x) or E(x, c) as a target of dimension `dim`.

    Args:
        energy_fn: a `Target`, or an energy (B, d) -> (B,); with a condition (B, d), (B, c) -> (B,).
        dim: dimension d; needed for a callable.
        condition_dim: dimension c of the condition that a callable takes; 0 if it takes none.
        conditions: (N, c), what training conditions are drawn from, uniformly; implies c.

    Raises:
        ValueError: if `dim` is missing or not a positive integer, or if `dim`, `condition_dim` or
            `conditions` do not fit the target or each other.
        TypeError: if `energy_fn` is neither a target nor a callable, or makes targets.
    """
    if not is_size(condition_dim):
        raise ValueError(f"condition_dim={shown(condition_dim)} must be a non-negative integer")
    if conditions is not None:
        conditions = floats("conditions", conditions, dtype=torch.float32)
        if conditions.ndim != 2 or 0 in conditions.shape:
            raise ValueError(f"conditions must have shape (N, c), got {shape_of(conditions)}")
        if condition_dim not in (0, conditions.shape[1]):
            raise ValueError(
                f"condition_dim={condition_dim} but conditions have shape {shape_of(conditions)}"
            )
        condition_dim = conditions.shape[1]
    if isinstance(energy_fn, Target):
        check_dims(energy_fn)
        if dim is not None and dim != energy_fn.dim:
            raise ValueError(f"dim={dim} but target '{energy_fn.name}' has dim={energy_fn.dim}")
        if conditions is not None or condition_dim not in (0, energy_fn.condition_dim):
            what = "conditions" if conditions is not None else f"condition_dim={condition_dim}"
            raise ValueError(
                f"{what} is for callables; target '{energy_fn.name}' has its own "
                f"condition_dim={energy_fn.condition_dim}"
            )
        return energy_fn
    if not callable(energy_fn) or isinstance(energy_fn, type):
        raise TypeError(
            f"energy_fn={shown(energy_fn)} must be a Target or a callable E(x): (B, d) -> (B,)"
        )
    makes = getattr(energy_fn, "__annotations__", {}).get("return")
    if isinstance(makes, type) and issubclass(makes, Target):
        name = _name(energy_fn)
        raise TypeError(f"energy_fn={name} makes a Target: call it, and pass the result")
    if not is_count(dim):
        raise ValueError(f"dim={shown(dim)}: a callable energy needs dim, a positive integer")
    return _EnergyTarget(energy_fn, int(dim), int(condition_dim), conditions)


def _name(function) -> str:
    return getattr(function, "__name__", "custom")
