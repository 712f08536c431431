"""Data and an energy on one network: `python -m reproduce.bench.joint_study`.

Twenty-five Gaussians, whose energy knows all of them, and data that do not: five modes are missing
from one set, and the other has 100 points in all. Each cell is a weight lambda_GFN of trajectory
balance beside L_simple, trained for the same iterations by five seeds in one program. It is written
to results/diffusion/joint.json as soon as it is there, and not run again if it is found there.
"""

import json
import math
import time
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

import gfnlite as gl
from gfnlite.data_loss import DataLoss
from gfnlite.diffusion import Noising

from .. import report

__all__ = ["CELLS", "DATA", "RESULTS", "SETTINGS", "load", "run"]

RESULTS = report.FOLDER / "diffusion" / "joint.json"
SEEDS = 5
MISSING = (0, 4, 12, 20, 24)  # the corners and the middle
SETTINGS = {
    "process": "vp", "schedule": "cosine", "sigma2": 50.0, "steps": 40, "batch_size": 200,
    "iterations": 2000, "lr": 5e-3,
}  # fmt: skip
WEIGHTS = {"0": 0.0, "0.01": 0.01, "0.1": 0.1, "1": 1.0, "energy alone": math.inf}
DATA = ("five modes missing", "100 points")
CELLS = [(data, weight) for data in DATA for weight in WEIGHTS]


def data_of(name: str) -> Tensor:
    """The data set of that name (N, 2), the same for all seeds."""
    x = gl.gmm25.sample(5000, torch.Generator().manual_seed(0))
    if name == "100 points":
        return x[:100]
    mode = gl.gmm25.modes_of(x).argmax(1)
    return x[~torch.isin(mode, torch.tensor(MISSING))]


def measure(data: str, weight: float, seeds: int = SEEDS, n: int = 20_000, **changes) -> dict:
    """Train one cell, and evaluate it; the sum of the missing modes' shares, too."""
    config = gl.Config(**(SETTINGS | changes))
    noising = Noising(config.steps, config.schedule, config.sigma2)
    loss = None if weight == math.inf else DataLoss(data_of(data), noising, gfn=weight)
    ensemble = gl.Ensemble(gl.gmm25, config=config, seeds=seeds, device="cpu")
    began = time.process_time()
    ensemble.fit(data=loss, progress=False)
    spent = time.process_time() - began
    found = ensemble.evaluate(n)
    metrics = {name: found[name]["values"] for name in ("elbo", "eubo", "log_z_is", "w2", "modes")}
    metrics["missing"] = [sum(one["mode_weights"][k] for k in MISSING) for one in found.evaluations]
    return {"seconds": round(spent, 1), "metrics": metrics}


def load(path: Path = RESULTS) -> dict[str, dict[str, dict]]:
    """The cells that have been measured, by data and weight."""
    return json.loads(path.read_text())["cells"] if path.exists() else {}


def run(cells: Iterable[tuple[str, str]] = CELLS, path: Path = RESULTS, **changes) -> None:
    """Measure each cell that the file does not have, and add it there at once.

    Raises:
        ValueError: if the file's cells were measured with other settings.
    """
    settings = SETTINGS | changes
    if path.exists() and (found := json.loads(path.read_text())["settings"]) != settings:
        raise ValueError(f"{path} is of settings {found}, not {settings}: move it away")
    for data, weight in cells:
        done = load(path)
        if weight in done.get(data, {}):
            continue
        row = measure(data, WEIGHTS[weight], **changes)
        cells_now = done | {data: done.get(data, {}) | {weight: row}}
        about = {"torch": torch.__version__, "threads": 1, "settings": settings}
        gl.write_json(path, about | {"missing": list(MISSING), "cells": cells_now})
        print(f"{data}, lambda {weight}: {row}", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    run()
