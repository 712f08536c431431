"""gfnlite as it would be if it asked nothing of glibc: for processes that are compared with it."""

import ctypes

import torch  # noqa: F401 - first, since it needs ctypes itself

__all__ = ["import_without_mallopt"]


def import_without_mallopt() -> None:
    """Import gfnlite, which must not have been imported before, without its call of mallopt."""
    real = ctypes.CDLL
    ctypes.CDLL = lambda name: None  # which has no mallopt, as on other systems
    try:
        import gfnlite  # noqa: F401
    finally:
        ctypes.CDLL = real
