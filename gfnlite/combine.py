"""Targets made of others: tempered, held at one condition, and weighted sums of energies."""

import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from .arguments import floats, positive
from .callables import as_target
from .checks import check_condition
from .energy import Target

__all__ = ["conditioned", "tempered", "weighted_sum"]


class _WeightedSum(Target):
    def __init__(self, targets: list[Target], weights: list[float], name: str):
        self.parts, self.weights, self.name = targets, weights, name
        self.dim = targets[0].dim
        self.condition_dim = max(part.condition_dim for part in targets)

    def _evaluate(self, method: str, x: Tensor, condition: Tensor | None) -> list:
        check_condition(self, x, condition)
        given = [(condition,) if part.condition_dim else () for part in self.parts]
        return [getattr(part, method)(x, *c) for part, c in zip(self.parts, given, strict=True)]

    def log_reward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """sum_i weight_i log R_i(x; c): (B, d), (B, c) -> (B,)."""
        return self._add(self._evaluate("log_reward", x, condition))

    def log_reward_and_score(
        self, x: Tensor, condition: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The weighted sums of log R_i (B,) and of their gradients (B, d), each as its part can."""
        values = self._evaluate("log_reward_and_score", x, condition)
        return tuple(self._add(parts) for parts in zip(*values, strict=True))

    def _add(self, values: Sequence[Tensor]) -> Tensor:
        return sum(w * value for w, value in zip(self.weights, values, strict=True))

    @property
    def sample_condition(self) -> Callable[..., Tensor] | None:
        """That of the first part that has one, or None."""
        draws = [part.sample_condition for part in self.parts]
        return next((draw for draw in draws if draw is not None), None)


class _Conditioned(Target):
    def __init__(self, target: Target, condition: Tensor):
        self.target, self.condition = target, condition
        self.name, self.dim, self.mode_mass = target.name, target.dim, target.mode_mass
        self.log_z = target.log_z
        if callable(target.log_z):
            self.log_z = float(target.log_z(condition[None]))

    def _at(self, n: int) -> Tensor:
        return self.condition.expand(n, -1)

    def log_reward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """log R(x; c) at this c: (B, d) -> (B,)."""
        return self.target.log_reward(x, self._at(len(x)))

    def log_reward_and_score(
        self, x: Tensor, condition: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """log R(x; c) (B,) and its gradient (B, d), as the target itself finds them."""
        return self.target.log_reward_and_score(x, self._at(len(x)))

    def modes_of(self, x: Tensor) -> Tensor:
        """The target's own."""
        return self.target.modes_of(x)

    @property
    def sample(self) -> Callable[..., Tensor] | None:
        """Exact samples of the posterior at this c, if the target has any."""
        return None if self.target.sample is None else self._sample

    def _sample(self, n: int, generator=None) -> Tensor:
        return self.target.sample(n, generator, self._at(n))


def conditioned(target: Target, condition: Tensor) -> Target:
    """The conditional target at one condition (c,), as a target that takes none.

    Raises:
        ValueError: if the target takes no condition, or one of another shape.
    """
    check_condition(target, range(1), condition[None])
    return _Conditioned(target, condition)


def tempered(
    target: Target | Callable[..., Tensor], temperature: float, dim: int | None = None
) -> Target:
    """The target R(x)^(1 / temperature): flatter above temperature 1, sharper below.

    Nothing but its conditions is known about it, unless the temperature is 1. A callable E(x) needs
    `dim`.

    Raises:
        ValueError: if `temperature` is not positive and finite, or `dim` does not fit.
    """
    temperature = positive("temperature", temperature)
    target = as_target(target, dim)
    if temperature == 1:
        return target
    return _WeightedSum([target], [1 / temperature], f"{target.name} at T={temperature:g}")


def weighted_sum(
    targets: Sequence[Target | Callable[..., Tensor]],
    weights: Sequence[float],
    dim: int | None = None,
) -> Target:
    """The target with energy sum_i weight_i E_i(x, c): several objectives at once.

    A part of weight 0 is left out. Conditional parts share the condition, others ignore it.
    Callables E(x) among them need `dim`.

    Raises:
        ValueError: if the targets differ in dimension or condition, or the weights are not one
            for each, finite, at least 0, and one of them positive.
    """
    targets = [as_target(target, dim) for target in targets]
    if isinstance(weights, Iterable) and not isinstance(weights, Tensor):
        weights = list(weights)
    given = floats("weights", weights, dtype=torch.float64)
    weights, one_each = given.tolist(), given.shape == (len(targets),)
    fit = one_each and all(0 <= w < math.inf for w in weights) and any(weights)
    if not fit:
        raise ValueError(
            f"weights={weights} must be one for each of {len(targets)} targets, finite, at least 0 "
            "and not all 0"
        )
    kept = [(target, w) for target, w in zip(targets, weights, strict=True) if w]
    targets, weights = [target for target, _ in kept], [w for _, w in kept]
    dims = {target.dim for target in targets}
    condition_dims = {target.condition_dim for target in targets} - {0}
    for name, values in {"dim": dims, "condition_dim": condition_dims}.items():
        if len(values) > 1:
            raise ValueError(f"targets must have the same {name}, got {sorted(values)}")
    if weights == [1.0]:
        return targets[0]
    return _WeightedSum(targets, weights, " + ".join(f"{w:g} {t.name}" for t, w in kept))
