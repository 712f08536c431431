"""What a target is: an energy, its gradient, and whatever is known exactly about its density.

A target *is* log R(x) = -E(x), or log R(x; c) = -E(x, c) given a condition c. Where the truth is
known it also has `log_z`, `sample`, and the exact mass of its modes, so that every metric that
needs a truth can ask for it and every metric that cannot have one says None.
"""

import copy
import inspect
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from .checks import (
    about_energy,
    check_condition,
    check_dims,
    check_output,
    check_states,
    given,
)  # fmt: skip

__all__ = ["ClosedForm", "Target", "check_target"]

LOG_2PI = math.log(2 * math.pi)


class Target:
    """An unnormalised density R(x; c) = exp(-E(x, c)) on R^d; most targets have no condition c.

    A subclass sets `dim` and defines `log_reward(self, x, condition=None)`, where the condition may
    be left out if it takes none; everything else is optional.

    Attributes:
        name: short name, the key of its presets.
        dim: dimension d.
        condition_dim: dimension of the condition c, or 0 if the target takes none.
        condition_range: least and largest value that a condition may have, or None.
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
    condition_range: tuple[float, float] | None = None
    log_z: float | Callable[[Tensor], Tensor] | None = None
    sample: Callable[..., Tensor] | None = None
    sample_condition: Callable[..., Tensor] | None = None
    mode_mass: Tensor | None = None

    def log_reward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """log R(x; c): (B, d), (B, c) -> (B,), of the type of x.

        Raises:
            TypeError: if the subclass does not define it.
        """
        raise TypeError(f"{type(self).__name__} must define log_reward(x, condition=None)")

    def energy(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """E(x, c) = -log R(x; c): (B, d), (B, c) -> (B,)."""
        return -self.log_reward(x, *given(condition))

    def score(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Gradient of log R with respect to x: (B, d), (B, c) -> (B, d).

        It can be differentiated again if x requires grad, and is detached if not.
        """
        score = self.log_reward_and_score(x, *given(condition))[1]
        check_output(self, "score", score, x)
        return score

    def log_reward_and_score(
        self, x: Tensor, condition: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """log R (B,) and its gradient (B, d), from one evaluation of the energy.

        By automatic differentiation; both are differentiable if x requires grad, else detached.

        Raises:
            ValueError: if log R is not (B,) or does not depend on x differentiably.
        """
        check_states(self, x)
        differentiable = x.requires_grad and torch.is_grad_enabled()
        with torch.enable_grad():
            if not differentiable:
                x = x.detach().requires_grad_()
            log_r = self.log_reward(x, *given(condition))
            check_output(self, "log_reward", log_r, x)
            score = None
            if log_r.requires_grad:
                try:
                    (score,) = torch.autograd.grad(
                        log_r.sum(), x, create_graph=differentiable, allow_unused=True
                    )
                except RuntimeError as error:  # such as a value that was changed in place
                    if not about_energy(error, x):
                        raise
                    raise ValueError(
                        f"gradient of the energy of target '{self.name}' fails: "
                        + str(error).partition("\n")[0]
                    ) from error
        if score is None:
            raise ValueError(
                f"energy of target '{self.name}' has no gradient with respect to x: "
                "compute it with differentiable torch operations on x"
            )
        return (log_r, score) if differentiable else (log_r.detach(), score)

    def modes_of(self, x: Tensor) -> Tensor:
        """Which mode each point belongs to: (B, d) -> membership (B, K) of zeros and ones.

        Raises:
            TypeError: if the target does not know its modes.
        """
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
    """A target whose gradient is a formula.

    A subclass defines `_closed_form(x)`, or `_closed_form(x, condition)`: log R (B,), and a
    function of no argument that gives the score (B, d) from the intermediate results of log R. So
    each formula is written once, and the gradient costs little more, and only when asked for.
    """

    def _closed_form(self, x: Tensor, *condition: Tensor) -> tuple[Tensor, Callable[[], Tensor]]:
        raise TypeError(f"{type(self).__name__} must define _closed_form(x)")

    def _evaluate(self, x: Tensor, condition: Tensor | None):
        check_states(self, x)
        check_condition(self, x, condition)
        try:
            return self._closed_form(x, *given(condition))
        except RuntimeError as error:
            elsewhere = any(f"{words} device" in str(error) for words in ("same", "expected"))
            fits = x.dtype == torch.get_default_dtype() and not elsewhere
            if fits or not about_energy(error, x):
                raise
            raise ValueError(
                f"target '{self.name}' cannot be computed at x of {x.dtype} on {x.device}"
            ) from error

    def log_reward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """log R(x; c): (B, d), (B, c) -> (B,)."""
        return self._evaluate(x, condition)[0]

    def log_reward_and_score(
        self, x: Tensor, condition: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """log R (B,) and its gradient (B, d), by formula and sharing what they have in common."""
        log_r, score = self._evaluate(x, condition)
        return log_r, score()


def check_target(target: Target, x: Tensor, condition: Tensor | None = None) -> None:
    """Refuse a target that breaks the promises of `Target` at x (B, d) and condition (B, c).

    Raises:
        TypeError: if `log_reward`, `score` or `sample` does not take the arguments that it should.
        ValueError: if `dim` or `condition_dim` is no size, or if log R, a score of its own or exact
            samples are not tensors of their shape and of the type of x.
    """
    check_dims(target)
    extra = given(condition)
    with torch.no_grad():
        check_output(target, "log_reward", _call(target, "log_reward", x, *extra), x)
        if type(target).score is not Target.score:
            check_output(target, "score", _call(target, "score", x, *extra), x)
        if target.sample is not None:
            generator = torch.Generator(x.device).manual_seed(0)
            check_output(target, "sample", _call(target, "sample", len(x), generator, *extra), x)


def _call(target, method, *arguments):
    function = getattr(target, method)
    try:
        inspect.signature(function).bind(*arguments)
    except TypeError as error:
        wanted = "n, generator" if method == "sample" else "x"
        wanted += ", condition" if target.condition_dim else ""
        what = f"{method} of target '{target.name}'"
        raise TypeError(f"{what} must take ({wanted}): {error}") from error
    return function(*arguments)


def _moved(value, device):
    if type(value) in (list, tuple):
        return type(value)(_moved(part, device) for part in value)
    if isinstance(value, nn.Module):  # a network moves in place: never somebody else's
        device = torch.empty(0, device=device).device  # cuda means cuda:0
        here = all(p.device == device for p in [*value.parameters(), *value.buffers()])
        return value if here else copy.deepcopy(value).to(device)
    return value.to(device) if isinstance(value, Tensor | Target) else value
