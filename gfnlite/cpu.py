"""What a CPU needs for the step to be fast, nothing of which changes its results."""

import ctypes
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch

__all__ = ["keep_code_private", "large_matmuls"]

LARGE = 1000


def _keep_freed_memory() -> None:
    """Let glibc keep what is freed for the next step, of whatever size.

    By default it hands large arrays back to the kernel each time; the page faults of getting them
    again cost up to a third of a training step, and more with several runs. On other systems
    nothing is changed.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mmap_threshold, trim_threshold = -3, -1  # as malloc.h names them
        mallopt(mmap_threshold, 2**30)
        mallopt(trim_threshold, 2**31 - 1)


_keep_freed_memory()


def keep_code_private() -> None:
    """Have compiled code kept in the user's cache folder, unless its place was chosen already.

    PyTorch's own choice, which it notes in the environment as soon as it is loaded, is a folder in
    /tmp whose name anybody can guess. Code is loaded from there: who makes the folder first would
    decide which.
    """
    name, theirs = "TORCHINDUCTOR_CACHE_DIR", os.path.join(tempfile.gettempdir(), "torchinductor_")
    if os.environ.get(name, theirs).startswith(theirs):
        cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        os.environ[name] = os.path.join(cache, "gfnlite", "compiled")


@contextmanager
def large_matmuls(rows: int, device: torch.device) -> Iterator[None]:
    """Within this context, use the faster library for a CPU's float32 products of so many `rows`.

    From about a thousand on oneDNN is nearly twice as fast as the default on many CPUs, and
    PyTorch selects it by the precision "medium". Where that would really round to bfloat16, as on
    a GPU, nothing is changed.
    """
    before = torch.get_float32_matmul_precision()
    if rows >= LARGE and device.type == "cpu" and _medium_is_float32():
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
