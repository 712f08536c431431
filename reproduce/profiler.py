"""Where the time of a run's training step goes: operations, by kind and one by one, and a trace."""

import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

import gfnlite as gl
from gfnlite.machine import device_name
from gfnlite.step import prefill, train_step
from gfnlite.team import Team

from .bench.profile import KINDS, kind_of
from .experiments import Run

__all__ = ["Profile", "profile_steps"]

WARM_UP = 5
STEPS = 20
TOP = 10


@dataclass(frozen=True)
class Profile:
    """What was measured of a run's training steps, all its seeds together.

    Attributes:
        first, last: iterations that were profiled, counted from 1.
        plain, profiled: milliseconds of a step without the profiler and with it.
        kinds: milliseconds a step by kind of operation, on the GPU if there is one.
        operations: the same by operation, the longest first, with its calls a step.
        search: milliseconds of a local search; None if the method has none.
        trace: where the trace is, for Perfetto or Chrome.
    """

    run: Run
    first: int
    last: int
    plain: float
    profiled: float
    kinds: dict[str, float]
    operations: list[tuple[str, float, float]]
    search: float | None
    trace: Path

    def lines(self) -> Iterator[str]:
        """All of it as text."""
        config, seeds = self.run.config, ",".join(map(str, self.run.seeds))
        coarse = config.coarse_steps and self.last <= config.coarse_fraction * config.iterations
        grid = f"{config.coarse_steps} coarse" if coarse else f"{config.steps}"
        yield f"{self.run.name}, seeds {seeds}: steps {self.first} to {self.last}, T = {grid}"
        yield f"  on {device_name()}: {self.plain:.2f} ms a step, {self.profiled:.2f} profiled"
        total = sum(self.kinds.values()) or 1.0
        yield f"  {'kind of operation':<32} {'ms a step':>9} {'share':>6}"
        for name, took in sorted(self.kinds.items(), key=lambda item: -item[1]):
            yield f"  {name:<32} {took:9.2f} {took / total:6.0%}"
        yield f"  {f'operation, the first {TOP}':<32} {'ms a step':>9} {'share':>6} {'calls':>7}"
        for name, took, calls in self.operations[:TOP]:
            yield f"  {name[:32]:<32} {took:9.2f} {took / total:6.0%} {calls:7.0f}"
        if self.search is not None:
            spread = self.search / config.ls_every
            yield (
                f"  a local search, every {config.ls_every} steps and not among these, takes "
                f"{self.search:.0f} ms: {spread:.2f} ms a step"
            )
        yield f"  trace, for ui.perfetto.dev or chrome://tracing: {self.trace}"


def profile_steps(run: Run) -> Profile:
    """Profile training steps of the run's seeds, from the start and as one program.

    On a GPU the steps are not captured as a graph, in which single operations cannot be told apart:
    a run is faster than that.
    """
    config = run.config
    ensemble = gl.Ensemble(gl.named_target(run.task), config=config, seeds=run.seeds)
    for sampler in ensemble:
        if config.prefill:
            prefill(sampler)
    team, on_gpu = Team(ensemble), ensemble[0].device.type == "cuda"
    _milliseconds(lambda: _steps(team, WARM_UP), on_gpu)
    plain = _milliseconds(lambda: _steps(team, STEPS), on_gpu) / STEPS
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # or it reports its own stages
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    first = team.iteration + 1
    with profile(activities=activities) as profiler:
        profiled = _milliseconds(lambda: _steps(team, STEPS), on_gpu) / STEPS
    last = team.iteration
    kinds, operations = spent(profiler.key_averages(), STEPS, on_gpu)
    search = None
    if config.ls_every:
        for sampler in ensemble:
            sampler.iteration += -sampler.iteration % config.ls_every  # when one is due
        search = max(0.0, _milliseconds(lambda: train_step(team), on_gpu) - plain)
    trace = run.folder / "trace.json"
    _export(profiler, trace)
    return Profile(run, first, last, plain, profiled, kinds, operations, search, trace)


def spent(
    events: Iterable, steps: int, on_gpu: bool
) -> tuple[dict[str, float], list[tuple[str, float, float]]]:
    """Milliseconds a step by kind, and of each operation, longest first, with its calls a step.

    A kernel's time on the GPU is that of the operation which launched it; the kernels themselves
    are events too, and would count twice.
    """
    kinds, operations = dict.fromkeys([*KINDS, "bookkeeping"], 0.0), []
    for event in events:
        if event.device_type != DeviceType.CPU:
            continue
        time_of = event.self_device_time_total if on_gpu else event.self_cpu_time_total
        each = 1e-3 * time_of / steps
        kinds[kind_of(event.key)] += each
        operations.append((event.key, each, event.count / steps))
    return kinds, sorted(operations, key=lambda operation: -operation[1])


def _steps(team: Team, count: int) -> None:
    """Training steps without a local search: it would weigh far too much among so few."""
    every = team.config.ls_every
    for _ in range(count):
        if every and team.iteration % every == 0 and team.iteration:
            for sampler in team.samplers:
                sampler.iteration += 1
        train_step(team)


def _milliseconds(call: Callable[[], object], on_gpu: bool) -> float:
    began = time.perf_counter()
    call()
    if on_gpu:
        torch.cuda.synchronize()
    return 1e3 * (time.perf_counter() - began)


def _export(profiler: profile, path: Path) -> None:
    """Chrome's trace format, whole or not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".trace-") as folder:
        profiler.export_chrome_trace(f"{folder}/trace.json")
        os.replace(f"{folder}/trace.json", path)
