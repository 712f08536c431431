"""A grid of finished runs that nobody trained, to see what commands cost where there are many.

It is a repository of its own, with this one's code and notebooks: the folders of its runs have
what real ones have, but for checkpoints, notebooks and pictures.
"""

import json
import os
import random
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import gfnlite as gl

from ..experiments import Run
from .process import ROOT

__all__ = ["SEEDS", "build", "cost", "finish"]

SEEDS = {"smoke": 1, "quick": 3, "full": 5}  # in a run, as in the experiments
TASKS = ("9gmm", "25gmm", "40gmm", "manywell32", "manywell64", "funnel", "easy_funnel")
METHODS = ("PIS", "PIS+LP", "TB", "TB+Expl", "VarGrad+Expl", "FL-SubTB", "TB+Expl+LS")
LEFT_OUT = shutil.ignore_patterns("runs", "local", "__pycache__", "*.ipynb")


def build(root: Path, count: int) -> list[Run]:
    """Copy the code to `root`, with a grid of at least `count` finished runs; the runs.

    The first of its experiments has the presets, so that all of `report` is at work; each other
    one changes the learning rate.
    """
    for name in ("reproduce", "notebooks"):
        shutil.copytree(ROOT / name, root / name, ignore=LEFT_OUT)
    (root / "gfnlite").symlink_to(ROOT / "gfnlite")
    experiments = root / "reproduce" / "experiments"
    shutil.rmtree(experiments)
    experiments.mkdir()
    for name in ("reasons", "investigations", "beyond"):  # are of other runs
        (root / "reproduce" / f"{name}.yaml").unlink()
    made: list[Run] = []
    seeds = {profile: list(range(many)) for profile, many in SEEDS.items()}
    while len(made) < count:
        changes = {"lr": 1e-3 + 1e-6 * len(made)} if made else {}
        sweep = {"task": list(TASKS), "notebook": "04_25gmm", "methods": list(METHODS)}
        sweep |= {"seeds": seeds, "overrides": changes}
        (experiments / f"sweep{len(made):06}.yaml").write_text(json.dumps(sweep))
        made += [
            Run(task, method, profile, tuple(seeds[profile]), "04_25gmm", changes)
            for task in TASKS for method in METHODS for profile in SEEDS
        ]  # fmt: skip
    numbers = random.Random(0)
    for run in made:
        finish(run, root / "reproduce" / "runs" / run.name, numbers)
    return made


def finish(run: Run, folder: Path, numbers: random.Random) -> None:
    """What `runner.execute` leaves, without waiting for the disk."""
    about = {name: getattr(run, name) for name in "task method profile notebook overrides".split()}
    commits = {str(seed): ["0123abc"] for seed in run.seeds}
    record = {"started": "2026-01-01T00:00:00+00:00", "commit": "0123abc", "dirty": False}
    record |= {"versions": dict.fromkeys(("python", "torch", "numpy", "papermill"), "1.0")}
    record |= {"seeds": list(run.seeds), "status": "done", "cause": None, "commits": commits}
    record |= {"device": "cpu", "wall_seconds": 60.0, "energy_calls": 10**6}
    _write(folder / "config.json", about | {"config": asdict(run.config)})
    _write(folder / "run.json", record)
    for seed in run.seeds:
        metrics = dict.fromkeys(("true_log_z", "log_z", "w2_floor"), 0.0)
        for name in ("elbo eubo log_z_is log_z_learned ess w2 ess_forward mode_coverage paper_elbo "
                     "paper_log_z_is delta_log_z delta_log_z_rw seconds").split():  # fmt: skip
            metrics[name] = numbers.random()
        metrics |= {"mode_weights": [numbers.random() for _ in range(25)], "modes": 25}
        metrics |= {"n_modes": 25, "energy_calls": 10**6, "n_samples": 20_000, "seed": seed}
        _write(folder / f"seed-{seed}" / "metrics.json", metrics)


def _write(path: Path, value: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gl.files.as_json(value))


# A process of its own between: a child's peak is never below that of the parent it is forked from,
# and a test's process is large.
MEASURE = """
import json, resource, subprocess, sys, time
began = time.monotonic()
code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode
used = resource.getrusage(resource.RUSAGE_CHILDREN)
seconds = time.monotonic() - began
print(json.dumps([code, seconds, used.ru_utime + used.ru_stime, used.ru_maxrss]))
"""


def cost(root: Path, *words: str) -> tuple[float, float, float]:
    """Seconds of the wall and of the CPU, and MB at its peak, that `python -m reproduce` takes.

    Raises:
        subprocess.CalledProcessError: if it fails.
    """
    path = os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-m", "reproduce", *words]
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *command], cwd=root, stdout=subprocess.PIPE, check=True,
        env=os.environ | {"PYTHONPATH": path},
    )  # fmt: skip
    code, wall, cpu, peak = json.loads(done.stdout)
    if code:
        raise subprocess.CalledProcessError(code, command)
    return wall, cpu, peak * (1 if sys.platform == "darwin" else 1024) / 1e6
