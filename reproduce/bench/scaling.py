"""Part `scaling`: how a step's time grows with steps, batch, dimension, width and buffer fill."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch

import gfnlite as gl

from . import plain
from .measure import Progress, interleaved, milliseconds, summary
from .sizes import Sizes
from .steps import compared
from .tasks import Step, ours, points, sampler, trainer

__all__ = ["AXES", "measure"]

# Along each axis the others stay as they are; where it is True, the baseline is measured too.
AXES = {
    "steps": {10: True, 20: False, 50: False, 100: True, 200: False},
    "batch": {100: True, 300: True, 1000: False, 3000: True},
    "dim": {2: True, 8: False, 32: True, 128: True},
    "hidden": {32: True, 64: True, 128: False, 256: True},
}
FILLS = (1000, 10_000, 100_000, 600_000)
PRIORITIES = ("uniform", "rank", "reward", "weight")
PAIRS = 100  # additions and draws behind a value, since the order is made anew every 100 draws


def measure(sizes: Sizes, progress: Progress) -> Iterator[dict]:
    """An entry for each point: of a TB+Expl forward step, and of adding to and drawing a buffer."""
    for axis, at in AXES.items():
        for task in ("manywell",) if axis == "dim" else sizes.tasks:
            for value, with_plain in list(at.items())[: 1 if sizes.small else None]:
                yield _step(axis, task, value, with_plain, sizes, progress)
    for priority in PRIORITIES:
        for fill in (sizes.full,) if sizes.small else FILLS:
            progress.start(f"buffer of {fill:,} by {priority}")
            yield _buffer(priority, fill, sizes)


def _step(axis, task, value, with_plain, sizes: Sizes, progress: Progress) -> dict:
    if axis == "dim":
        task = f"manywell{value}"
    elif not sizes.small:
        sizes = replace(sizes, **{axis: value})
    progress.start(f"{task}, {axis} {value}")
    variants = {"ours": ours([sampler(task, Step(), sizes)])}
    if with_plain:
        baseline = trainer(task, Step(), sizes)
        variants["plain"] = lambda: baseline.forward_step(Step().exploration)
    rounds = max(2, sizes.repeats // 3)
    times = interleaved(variants, rounds, progress=progress.round)
    return {"axis": axis, "value": value, "task": task, "step": "TB+Expl forward"} | compared(times)


def _buffer(priority: str, fill: int, sizes: Sizes) -> dict:
    """One addition and one draw of a batch; the baseline has the rank law only."""
    x, log_reward = points("25gmm", max(fill, sizes.batch))
    x, log_reward = x[:fill], log_reward[:fill]
    batch = x[: sizes.batch], log_reward[: sizes.batch]
    mine = gl.ReplayBuffer(fill, 2, priority=priority)
    mine.add(x, log_reward, torch.zeros_like(log_reward))

    def lean():
        mine.add(*batch, torch.zeros_like(batch[1]))
        mine.sample(sizes.batch)

    pairs = 2 if sizes.small else PAIRS
    entry = {"ours": summary(_means(lean, 3, pairs))}
    if priority == "rank":
        usual = plain.Buffer(fill)
        usual.add(x, log_reward)

        def resorted():
            usual.add(*batch)
            usual.sample(sizes.batch)

        entry["plain"] = summary(_means(resorted, 3, 3))
    return {"axis": "fill", "value": fill, "priority": priority, "step": "add and draw"} | entry


def _means(call: Callable[[], object], rounds: int, count: int) -> list[float]:
    """Mean milliseconds of `count` calls, so many rounds; after one untimed call."""
    call()
    return [sum(milliseconds(call) for _ in range(count)) / count for _ in range(rounds)]
