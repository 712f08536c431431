"""Starting a module of the benchmark in a process of its own."""

import os
import sys
from pathlib import Path

__all__ = ["command", "environment"]

ROOT = Path(__file__).resolve().parents[2]


def command(module: str, *words: str) -> list[str]:
    """The words of `python -m reproduce.bench.<module> ...`."""
    return [sys.executable, "-m", f"reproduce.bench.{module}", *words]


def environment(threads: int) -> dict[str, str]:
    """Environment variables for so many threads: the libraries read them as they start."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
    return dict(os.environ) | dict.fromkeys(names, str(threads))
