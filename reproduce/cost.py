"""How long a run will take: as measured before, or from the benchmark of single training steps."""

import math
import statistics
from dataclasses import dataclass
from functools import cache

import torch

import gfnlite as gl
from gfnlite.files import read_json

from . import pool, report, runner
from .experiments import Run

# The benchmark's name of a step that generates, by objective, all of them without LP and LV.
FORWARD = {
    "tb": "TB+Expl forward", "vargrad": "VarGrad+Expl forward", "db": "DB+Expl forward",
    "subtb": "FL-SubTB forward", "reverse_kl": "reverse KL",
}  # fmt: skip
USUAL = {"steps": 100, "batch": 300, "hidden": 64, "layers": 2}  # where nothing is scaled
SEARCH = ("MALA 200 x 300", 200)
REACH = 10  # further than this from what was measured, nothing is said


class Unknown(Exception):
    """There is no measurement to estimate from."""


@dataclass(frozen=True)
class Cost:
    """What training takes.

    Attributes:
        seconds_per_seed, seconds: of one seed, and of all that are missing; None if unknown.
        source: where the numbers come from, and which device they are of.
    """

    seconds_per_seed: float | None
    seconds: float | None
    source: str

    def __str__(self):
        return self.source if self.seconds is None else f"{human(self.seconds)} ({self.source})"


def estimate(run: Run) -> Cost:
    """The cost of training the run's missing seeds on this kind of machine.

    Measured if a row of the results was made on one (CPU or GPU), else estimated, else unknown.
    """
    row, gpu = _measured(run), torch.cuda.is_available()
    try:
        if row and gpu == (row["device"] != "cpu") and " then " not in row["device"]:
            seconds, source = row["metrics"]["seconds"]["mean"], f"measured on {row['device']}"
        else:
            seconds, source = estimated(run, gpu)
    except Unknown as reason:
        return Cost(None, None, f"unknown: {reason}")
    return Cost(seconds, seconds * len(runner.missing_seeds(run)), source)


def estimated(run: Run, gpu: bool) -> tuple[float, str]:
    """Seconds of training one seed, and what that is estimated from.

    On a GPU it is the benchmark's time on a CPU, by the ratio of the two where both are known.

    Raises:
        Unknown: if there is no benchmark, or the run is too far from everything in it.
    """
    bench = Benchmark(run.task, pool.threads())
    seconds = _on_cpu(run, bench)
    if gpu:
        ratio, device = _gpu_ratio(run, bench)
        return seconds * ratio, f"estimated from other runs on {device}"
    where = bench.environment
    count = f"{where['threads']} thread" + "s" * (where["threads"] > 1)
    return seconds, f"estimated from the benchmark on {where['device']} ({where['cpu']}, {count})"


def on_one_core(run: Run) -> float | None:
    """Seconds of training all seeds of a run on one CPU core, by the benchmark; None: unknown."""
    try:
        return _on_cpu(run, Benchmark(run.task, 1)) * len(run.seeds)
    except Unknown:
        return None


def _on_cpu(run: Run, bench: "Benchmark") -> float:
    config = run.config
    if not isinstance(config, gl.Config):
        raise Unknown("nothing is trained")
    parts = [(1.0, config.steps)]
    if config.coarse_steps:
        share = config.coarse_fraction
        parts = [(share, config.coarse_steps), (1 - share, config.steps)]
    step = sum(share * bench.step(config, steps) for share, steps in parts)
    if config.ls_every:
        step += bench.search(config) / config.ls_every
    return step * config.iterations / 1000


def _gpu_ratio(run: Run, bench: "Benchmark") -> tuple[float, str]:
    """Median of GPU seconds over CPU seconds in the task's other rows, and the GPU's name."""
    ratios = _ratios(run.task, bench, gpu=True, without=(run.method, run.profile))
    if not ratios:
        raise Unknown(f"no run of {run.task} was measured on a GPU alone")
    return statistics.median(ratio for ratio, _ in ratios), ratios[-1][1]


def _ratios(
    task: str, bench: "Benchmark", gpu: bool, without: tuple[str, str] | None = None
) -> list[tuple[float, str]]:
    """Seconds as measured over those by the benchmark, and the device, of a task's trained rows."""
    ratios = []
    for row in _rows(task):
        about, device = (row["method"], row["profile"]), row["device"]
        right = gpu == (device != "cpu") and " then " not in device and about != without
        if right and row["method"] not in gl.annealing.METHODS:
            run = Run(task, *about, tuple(row["seeds"]), notebook="", overrides={})
            ratios.append((row["metrics"]["seconds"]["mean"] / _on_cpu(run, bench), device))
    return ratios


class Benchmark:
    """The committed milliseconds of training steps on a task, or on the one most like it."""

    def __init__(self, task: str, threads: int):
        images = task.startswith("vae")
        self.entries, self.environment = _entries("vae" if images else "steps", threads)
        self.scaling, _ = _entries("scaling", threads)
        here = {entry["task"] for entry in self.entries}
        self.task, self.by_dim = task, 1.0
        if images:
            self.task = "vae"  # in either coordinates: the decoder is the cost
        elif task not in here:
            self.task = "manywell32"
        self.scaled_as = "25gmm" if self.task == "25gmm" else "manywell32"
        if task != self.task and not images:
            self.by_dim = self._by_dim(task)

    def step(self, config: gl.Config, steps: int) -> float:
        """Milliseconds of one training step of `steps` transitions, replay in its share."""
        if config.layers != USUAL["layers"]:
            raise Unknown(f"no benchmark varies layers={config.layers}")
        replay = "MLE replay" if config.replay_objective == "mle" else "TB replay"
        if config.replay_objective == "mle" and config.learn_backward:
            replay = "reverse KL"  # its mirror image: a gradient through every state in turn
        ratio = config.replay_ratio
        kinds = ((1 - ratio, FORWARD[config.objective], "forward"), (ratio, replay, "replay"))
        total = sum(
            share * self._kind(config, name, way) for share, name, way in kinds if share > 0
        )
        total *= self.by_dim * self._scale("steps", steps) * self._scale("hidden", config.hidden)
        return total * self._scale("batch", config.batch_size)

    def search(self, config: gl.Config) -> float:
        """Milliseconds of one local search."""
        name, steps = SEARCH
        per_chain = self._ms(name) / (steps * USUAL["batch"])
        return per_chain * config.ls_steps * config.batch_size * self.by_dim

    def _by_dim(self, task: str) -> float:
        """Time of a step on another task over that on Manywell, at the same settings."""
        try:
            return self._scale("dim", _dim(task), 32)
        except Unknown:  # such as the Cox process, of dimension 1600
            ratios = [ratio for ratio, _ in _ratios(task, self, gpu=False)]
            if not ratios:
                raise
            return statistics.median(ratios)

    def _kind(self, config: gl.Config, name: str, way: str) -> float:
        """Milliseconds of a step; one that was not measured, by what LP and LV add to TB's."""
        base, unmeasured = "TB", 1.0
        if self.task == "vae":  # whose benchmark has VarGrad alone: the others as on Manywell
            base, usual = "VarGrad", Benchmark("manywell32", self.environment["threads"])
            if way == "forward":
                unmeasured = usual._ms(name) / usual._ms("VarGrad+Expl forward")
            name = f"VarGrad+Expl {way}"
        plain = f"{base}+Expl forward"
        time = self._ms(name) * unmeasured
        if config.langevin:
            time *= self._ms(f"{base}+Expl+LP forward") / self._ms(plain)
        if config.learn_variance and self.task != "vae":  # there LV is little beside the decoder
            time *= self._ms("TB+Expl+LV forward") / self._ms(plain)
        return time

    def _ms(self, name: str) -> float:
        for entry in self.entries:
            if (entry["task"], entry["step"]) == (self.task, name):
                return entry["ours"]["median"]
        raise Unknown(f"the step {name!r} of {self.task} was not measured")

    def _scale(self, axis: str, value: int, usual: int | None = None) -> float:
        """Time at a value of an axis over that at its usual one, on straight lines in log-log."""
        measured = sorted(
            (entry["value"], entry["ours"]["median"])
            for entry in self.scaling
            if entry["axis"] == axis and (axis == "dim" or entry["task"] == self.scaled_as)
        )
        if not measured:
            raise Unknown(f"no benchmark varies {axis}")
        least, most = measured[0][0] / REACH, measured[-1][0] * REACH
        if not least <= value <= most:
            raise Unknown(f"{axis}={value} is far from all that was measured")
        return _line(measured, value) / _line(measured, usual or USUAL[axis])


def human(seconds: float | None) -> str:
    """As "40 s", "3 min", "2.1 h" or "3.5 days"; "unknown" for None."""
    if seconds is None:
        return "unknown"
    if seconds <= 59:
        return f"{math.ceil(seconds)} s"
    if seconds < 59.5 * 60:
        return f"{seconds / 60:.0f} min"
    hours = seconds / 3600
    return f"{hours:.1f} h" if hours < 48 else f"{hours / 24:.1f} days"


def _rows(task: str) -> list[dict]:
    """The task's committed rows that were run."""
    path = report.FOLDER / f"{task}.json"
    rows = read_json(path)["rows"] if path.exists() else []
    return [row for row in rows if row["seeds"]]


def _measured(run: Run) -> dict | None:
    """The committed row of exactly this run, if it has one."""
    same = [row for row in _rows(run.task) if row["method"] == run.method]
    same = [row for row in same if row["profile"] == run.profile and not run.overrides]
    return same[0] if same else None


def _entries(part: str, threads: int) -> tuple[list[dict], dict]:
    """A part of the benchmark with these threads, or else with those there are."""
    path = report.FOLDER / "bench" / f"{part}.json"
    runs = read_json(path)["runs"] if path.exists() else []
    runs = [run for run in runs if run["environment"]["device"] == "cpu"]
    if not runs:
        raise Unknown(f"there is no {path.name} of the benchmark")
    chosen = min(runs, key=lambda run: abs(run["environment"]["threads"] - threads))
    return chosen["entries"], chosen["environment"]


@cache
def _dim(task: str) -> int:
    return gl.named_target(task).dim


def _line(points: list[tuple[float, float]], value: float) -> float:
    logs = [(math.log(x), math.log(y)) for x, y in points]
    at = math.log(value)
    right = next((i for i, (x, _) in enumerate(logs) if x >= at), len(logs) - 1)
    (x0, y0), (x1, y1) = logs[max(right, 1) - 1], logs[max(right, 1)]
    return math.exp(y0 + (y1 - y0) * (at - x0) / (x1 - x0))
