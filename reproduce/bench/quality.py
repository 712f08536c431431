"""Part `quality`: seconds of training until a sampler is good enough, ours and the usual way.

Ours is a fixed recipe: all of it is run and counted, whatever it starts with included, and what it
made is measured once. The usual way is the paper's settings in the plain baseline. It is measured
every 250 iterations, and stopped when it is good enough or has had 20 times our time. Measuring is
not counted. Both run on one thread, and are counted in CPU seconds, which a busy machine distorts
less; wall seconds are beside them.
"""

import io
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import torch

import gfnlite as gl
from gfnlite.files import load_state, write_bytes
from gfnlite.step import exploration_at, prefill, replays, train_step
from gfnlite.team import Team

from ..experiments import BadInput
from . import plain
from .measure import Progress
from .sizes import Sizes
from .tasks import target

__all__ = ["GOALS", "Goal", "Stopwatch", "measure", "plain_run", "recipe_run"]

EVERY = 250  # iterations of the baseline from one measurement to the next
PATIENCE = 20.0  # times our time that the baseline is given
SAMPLES = 20_000
BATCH = 2000  # of them, at a time


@dataclass(frozen=True)
class Goal:
    """When a sampler is good enough, and how each side tries to get there.

    Attributes:
        elbo: at least this.
        log_z_error: of the importance-sampled log Z, below this; None: any.
        modes: at least so many found; None: any.
        recipe: our settings.
        usual: the paper's.
    """

    elbo: float
    log_z_error: float | None
    modes: int | None
    recipe: gl.Config
    usual: gl.Config

    def met(self, found: dict) -> bool:
        """Whether a measurement is good enough."""
        near = self.log_z_error is None or abs(found["log_z_error"]) < self.log_z_error
        return found["elbo"] >= self.elbo and near and found["modes"] >= (self.modes or 0)


GOALS = {
    "25gmm": Goal(
        elbo=-0.21, log_z_error=None, modes=25,
        recipe=gl.preset("25gmm", "TB+Expl", "quick").replace(
            iterations=4000, coarse_fraction=0.9
        ),
        usual=gl.preset("25gmm", "TB+Expl", "full"),
    ),
    "manywell32": Goal(
        elbo=160.1, log_z_error=0.5, modes=None,
        recipe=gl.preset("manywell32", "MLE+LP+LV", "quick").replace(
            iterations=800, coarse_fraction=0.95, prefill=8000
        ),
        usual=gl.preset("manywell32", "TB+Expl+LP+LS", "full"),
    ),
}  # fmt: skip


class Stopwatch:
    """Counts CPU and wall seconds inside its `with` blocks only."""

    def __init__(self, cpu: float = 0.0, wall: float = 0.0):
        self.cpu, self.wall = cpu, wall

    def __enter__(self):
        self._began = time.process_time(), time.perf_counter()
        return self

    def __exit__(self, *_):
        self.cpu += time.process_time() - self._began[0]
        self.wall += time.perf_counter() - self._began[1]

    def seconds(self) -> dict:
        """Both, as the JSON has them."""
        return {"cpu_seconds": round(self.cpu, 2), "seconds": round(self.wall, 2)}


def measure(sizes: Sizes, progress: Progress, folder: Path) -> Iterator[tuple[str, dict]]:
    """(task, entry) of each goal; the baseline's training is kept in `folder` and gone on from."""
    for task in sizes.tasks:
        goal = GOALS[task]
        seeds, samples = (0, 1, 2), SAMPLES
        if sizes.small:
            goal, seeds, samples = _shortened(goal), (0,), 100
        mine = []
        for seed in seeds:
            progress.start(f"{task}, {goal.recipe.iterations} iterations of ours, seed {seed}")
            mine.append(recipe_run(task, goal, seed, samples))
            progress.note(f"{task}, ours, seed {seed}: {_line(mine[-1])}")
        ours = median(run["cpu_seconds"] for run in mine)
        usual = plain_run(task, goal, PATIENCE * ours, samples, folder / task, progress)
        ratio = {"value": usual["cpu_seconds"] / ours, "at_least": not usual["met"]}
        wanted = {"elbo": goal.elbo, "log_z_error": goal.log_z_error, "modes": goal.modes}
        yield task, {
            "task": task, "goal": wanted, "n_samples": samples,
            "ours": {
                "settings": asdict(goal.recipe), "runs": mine, "cpu_seconds": ours,
                "met": all(run["met"] for run in mine),
            },
            "plain": {"settings": asdict(goal.usual), **usual}, "ratio": ratio,
        }  # fmt: skip


def recipe_run(task: str, goal: Goal, seed: int, samples: int = SAMPLES) -> dict:
    """Our recipe from start to end: what it cost, and how good it is."""
    sampler, watch = gl.GFNDiffusion(target(task), config=goal.recipe, seed=seed), Stopwatch()
    with watch:
        if goal.recipe.prefill:
            prefill(sampler)
        team = Team([sampler])
        while team.iteration < goal.recipe.iterations:
            train_step(team)
    with torch.no_grad():
        drawn = [sampler.trajectory(BATCH) for _ in range(0, samples, BATCH)]
    found = _found(task, [tr.x[-1] for tr in drawn], [tr.log_weight for tr in drawn])
    calls = {"iterations": team.iteration, "energy_calls": sampler.energy_calls}
    return {"seed": seed, **calls, **watch.seconds(), **found, "met": goal.met(found)}


def plain_run(
    task: str, goal: Goal, limit: float, samples: int, folder: Path, progress: Progress
) -> dict:
    """The baseline until it is good enough or has used `limit` CPU seconds: its trace.

    Its state is kept in `folder`, from which a later call goes on.

    Raises:
        BadInput: if what is there was trained with other settings.
    """
    config, kept = goal.usual, folder / "state.pt"
    trainer = plain.Trainer(
        task, config.objective, config.langevin, config.steps, config.batch_size, config.hidden,
        config.sigma2, config.lr, config.lr_log_z, replay=config.replay_ratio > 0,
    )  # fmt: skip
    watch, trace = Stopwatch(), []
    if kept.exists():
        watch, trace = _restore(trainer, folder, config)
    iteration = trace[-1]["iteration"] if trace else 0
    progress.start(f"{task}, plain, from iteration {iteration}, until {limit:.0f} CPU seconds")
    while iteration < config.iterations and watch.cpu < limit:
        if trace and trace[-1]["met"]:
            break
        with watch:
            for _ in range(min(EVERY, config.iterations - iteration)):
                _plain_iteration(trainer, config, iteration)
                iteration += 1
        drawn = [trainer.sample_log_weight(BATCH) for _ in range(0, samples, BATCH)]
        found = _found(task, *zip(*drawn, strict=True))
        trace.append({"iteration": iteration, **watch.seconds(), **found, "met": goal.met(found)})
        progress.note(f"{task}, plain, iteration {iteration}: {_line(trace[-1])}")
        _keep(trainer, watch, trace, config, folder)
    return {**trace[-1], "stopped_at_seconds": limit, "trace": trace}


def _plain_iteration(trainer: plain.Trainer, config: gl.Config, iteration: int) -> None:
    """One iteration of the config's schedule, as gfnlite's own loop has it."""
    if replays(config, iteration):
        trainer.replay_step()
    else:
        trainer.forward_step(exploration_at(config, iteration / config.iterations))
    if config.ls_every and iteration % config.ls_every == 0:
        trainer.local_search()


def _found(task: str, x, log_weight) -> dict:
    """ELBO, error of the importance-sampled log Z, and modes found, from batches of both."""
    truth, x, log_weight = target(task), torch.cat(list(x)), torch.cat(list(log_weight))
    return {
        "elbo": gl.elbo(log_weight),
        "log_z_error": gl.log_z_is(log_weight) - truth.log_z,
        "modes": gl.modes_found(truth.modes_of(x).mean(0), truth.mode_mass),
    }


def _keep(trainer, watch, trace, config, folder: Path) -> None:
    buffers = [b and vars(b) for b in (trainer.buffer, trainer.search_buffer)]
    state = {
        "policy": trainer.policy.state_dict(), "optimiser": trainer.optimiser.state_dict(),
        "buffers": buffers, "random": torch.get_rng_state(), "watch": vars(watch),
        "trace": trace, "config": asdict(config),
    }  # fmt: skip
    file = io.BytesIO()
    torch.save(state, file)
    write_bytes(folder / "state.pt", file.getvalue())
    gl.write_json(folder / "trace.json", trace)


def _restore(trainer, folder: Path, config: gl.Config) -> tuple[Stopwatch, list[dict]]:
    try:
        state = load_state(folder / "state.pt", "state of a training: remove it")
    except ValueError as error:
        raise BadInput(str(error)) from error
    if state["config"] != asdict(config):
        raise BadInput(f"{folder}: a training with other settings; remove it to start anew")
    trainer.policy.load_state_dict(state["policy"])
    trainer.optimiser.load_state_dict(state["optimiser"])
    for buffer, kept in zip((trainer.buffer, trainer.search_buffer), state["buffers"], strict=True):
        if kept:
            vars(buffer).update(kept)
    torch.set_rng_state(state["random"])
    return Stopwatch(state["watch"]["cpu"], state["watch"]["wall"]), state["trace"]


def _shortened(goal: Goal) -> Goal:
    tiny = {"iterations": 4, "steps": 4, "batch_size": 20, "hidden": 8}
    recipe = goal.recipe.replace(**tiny, coarse_steps=2)
    recipe = recipe.replace(prefill=20) if recipe.prefill else recipe
    usual = goal.usual.replace(**tiny)
    return Goal(goal.elbo, goal.log_z_error, goal.modes, recipe, usual)


def _line(found: dict) -> str:
    return (
        f"{found['cpu_seconds']:.1f} CPU seconds, ELBO {found['elbo']:.3f}, error of log Z "
        f"{found['log_z_error']:+.3f}, {found['modes']} modes{', good enough' * found['met']}"
    )
