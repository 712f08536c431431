"""Part `gpu`: the same training steps on a GPU, plain, ours, as a CUDA graph, and of five seeds.

Both implementations run there as they are: the plain one has no more places for tensors to be made
than PyTorch's default device.
"""

from collections.abc import Callable, Iterator
from functools import partial

import torch

from .measure import Progress, interleaved, ratio, summary
from .seeds import SEEDS
from .sizes import Sizes
from .steps import STEPS
from .tasks import ours, plain_step, sampler, trainer

__all__ = ["measure"]

NAMES = (
    "TB+Expl forward", "TB replay", "TB+Expl+LP forward", "TB+Expl+LP replay", "FL-SubTB forward",
    "reverse KL",
)  # fmt: skip
WARM_UP = 5  # steps of a team, in which its graph is captured


def measure(sizes: Sizes, progress: Progress, device: str = "cuda") -> Iterator[dict]:
    """An entry for each task and step: milliseconds of a step, and how often faster a graph is."""
    several = f"graph of {SEEDS} seeds"
    for task in sizes.tasks:
        for name in NAMES:
            step = STEPS[name]
            progress.start(f"{task}, {name}")
            teams = {"eager": (1, False), "graph": (1, True), several: (SEEDS, True)}
            variants = {
                variant: ours(
                    [sampler(task, step, sizes, seed, device) for seed in range(count)],
                    compile=captured and device == "cuda",
                )
                for variant, (count, captured) in teams.items()
            }
            for call in WARM_UP * list(variants.values()):
                call()
            usual = plain_step(trainer(task, step, sizes, device=device), step)
            variants["plain"] = partial(_there, device, usual)
            times = interleaved(variants, sizes.repeats, 1, progress.round)
            entry = {variant: summary(values) for variant, values in times.items()}
            for slow in ("plain", "eager"):
                entry[f"{slow} over graph"] = ratio(times[slow], times["graph"])
            yield {"task": task, "step": name} | entry


def _there(device: str, call: Callable[[], object]) -> None:
    """The call, with everything that it makes on the device."""
    with torch.device(device):
        call()
