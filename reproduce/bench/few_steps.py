"""How few, and which, random steps to train on: `python -m reproduce.bench.few_steps`.

A sampler that will run in T = 100 steps can be trained on random grids of a few (Berner et al.
2025, From discrete-time policies to continuous-time diffusion samplers, arXiv:2501.06148), and for
the rest of its training on the grid of 100. Each cell here is one choice of both, for three seeds
trained together, sampled at T = 100; it is written to results/bench/few_steps.json as soon as it is
there, and a cell found there is not run again.

Seconds are CPU seconds of training, of one seed; logging and evaluation are not in them.
"""

import json
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

import gfnlite as gl
from gfnlite.mnist import mnist
from gfnlite.step import prefill, train_step
from gfnlite.team import Team

from .. import autoencoder

__all__ = ["CELLS", "METHODS", "RESULTS", "Cell", "best", "load", "measure", "run"]

RESULTS = Path(__file__).resolve().parent.parent / "results" / "bench" / "few_steps.json"
METHODS = {"25gmm": "TB+Expl", "manywell32": "MLE+LP+LV", "vae_whitened": "VarGrad+LP+LV"}
SEEDS = 3
RATES = {"25gmm": 5e-3, "manywell32": 6e-3, "vae_whitened": 2e-3}  # the quick profile's
# fewer than the quick profile's
ITERATIONS = {"25gmm": 2500, "manywell32": 1000, "vae_whitened": 300}


@dataclass(frozen=True)
class Cell:
    """One setting: `coarse_fraction` of the `iterations` on grids of `coarse_steps` random steps.

    `study` says what it has in common with others: the same "iterations", or about the same
    "seconds"; or it is the best one with another "lr".
    """

    study: str
    task: str
    coarse_steps: int | None
    coarse_fraction: float
    iterations: int
    lr: float

    @property
    def config(self) -> gl.Config:
        """The quick profile's settings with those of the cell, and T = 100."""
        settings = asdict(self) | {"steps": 100}
        del settings["study"], settings["task"]
        return gl.preset(self.task, METHODS[self.task], "quick").replace(**settings)


def _same_iterations(task: str) -> list[Cell]:
    rest = ITERATIONS[task], RATES[task]
    choices = [(n, f) for f in (0.8, 1.0, 0.95) for n in (10, 20, 5)]
    # 50 steps, or half of the training on 100, save little: a cell each shows it.
    choices += [(50, 0.8), (10, 0.5)]
    cells = [Cell("iterations", task, n, f, *rest) for n, f in choices]
    return [Cell("iterations", task, None, 0.0, *rest), *cells]


# About as many CPU seconds as 20 steps for 80% of ITERATIONS take: 25.
SAME_SECONDS = {
    "25gmm": [(10, 0.8, 3100), (20, 0.95, 3650), (10, 0.95, 5200), (50, 0.8, 1550), (None, 0, 950)],
    "manywell32": [(20, 0.95, 1500), (10, 0.8, 1270), (10, 0.95, 1850), (None, 0, 375)],
}
CELLS = [
    *(cell for task in METHODS for cell in _same_iterations(task)),
    *(
        Cell("seconds", task, steps, float(fraction), iterations, RATES[task])
        for task, choices in SAME_SECONDS.items()
        for steps, fraction, iterations in choices
    ),
    *(Cell("lr", task, 20, 0.8, ITERATIONS[task], 3e-3) for task in METHODS),
]


def measure(cell: Cell, seeds: int = SEEDS, samples: int = 20_000) -> dict:
    """Train the cell's samplers, evaluate them at T = 100, and say it all in plain numbers."""
    config, target = cell.config, gl.named_target(cell.task)
    ensemble = gl.Ensemble(target, seeds=seeds, config=config, device="cpu")
    setup, training = _train(ensemble)
    metrics = (_posteriors if target.condition_dim else _distribution)(ensemble, samples)
    gaps = zip(metrics["elbo_gap"], metrics["eubo_gap"], strict=True)
    metrics["gap"] = [below + above for below, above in gaps]
    metrics["energy_calls"] = [sampler.energy_calls for sampler in ensemble]
    return {
        **asdict(cell),
        "method": METHODS[cell.task],
        "seeds": [sampler.seed for sampler in ensemble],
        "seconds": round((setup + training) / seeds, 2),
        "setup_seconds": round(setup / seeds, 2),
        "n_modes": None if target.mode_mass is None else len(target.mode_mass),
        "metrics": {name: _summary(values) for name, values in metrics.items()},
    }


def _distribution(ensemble: gl.Ensemble, samples: int) -> dict[str, list[float]]:
    """How far each sampler is from its target."""
    log_z, summary = ensemble[0].target.log_z, ensemble.evaluate(samples)
    return {
        "elbo_gap": [log_z - value for value in summary["elbo"]["values"]],
        "eubo_gap": [value - log_z for value in summary["eubo"]["values"]],
        "log_z_error": [abs(value - log_z) for value in summary["log_z_is"]["values"]],
        **{name: summary[name]["values"] for name in ("ess", "modes", "w2")},
    }


def _posteriors(ensemble: gl.Ensemble, samples: int) -> dict[str, list[float]]:
    """The same for posteriors, by `samples` trajectories in all, as means over images."""
    images = mnist("evaluation").images
    truth = autoencoder.load_truth(ensemble[0].target, "evaluation")
    each = max(2, samples // len(images))
    found = [gl.evaluate_posteriors(s, images, each, (each,), truth) for s in ensemble]
    errors = [(one["log_z_is"] - one["log_z"]).abs().mean().item() for one in found]
    means = {name: [one.mean(name)[0] for one in found] for name in ("gap_elbo", "gap_eubo", "ess")}
    return {
        "elbo_gap": means["gap_elbo"],
        "eubo_gap": means["gap_eubo"],
        "log_z_error": errors,
        "ess": means["ess"],
    }


def _train(ensemble: gl.Ensemble) -> tuple[float, float]:
    """CPU seconds of what comes before the first step, and of the steps."""
    started = time.process_time()
    for sampler in ensemble:
        if sampler.config.prefill:
            prefill(sampler)
    setup = time.process_time() - started
    team = Team(ensemble.samplers)
    try:
        for _ in range(ensemble[0].config.iterations):
            train_step(team)
    finally:
        team.part()
    return setup, time.process_time() - started - setup


def _summary(values: Sequence[float]) -> dict:
    numbers = torch.tensor(values, dtype=torch.float64)
    std = numbers.std().item() if len(values) > 1 else None
    return {"mean": numbers.mean().item(), "std": std, "values": list(values)}


def load(path: Path = RESULTS) -> list[dict]:
    """The cells that have been measured."""
    return json.loads(path.read_text())["cells"] if path.exists() else []


def run(
    cells: Iterable[Cell] = CELLS,
    path: Path = RESULTS,
    measure: Callable[[Cell], dict] = measure,
    say: Callable[[str], None] = print,
) -> None:
    """Measure each cell that the file at `path` does not have, and add it there at once."""
    for cell in cells:
        done = load(path)
        if any(_is(cell, old) for old in done):
            continue
        row = measure(cell)
        gl.write_json(path, {"torch": torch.__version__, "threads": 1, "cells": [*done, row]})
        metrics = row["metrics"]
        seen = "".join(
            f", {metrics[name]['mean']:.3g} {name}" for name in ("modes", "w2") if name in metrics
        )
        say(
            f"{cell.task} {cell.study}: {cell.coarse_steps} steps for {cell.coarse_fraction:g} of "
            f"{cell.iterations}, lr {cell.lr:g}: {row['seconds']:.1f} s, ELBO -"
            f"{metrics['elbo_gap']['mean']:.3f}, EUBO +{metrics['eubo_gap']['mean']:.3f} (sum +- "
            f"{metrics['gap']['std'] or math.nan:.3f}), log Z off by "
            f"{metrics['log_z_error']['mean']:.3f}, ESS {metrics['ess']['mean']:.1%}{seen}"
        )


def _is(cell: Cell, row: dict) -> bool:
    return all(row[name] == value for name, value in asdict(cell).items() if name != "study")


def best(rows: Sequence[dict] | None = None, tolerance: float = 0.2) -> tuple[int | None, float]:
    """The cheapest choice as good as 100 steps: what `gl.preset` takes for a method with "+Few".

    At the same number of iterations, its gap EUBO - ELBO may be larger than that of 100 steps only
    by the fraction `tolerance`, in each task.
    """
    table = {}
    for row in load() if rows is None else rows:
        if row["study"] == "iterations":
            choice = row["coarse_steps"], row["coarse_fraction"]
            table.setdefault(choice, {})[row["task"]] = (
                row["seconds"],
                row["metrics"]["gap"]["mean"],
            )
    fine = table[None, 0.0]
    seconds = {
        choice: sum(spent / fine[task][0] for task, (spent, _) in cells.items())
        for choice, cells in table.items()
        if all(gap <= (1 + tolerance) * fine[task][1] for task, (_, gap) in cells.items())
    }
    return min(seconds, key=seconds.__getitem__)


if __name__ == "__main__":
    torch.set_num_threads(1)
    run()
