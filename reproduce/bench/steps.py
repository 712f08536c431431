"""Part `steps`: one training step of each kind, plain and ours."""

from collections.abc import Iterator

import torch

from gfnlite.local_search import mala

from . import plain
from .measure import Progress, interleaved, milliseconds, ratio, summary
from .sizes import Sizes
from .tasks import Step, ours, plain_step, points, sampler, target, trainer

__all__ = ["STEPS", "compared", "measure"]

STEPS = {
    "TB+Expl forward": Step(),
    "TB replay": Step(replay=True),
    "TB+Expl+LP forward": Step(langevin=True),
    "TB+Expl+LP replay": Step(langevin=True, replay=True),
    "VarGrad+Expl forward": Step("vargrad"),
    "DB+Expl forward": Step("db"),
    "FL-SubTB forward": Step("subtb", explore=False),
    "reverse KL": Step("reverse_kl", explore=False),
    "TB+Expl+LV forward": Step(learn_variance=True),
    "MLE replay": Step("mle", replay=True),
}


def measure(sizes: Sizes, progress: Progress) -> Iterator[dict]:
    """An entry for each task and step."""
    for task in sizes.tasks:
        for name, step in STEPS.items():
            progress.start(f"{task}, {name}")
            variants = {"ours": ours([sampler(task, step, sizes)])}
            if step.is_plain:
                variants["plain"] = plain_step(trainer(task, step, sizes), step)
            times = interleaved(variants, sizes.repeats, progress=progress.round)
            yield {"task": task, "step": name} | compared(times)
        progress.start(f"{task}, MALA")
        yield _search(task, sizes, progress)
        progress.start(f"{task}, TB+Expl+LS with full buffers")
        yield _with_search(task, sizes, progress)


def compared(times: dict[str, list[float]]) -> dict:
    """Summaries by variant, and plain's time over ours."""
    entry = {name: summary(values) for name, values in times.items()}
    if "plain" in times:
        entry["ratio"] = ratio(times["plain"], times["ours"])
    return entry


def _search(task: str, sizes: Sizes, progress: Progress) -> dict:
    """One local search alone: MALA from a batch."""
    start, calls = points(task, sizes.batch)[0], {}
    settings = {"steps": sizes.search, "burn_in": sizes.search // 2}
    density = plain.log_reward_25gmm if task == "25gmm" else plain.log_reward_manywell

    def counted(x):
        calls["plain"] += len(x)
        return density(x)

    def usual():
        calls["plain"] = 0
        plain.mala(counted, start, **settings)

    def lean():
        calls["ours"] = mala(target(task), start, **settings).energy_calls

    rounds = max(2, sizes.repeats // 3)
    times = interleaved({"ours": lean, "plain": usual}, rounds, 1, progress.round)
    name = f"MALA {sizes.search} x {sizes.batch}"
    return {"task": task, "step": name} | compared(times) | {"energy_calls": calls}


def _with_search(task: str, sizes: Sizes, progress: Progress) -> dict:
    """Generated and replayed batches in turn, with a local search every 100 iterations.

    All of them are run, since what a search or a generated batch adds has to be ranked by some
    later draw. The two implementations alternate by iteration; a value is the mean of 100.
    """
    x, log_reward = points(task, sizes.full)
    mine = sampler(
        task, Step(), sizes, replay_ratio=0.5, ls_every=sizes.cycle, replay_capacity=sizes.full
    )  # fmt: skip
    for buffer in mine.buffers.values():
        buffer.add(x, log_reward, torch.zeros_like(log_reward))
    usual = trainer(task, Step(), sizes, replay=True)
    usual.buffer.capacity = usual.search_buffer.capacity = sizes.full
    for buffer in (usual.buffer, usual.search_buffer):
        buffer.add(x, log_reward)
    mine_step, done = ours([mine]), 0

    def usual_step():
        nonlocal done
        if done % 2:
            usual.replay_step()
        else:
            usual.forward_step(Step().exploration)
        if done % sizes.cycle == 0:
            usual.local_search()
        done += 1

    mine.iteration = sizes.cycle  # as any later cycle; the first may differ
    variants = {"ours": mine_step, "plain": usual_step}
    for call in 4 * list(variants.values()):
        call()
    cycles = 1 if sizes.small else max(2, sizes.repeats // 10)
    times = {name: [] for name in variants}
    for cycle in range(cycles):
        one = {name: [] for name in variants}
        for _ in range(sizes.cycle):
            for name, call in variants.items():
                one[name].append(milliseconds(call))
        for name, values in one.items():
            times[name].append(sum(values) / sizes.cycle)
        progress.round(cycle + 1, cycles)
    name = f"TB+Expl+LS, buffers of {sizes.full:,}, amortised"
    return {"task": task, "step": name} | compared(times)
