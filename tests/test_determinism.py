"""The same seed on the same machine gives the same numbers, to the last byte of their file."""

import json
import os
import subprocess
import sys

import pytest

# A training and its record, as a run keeps them; told to, it is killed amid the one and resumed.
BODY = """
import os, signal, sys
from pathlib import Path
import gfnlite as gl
from gfnlite import train

method, folder, stop, *seeds = sys.argv[1:]
small = {"ls_every": 10} if "LS" in method else {}
config = gl.preset("9gmm", method, "smoke", small, batch_size=300)
step, train.CHECKPOINT_SECONDS = train.train_step, 0


def killed(team):
    if team.iteration == int(stop):
        os.kill(os.getpid(), signal.SIGKILL)
    return step(team)


train.train_step = killed
ensemble = gl.Ensemble(gl.gmm9, config=config, seeds=[int(seed) for seed in seeds])
ensemble.fit(folder=folder, progress=False)
for sampler in ensemble:
    gl.record(sampler, Path(folder) / f"seed-{sampler.seed}", n_samples=500, paper_samples=100)
"""


def run(folder, method, stop=-1, seeds=(0, 1), threads=1, **environment):
    """Exit status of a process of its own that trains."""
    words = [sys.executable, "-c", BODY, method, str(folder), str(stop), *map(str, seeds)]
    environment = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)} | environment
    return subprocess.run(words, env=os.environ | environment, cwd=folder.parent).returncode


def kept(folder, seed=0):
    """The bytes of a seed's metrics.json, but for its time and the digest of all of it."""
    text = (folder / f"seed-{seed}" / "metrics.json").read_text()
    lines = text.splitlines()
    return [line for line in lines if not line.strip().startswith(('"seconds"', '"sha256"'))]


LONG = [pytest.param(method, marks=pytest.mark.full) for method in ("MLE+LV+LB+Std", "PIS+LP")]


@pytest.mark.parametrize("method", ["TB+Expl+LS", *LONG])
def test_metrics_are_the_same_bytes_in_another_process_and_after_a_kill(tmp_path, method):
    first, again, resumed = (tmp_path / name for name in ("first", "again", "resumed"))
    assert run(first, method, PYTHONHASHSEED="1") == 0
    assert run(again, method, PYTHONHASHSEED="2") == 0
    assert run(resumed, method, stop=23) == -9 and not list(resumed.glob("*/metrics.json"))
    assert run(resumed, method) == 0
    for seed in (0, 1):
        assert kept(first, seed) == kept(again, seed) == kept(resumed, seed)
    assert kept(first, 0) != kept(first, 1)


@pytest.mark.full
@pytest.mark.parametrize(
    "method, tolerance", [("TB+Expl", 1e-3), ("MLE+LV+Std", 1e-3), ("TB+Expl+LS", 2e-2)]
)
def test_a_second_thread_changes_no_more_than_rounding_does(tmp_path, method, tolerance):
    """Sums in another order differ by 1e-7 of themselves, and 40 iterations make that larger.

    A local search decides by such sums which moves it takes: there it can be a move more or less.
    """
    one, two = tmp_path / "one", tmp_path / "two"
    assert run(one, method, seeds=[0]) == 0 == run(one, method, seeds=[1])
    assert run(two, method, seeds=[0], threads=2) == 0
    mine, other, theirs = (
        json.loads((tmp_path / name / "metrics.json").read_text())
        for name in ("one/seed-0", "one/seed-1", "two/seed-0")
    )
    names = "elbo", "eubo", "log_z_is", "w2"
    away = {name: abs(mine[name] - theirs[name]) for name in names}
    assert max(away.values()) < tolerance, away
    assert max(abs(mine[name] - other[name]) for name in names) > 10 * tolerance  # another seed
