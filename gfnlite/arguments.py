"""What users pass, as what is computed with; or one clear error."""

import math
import reprlib

import numpy as np
import torch
from torch import Tensor

__all__ = ["device", "floats", "positive", "shown"]

_brief = reprlib.Repr()  # a few levels and items deep: YAML's aliases make huge values of a line
_brief.maxlevel, _brief.maxstring, _brief.maxother, _brief.maxlong = 3, 60, 60, 60


def shown(value) -> str:
    """A value as a message names it: in one line, and short whatever it is."""
    try:
        text = " ".join(_brief.repr(value).split("\n"))
    except ValueError:  # an integer of thousands of digits
        return "a huge number"
    return text if len(text) <= 100 else f"{text[:80]}...{text[-10:]}"


def positive(name: str, value) -> float:
    """`value` as a positive and finite Python number.

    Raises:
        ValueError: if it is none.
    """
    try:
        number = math.nan if isinstance(value, str | bytes | bool) else float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        number = math.nan
    if not 0 < number < math.inf:
        raise ValueError(f"{name}={shown(value)} must be positive and finite")
    return number


def floats(
    name: str,
    value,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """A tensor, an array or a list of real numbers as a tensor of them.

    Args:
        name: of the argument, for the error.
        value: the numbers.
        device: where to; None: where they are.
        dtype: None: as they are, if they are floating-point numbers, or else the default.

    Raises:
        ValueError: for anything else, and for a tensor that is sparse or has no values.
    """
    usable = not np.iscomplexobj(value) if isinstance(value, np.ndarray) else value is not None
    if isinstance(value, Tensor):
        real = not value.is_complex() and value.layout == torch.strided
        usable = real and value.device.type != "meta"
    try:
        if usable:
            made = torch.as_tensor(value, device=device, dtype=dtype)
            default = torch.get_default_dtype()
            if not made.is_complex():
                return made if made.is_floating_point() else made.to(dtype or default)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        pass
    kind = ""
    if isinstance(value, Tensor | np.ndarray):
        kind = f" (a {type(value).__name__} of {value.dtype})"
    raise ValueError(f"{name}={shown(value)}{kind} must be real numbers: a tensor, array or list")


def device(name: torch.device | str | None) -> torch.device:
    """The device of that name, or the best there is.

    Raises:
        ValueError: if there is none of that name here.
    """
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        here = torch.zeros((), device=name)
        here.item()  # `meta` has no numbers
        return here.device
    except Exception as error:  # whatever a driver can do
        raise ValueError(f"device={shown(name)} is not available here; 'cpu' always is") from error
