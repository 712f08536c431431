"""Timing that a busy machine cannot fool: all variants in turn in one loop, medians, ratios.

Another program on the machine slows whatever runs at that moment. Each round therefore runs every
variant once, in a new order, so that a slow spell falls on all of them, and what is compared is
rounds, not moments. With one thread the time is the CPU's, in which waiting for a turn does not
count; on a machine that does nothing else it is the same as the wall's.
"""

import gc
import random
import sys
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch

__all__ = ["Progress", "clock_name", "interleaved", "milliseconds", "ratio", "summary"]

BAR_SECONDS = 0.2  # between two states of the line on a terminal


class Progress:
    """Says on stderr what is measured: one line that changes on a terminal, else plain lines."""

    def __init__(self, part: str):
        self.part, self.terminal, self.said = part, sys.stderr.isatty(), 0.0

    def start(self, label: str) -> None:
        """Something new is measured."""
        self.label = label
        self._say(label, end="" if self.terminal else "\n")

    def round(self, done: int, rounds: int) -> None:
        """Of its rounds so many are done: shown on a terminal alone."""
        last = done == rounds
        if self.terminal and (last or time.monotonic() - self.said > BAR_SECONDS):
            self._say(f"{self.label} {done}/{rounds}", end="\n" if last else "")
            self.said = time.monotonic()

    def note(self, text: str) -> None:
        """A line that stays."""
        self._say(text, end="\n")

    def _say(self, text: str, end: str) -> None:
        start = "\r\033[K" if self.terminal else ""
        print(f"{start}{self.part}: {text}", end=end, file=sys.stderr, flush=True)


def clock_name() -> str:
    """Which clock `milliseconds` reads: "cpu" for one thread, else "wall"."""
    fine = time.get_clock_info("process_time").resolution < 1e-5  # not on Windows
    alone = torch.get_num_threads() == 1 and not torch.cuda.is_available()
    return "cpu" if fine and alone else "wall"


def milliseconds(call: Callable[[], object]) -> float:
    """Time of one call, a GPU's work included, by the clock that `clock_name` says."""
    now = time.process_time if clock_name() == "cpu" else time.perf_counter
    _synchronise()
    began = now()
    call()
    _synchronise()
    return 1e3 * (now() - began)


def interleaved(
    variants: Mapping[str, Callable[[], object]],
    rounds: int,
    warm: int = 2,
    progress: Callable[[int, int], None] | None = None,
    clock: Callable[[Callable], float] = milliseconds,
) -> dict[str, list[float]]:
    """Time of each variant in each round by the `clock`: `rounds` of them, after `warm` untimed."""
    order, times = list(variants), {name: [] for name in variants}
    shuffle = random.Random(0).shuffle
    for _ in range(warm):
        for name in order:
            variants[name]()
    gc.collect()
    gc.freeze()  # so that a collection, whoever's time it falls into, has little to look at
    try:
        for done in range(1, rounds + 1):
            shuffle(order)
            for name in order:
                times[name].append(clock(variants[name]))
            if progress:
                progress(done, rounds)
    finally:
        gc.unfreeze()
    return times


def summary(values: Sequence[float], unit: str = "ms") -> dict:
    """Median and quartiles, as the JSON has them."""
    low, median, high = np.percentile(np.asarray(values, dtype=float), [25, 50, 75]).tolist()
    return {"median": median, "low": low, "high": high, "n": len(values), "unit": unit}


def ratio(slow: Sequence[float], fast: Sequence[float], resamples: int = 2000) -> dict:
    """Ratio of the medians of two variants of the same rounds, with a 95% interval.

    The interval is of a bootstrap of rounds: what slowed a round slowed both variants of it.
    """
    pair = np.stack([np.asarray(slow, dtype=float), np.asarray(fast, dtype=float)])
    places = np.random.default_rng(0).integers(pair.shape[1], size=(resamples, pair.shape[1]))
    above, below = np.median(pair[:, places], axis=-1)
    low, high = np.percentile(above / below, [2.5, 97.5]).tolist()
    above, below = np.median(pair, axis=1).tolist()
    return {"value": above / below, "low": low, "high": high}


def _synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
