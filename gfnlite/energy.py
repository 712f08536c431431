"""What a target is: an energy, its gradient, and whatever is known exactly about its density.

A target *is* log R(x) = -E(x), or log R(x; c) = -E(x, c) given a condition c. Where the truth is
known it also has `log_z`, `sample`, and the exact mass of its modes, so that every metric that
needs a truth can ask for it and every metric that cannot have one says None.
"""

import copy
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

__all__ = ["ClosedForm", "Target", "as_target", "check_condition"]

LOG_2PI = math.log(2 * math.pi)


class Target:
    """An unnormalised density R(x; c) = exp(-E(x, c)) on R^d; most targets have no condition c.

    A subclass sets `dim` and defines `log_reward`; everything else is optional.

    Attributes:
        name: short name, the key of its presets.
        dim: dimension d.
        condition_dim: dimension of the condition c, or 0 if the target takes none.
        log_z: log of the normaliser (a function of the condition if there is one), or None where
            it is not known exactly.
        sample: exact sampler `(n, generator=None) -> (n, d)`, with `condition=None` (n, c) as a
            third argument if there is one; or None.
        sample_condition: draws training conditions, `(n, generator=None) -> (n, c)`; or None.
        mode_mass: exact mass of each mode (K,), or None.
    """

    name: str = "custom"
    dim: int
    condition_dim: int = 0
    log_z: float | Callable[[Tensor], Tensor] | None = None
    sample: Callable[..., Tensor] | None = None
    sample_condition: Callable[..., Tensor] | None = None
    mode_mass: Tensor | None = None

    def log_reward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """log R(x; c): (B, d), (B, c) -> (B,)."""
        raise TypeError(f"{type(self).__name__} must define log_reward(x, condition=None)")

    def energy(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """E(x, c) = -log R(x; c): (B, d), (B, c) -> (B,)."""
        return -self.log_reward(x, condition)

    def score(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Gradient of log R with respect to x: (B, d), (B, c) -> (B, d).

        It can be differentiated again if x requires grad, and is detached if not.
        """
        return self.log_reward_and_score(x, condition)[1]

    def log_reward_and_score(
        self, x: Tensor, condition: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """log R (B,) and its gradient (B, d), from one evaluation of the energy.

        By automatic differentiation; both are differentiable if x requires grad, else detached.

        Raises:
            ValueError: if log R does not depend on x differentiably.
        """
        differentiable = x.requires_grad and torch.is_grad_enabled()
        with torch.enable_grad():
            if not differentiable:
                x = x.detach().requires_grad_()
            log_r = self.log_reward(x, condition)
            score = None
            if log_r.requires_grad:
                (score,) = torch.autograd.grad(
                    log_r.sum(), x, create_graph=differentiable, allow_unused=True
                )
        if score is None:
            raise ValueError(
                f"energy of target '{self.name}' has no gradient with respect to x: "
                "compute it with differentiable torch operations on x"
            )
        return (log_r, score) if differentiable else (log_r.detach(), score)

    def modes_of(self, x: Tensor) -> Tensor:
        """Which mode each point belongs to: (B, d) -> membership (B, K) of zeros and ones."""
        raise TypeError(f"target '{self.name}' does not know its modes")

    def to(self, device: torch.device | str) -> "Target":
        """A copy of this target with its tensors (and its parts' and networks') on `device`."""
        other = copy.copy(self)
        vars(other).update((key, _moved(value, device)) for key, value in vars(self).items())
        return other

    def __repr__(self):
        condition = f", condition_dim={self.condition_dim}" if self.condition_dim else ""
        log_z = "f(condition)" if callable(self.log_z) else self.log_z
        return (
            f"{type(self).__name__}(name={self.name!r}, dim={self.dim}{condition}, log_z={log_z})"
        )


class ClosedForm(Target):
    """A target without condition whose gradient is a formula.

    A subclass defines `_closed_form(x)`: log R (B,), and a function of no argument that gives the
    score (B, d) from the intermediate results of log R. So each formula is written once, and the
    gradient costs little more, and only when asked for.
    """

    def _closed_form(self, x: Tensor) -> tuple[Tensor, Callable[[], Tensor]]:
        raise TypeError(f"{type(self).__name__} must define _closed_form(x)")

    def log_reward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """log R(x): (B, d) -> (B,)."""
        check_condition(self, x, condition)
        return self._closed_form(x)[0]

    def log_reward_and_score(
        self, x: Tensor, condition: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """log R (B,) and its gradient (B, d), by formula and sharing what they have in common."""
        check_condition(self, x, condition)
        log_r, score = self._closed_form(x)
        return log_r, score()


class _EnergyTarget(Target):
    """A user's energy function as a target, with its output checked at every call."""

    def __init__(self, energy_fn: Callable[..., Tensor], dim: int, condition_dim: int, conditions):
        self.energy_fn, self.dim, self.condition_dim = energy_fn, dim, condition_dim
        self.conditions = conditions
        self.name = getattr(energy_fn, "__name__", "custom")

    def log_reward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """-E(x) or -E(x, c): (B, d), (B, c) -> (B,)."""
        check_condition(self, x, condition)
        energy = self.energy_fn(x) if condition is None else self.energy_fn(x, condition)
        if not isinstance(energy, Tensor) or energy.shape != x.shape[:-1]:
            got = f"shape {_shape(energy)}" if isinstance(energy, Tensor) else type(energy).__name__
            raise ValueError(
                f"energy_fn '{self.name}' must return a tensor of shape (B,) = "
                f"{_shape(x[..., 0])} for x of shape {_shape(x)}, got {got}"
            )
        return -energy

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
        TypeError: if `energy_fn` is neither a target nor a callable.
    """
    if not _is_count(condition_dim) and condition_dim != 0:
        raise ValueError(f"condition_dim={condition_dim!r} must be a non-negative integer")
    if conditions is not None:
        conditions = torch.as_tensor(conditions, dtype=torch.float32)
        if conditions.ndim != 2 or 0 in conditions.shape:
            raise ValueError(f"conditions must have shape (N, c), got {_shape(conditions)}")
        if condition_dim not in (0, conditions.shape[1]):
            raise ValueError(
                f"condition_dim={condition_dim} but conditions have shape {_shape(conditions)}"
            )
        condition_dim = conditions.shape[1]
    if isinstance(energy_fn, Target):
        if dim is not None and dim != energy_fn.dim:
            raise ValueError(f"dim={dim} but target '{energy_fn.name}' has dim={energy_fn.dim}")
        if conditions is not None or condition_dim not in (0, energy_fn.condition_dim):
            given = "conditions" if conditions is not None else f"condition_dim={condition_dim}"
            raise ValueError(
                f"{given} is for callables; target '{energy_fn.name}' has its own "
                f"condition_dim={energy_fn.condition_dim}"
            )
        return energy_fn
    if not callable(energy_fn) or isinstance(energy_fn, type):
        raise TypeError(
            f"energy_fn={energy_fn!r} must be a Target or a callable E(x): (B, d) -> (B,)"
        )
    if not _is_count(dim):
        raise ValueError(f"dim={dim!r}: a callable energy needs dim, a positive integer")
    return _EnergyTarget(energy_fn, dim, condition_dim, conditions)


def check_condition(target: Target, x: Tensor, condition: Tensor | None) -> None:
    """Refuse a condition that the target does not take, or lacks, or that does not fit x (B, d).

    Raises:
        ValueError: unless `condition` is (B, c) for a conditional target and None for any other.
    """
    if condition is None and not target.condition_dim:
        return
    if not target.condition_dim:
        raise ValueError(f"condition given, but target '{target.name}' takes none")
    wanted = (len(x), target.condition_dim)
    got = _shape(condition) if isinstance(condition, Tensor) else repr(condition)
    if got != str(wanted):
        raise ValueError(f"target '{target.name}' needs condition (B, c) = {wanted}, got {got}")


def _is_count(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _moved(value, device):
    if type(value) in (list, tuple):
        return type(value)(_moved(part, device) for part in value)
    if isinstance(value, nn.Module):  # a network moves in place: never somebody else's
        device = torch.empty(0, device=device).device  # cuda means cuda:0
        here = all(p.device == device for p in [*value.parameters(), *value.buffers()])
        return value if here else copy.deepcopy(value).to(device)
    return value.to(device) if isinstance(value, Tensor | Target) else value


def _shape(x: Tensor) -> str:
    return str(tuple(x.shape))
