"""What makes a sampler of the autoencoder's posterior good: `python -m reproduce.bench.vae_study`.

Each cell changes one thing of the best method, and trains for the same CPU seconds on one core;
training and sampling are in 20 steps. It is evaluated on MNIST's evaluation images, written to
results/vae/study.json as soon as it is there, and not run again if it is found there.
"""

import json
import time
from collections.abc import Iterable
from pathlib import Path

import torch

import gfnlite as gl
from gfnlite.mnist import mnist
from gfnlite.step import train_step
from gfnlite.team import Team

from .. import autoencoder

__all__ = ["BEST", "CELLS", "RESULTS", "load", "run"]

RESULTS = autoencoder.RESULT.with_name("study.json")
SECONDS = 150.0
BEST = {
    "objective": "vargrad", "repeats": 10, "batch_size": 300, "steps": 20, "coarse_steps": None,
    "langevin": True, "learn_variance": True, "sigma2": 1.0, "hidden": 128, "lr": 2e-3,
    "exploration": 0.0,
}  # fmt: skip
# What each cell changes; `whitened` is of the target.
CELLS = {
    "the best": {},
    "no gradient of the energy": {"langevin": False},
    "fixed variance": {"learn_variance": False},
    "in the latent itself": {"whitened": False},
    "TB and a network for log Z(x)": {"objective": "tb"},
    "2 trajectories an image": {"repeats": 2},
    "10 steps": {"steps": 10},
    "exploration 0.5": {"exploration": 0.5},
    "the paper's method": {
        "whitened": False, "learn_variance": False, "sigma2": 5.0, "exploration": 4.0,
        "hidden": 64, "lr": 1e-3,
    },
}  # fmt: skip


def measure(changes: dict, seconds: float = SECONDS, seed: int = 0) -> dict:
    """Train one cell for so many CPU seconds, and evaluate it."""
    changes = dict(changes)
    target = gl.VAEPosterior(whitened=changes.pop("whitened", True))
    config = gl.Config(**(BEST | changes))
    pace = _seconds_a_step(gl.GFNDiffusion(target, config=config, seed=seed, device="cpu"))
    config = config.replace(iterations=max(20, round(seconds / pace)))
    sampler = gl.GFNDiffusion(target, config=config, seed=seed, device="cpu")
    began = time.process_time()
    _train(sampler, config.iterations)
    spent = time.process_time() - began
    images = mnist("evaluation", "full").images
    truth = autoencoder.load_truth(target, "evaluation")
    found = gl.evaluate_posteriors(sampler, images, 200, (100,), truth)
    return {
        "iterations": config.iterations,
        "seconds": round(spent, 1),
        "energy_calls": sampler.energy_calls,
        "metrics": {
            name: dict(zip(("mean", "half_width"), found.mean(name), strict=True)) for name in found
        },
    }


def _seconds_a_step(sampler: gl.GFNDiffusion, steps: int = 20) -> float:
    _train(sampler, 3)
    began = time.process_time()
    _train(sampler, steps)
    return (time.process_time() - began) / steps


def _train(sampler: gl.GFNDiffusion, iterations: int) -> None:
    team = Team([sampler])
    try:
        for _ in range(iterations):
            train_step(team)
    finally:
        team.part()


def load(path: Path = RESULTS) -> dict[str, dict]:
    """The cells that have been measured, by name."""
    return json.loads(path.read_text())["cells"] if path.exists() else {}


def run(cells: Iterable[str] = CELLS, path: Path = RESULTS) -> None:
    """Measure each cell that the file does not have, and add it there at once."""
    for name in cells:
        done = load(path)
        if name in done:
            continue
        row = {"changes": CELLS[name]} | measure(CELLS[name])
        about = {"torch": torch.__version__, "threads": 1, "seed": 0, "best": BEST}
        gl.write_json(path, about | {"cells": done | {name: row}})
        gaps = row["metrics"]
        print(
            f"{name}: {row['iterations']} iterations in {row['seconds']:.0f} s, ELBO "
            f"{gaps['elbo']['mean']:.2f}, gaps {gaps['gap_elbo']['mean']:.2f}, "
            f"{gaps['gap_bound_100']['mean']:.2f}, {gaps['gap_eubo']['mean']:.2f}",
            flush=True,
        )


if __name__ == "__main__":
    torch.set_num_threads(1)
    run()
