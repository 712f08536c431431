"""Two things that a CPU needs for the step to be fast, neither of which changes its results."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch

__all__ = ["large_matmuls"]

# glibc hands each few-MB temporary back to the kernel until it has seen one this large freed; the
# page faults cost up to a third of a training step.
torch.empty(31 * 2**18)


@contextmanager
def large_matmuls() -> Iterator[None]:
    """Within this context, use the faster library for float32 products of thousands of rows.

    On many CPUs oneDNN is twice as fast as the default there, and PyTorch selects it by the
    precision "medium". Where that would really round to bfloat16, nothing is changed.
    """
    before = torch.get_float32_matmul_precision()
    if _medium_is_float32():
        torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@cache
def _medium_is_float32() -> bool:
    """Whether "medium" still computes in float32 on this machine, found out by computing."""
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(6000, 64, generator=generator)
    b = torch.randn(64, 64, generator=generator)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    error = (a @ b - (a.double() @ b.double())).abs().max()
    torch.set_float32_matmul_precision(before)
    return error.item() < 1e-4  # float32: 1e-5; bfloat16: 1e-1
