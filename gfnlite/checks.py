"""What a target promises, and what it is given: shapes, types and devices, checked."""

from numbers import Integral
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .arguments import shown

if TYPE_CHECKING:
    from .energy import Target

__all__ = [
    "about_energy", "check_condition", "check_dims", "check_output", "check_shape", "check_states",
    "given", "is_count", "is_size", "shape_of",
]  # fmt: skip


def about_energy(error: RuntimeError, x: Tensor) -> bool:
    """Whether what went wrong at x may be the energy's: not the memory, nor a graph's capture."""
    if isinstance(error, torch.cuda.OutOfMemoryError):
        return False
    return not (x.is_cuda and torch.cuda.is_current_stream_capturing())


def check_states(target: "Target", x: Tensor) -> None:
    """Refuse states that a target would broadcast, or could not compute with.

    Raises:
        ValueError: unless x is a dense tensor of floating-point numbers of shape (B, d).
    """
    if isinstance(x, Tensor):
        dense = x.is_floating_point() and x.layout == torch.strided
        if x.ndim == 2 and x.shape[1] == target.dim and dense:
            return
        got = shape_of(x) + ("" if dense else f" of {x.dtype}, {x.layout}")
    else:
        got = shown(x)
    raise ValueError(
        f"target '{target.name}' needs x of shape (B, d) = (B, {target.dim}), got {got}"
    )


def check_condition(target: "Target", x: Tensor, condition: Tensor | None) -> None:
    """Refuse a condition that the target does not take, or lacks, or that does not fit x (B, d).

    Raises:
        ValueError: unless `condition` is (B, c) for a conditional target and None for any other.
    """
    if condition is None and not target.condition_dim:
        return
    if not target.condition_dim:
        raise ValueError(f"condition given, but target '{target.name}' takes none")
    wanted = (len(x), target.condition_dim)
    dense = isinstance(condition, Tensor) and condition.layout == torch.strided
    got = shape_of(condition) if dense else shown(condition)
    if got != str(wanted):
        raise ValueError(f"target '{target.name}' needs condition (B, c) = {wanted}, got {got}")
    if target.condition_range and condition.device.type == "cpu":  # a look would make a GPU wait
        (least, most), (low, high) = target.condition_range, torch.aminmax(condition)
        if not (least <= low and high <= most):  # NaN neither
            raise ValueError(
                f"target '{target.name}' needs a condition with values in [{least:g}, {most:g}], "
                f"got from {low:g} to {high:g}"
            )


def check_dims(target: "Target") -> None:
    """Refuse a target without dimension.

    Raises:
        ValueError: unless `dim` is a positive and `condition_dim` a non-negative integer.
    """
    dim = getattr(target, "dim", None)
    if not is_count(dim):
        raise ValueError(f"target '{target.name}' has dim={dim!r}, must be a positive integer")
    if not is_size(target.condition_dim):
        raise ValueError(
            f"target '{target.name}' has condition_dim={target.condition_dim!r}, must be a "
            "non-negative integer"
        )


def check_output(target: "Target", method: str, output, x: Tensor) -> None:
    """Refuse an output of `log_reward` that is not (B,), of another method that is not (B, d).

    Raises:
        ValueError: unless it is a tensor of that shape and of the type of x (B, d).
    """
    what = f"{method} of target '{target.name}'"
    like, symbol = (x[..., 0], "(B,)") if method == "log_reward" else (x, "(B, d)")
    check_shape(what, output, x, like, symbol)
    if output.dtype != x.dtype:
        raise ValueError(f"{what} must return {x.dtype}, the type of x, got {output.dtype}")


def check_shape(what: str, output, x: Tensor, like: Tensor, symbol: str) -> None:
    """Refuse an output at x that is not shaped like `like`, or that cannot be computed with it.

    Raises:
        ValueError: unless it is a tensor of that shape, real, dense and on the device of x.
    """
    got = f"shape {shape_of(output)}" if isinstance(output, Tensor) else type(output).__name__
    if isinstance(output, Tensor) and output.shape == like.shape:
        if (output.device, output.layout) == (x.device, x.layout) and not output.is_complex():
            return
        got = f"{output.dtype}, {output.layout} on {output.device}, where x is on {x.device}"
    if hasattr(output, "log_reward"):
        got = "a Target: call it first, and pass the result"
    raise ValueError(
        f"{what} must return a tensor of shape {symbol} = {shape_of(like)} for x of shape "
        f"{shape_of(x)}, got {got}"
    )


def given(condition: Tensor | None) -> tuple:
    """The condition as trailing arguments: none if there is none."""
    return () if condition is None else (condition,)


def is_count(value) -> bool:
    """Whether `value` is a positive integer, numpy's included."""
    return is_size(value) and value > 0


def is_size(value) -> bool:
    """Whether `value` is a non-negative integer, numpy's included."""
    return isinstance(value, Integral) and not isinstance(value, bool) and value >= 0


def shape_of(x: Tensor) -> str:
    """The shape of x, to be shown."""
    return str(tuple(x.shape))
