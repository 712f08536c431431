"""Part `seeds`: samplers that differ in their seed, one after the other and as one program."""

from collections.abc import Iterator

from .measure import Progress, interleaved, ratio, summary
from .sizes import Sizes
from .tasks import Step, ours, sampler

__all__ = ["measure"]

SEEDS = 5
STEPS = {"TB+Expl forward": Step(), "TB replay": Step(replay=True)}


def measure(sizes: Sizes, progress: Progress) -> Iterator[dict]:
    """An entry for each task and step: milliseconds of a step of all."""
    for task in sizes.tasks:
        for name, step in STEPS.items():
            progress.start(f"{task}, {name}, {SEEDS} seeds")
            single = [ours([sampler(task, step, sizes, seed)]) for seed in range(SEEDS)]
            together = ours([sampler(task, step, sizes, seed) for seed in range(SEEDS)])

            def one_by_one(calls=single):
                for call in calls:
                    call()

            variants = {"one_by_one": one_by_one, "together": together}
            times = interleaved(variants, sizes.repeats, progress=progress.round)
            entry = {name: summary(values) for name, values in times.items()}
            entry["ratio"] = ratio(times["one_by_one"], times["together"])
            yield {"task": task, "step": name, "seeds": SEEDS} | entry
