"""The experiments' own notebooks, as batch runs execute them: without the cells tagged lesson."""

import json
import math
import os
import time
from pathlib import Path

import jupytext
import papermill
import pytest

import gfnlite as gl
from reproduce import experiments, pool, report

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"
RUNS = [run for run in experiments.load("smoke") if isinstance(run.config, gl.Config)]  # trained
# Each task by a method that no other task here has; the fast tier has one of each kind of target.
CASES = [
    ("funnel", "FL-SubTB+LP"),
    ("lgcp", "DDS"),
    ("vae", "TB+Expl+LP+LS"),
    *(
        pytest.param(*case, marks=pytest.mark.full)
        for case in (("25gmm", "TB"), ("9gmm", "DIS"), ("easy_funnel", "PIS"), ("manywell32", "TB"),
                     ("manywell64", "VarGrad+Expl"), ("manywell128", "PIS+LP"),
                     ("vae_whitened", "VarGrad+LP+LV+Few"))
    ),
]  # fmt: skip


def execute(folder, notebook, lessons=False, **parameters):
    """The metrics that the notebook leaves in the folder when papermill runs it in smoke."""
    document = jupytext.read(NOTEBOOKS / f"{notebook}.py")
    if not lessons:
        tags = [cell.metadata.get("tags", []) for cell in document.cells]
        assert any("lesson" in of_cell for of_cell in tags)
        document.cells = [cell for cell in document.cells if "lesson" not in cell.metadata.get(
            "tags", [])]  # fmt: skip
    parameters |= {"profile": "smoke", "seeds": [1], "out_dir": str(folder)}
    papermill.execute_notebook(
        document, str(folder / "done.ipynb"), parameters, kernel_name="python3",
        language="python", cwd=str(NOTEBOOKS), progress_bar=False, execution_timeout=300,
        shutdown_kernel="immediate",
    )  # fmt: skip
    assert (folder / "samples.png").stat().st_size > 5000
    return json.loads((folder / "seed-1" / "metrics.json").read_text())


def check(metrics, task):
    """Numbers where there is a truth, None where there is none, and never anything else."""
    numbers = "elbo log_z_is ess energy_calls seconds".split()
    known = "true_log_z delta_log_z delta_log_z_rw eubo".split()
    distances, modes = ["w2", "w2_floor"], ["modes", "n_modes"]
    assert metrics["seed"] == 1 and metrics["log_z_is"] >= metrics["elbo"]
    target = gl.named_target(task)
    conditional = target.condition_dim > 0
    expected = numbers + (known if conditional or target.log_z is not None else [])
    expected += distances if target.sample is not None and not conditional else []
    expected += modes if target.mode_mass is not None else []
    assert all(math.isfinite(metrics[name]) for name in expected)
    unknown = set(known + distances + modes) - set(expected)
    assert {name for name in unknown if metrics[name] is not None} == set()


@pytest.mark.parametrize("task, method", CASES)
def test_a_task_is_run_without_its_notebooks_lessons(tmp_path, task, method):
    notebooks = {(run.task, run.method): run.notebook for run in RUNS}
    notebook = notebooks.get((task, method), "04_25gmm")  # which takes any target of a name
    check(execute(tmp_path, notebook, task=task, method=method), task)


def test_chapter_04_with_its_lessons_reads_a_task_without_modes_truth_or_exact_samples(tmp_path):
    metrics = execute(tmp_path, "04_25gmm", lessons=True, task="lgcp", method="TB+Expl")
    check(metrics, "lgcp")
    assert metrics["paper_elbo"] < metrics["paper_log_z_is"]


def test_every_row_of_every_experiment_is_small_in_smoke():
    for run in RUNS:
        c, target = run.config, gl.named_target(run.task)
        assert c.iterations * c.batch_size * c.steps * target.dim < 2e6, run.name


@pytest.mark.full
def test_the_whole_smoke_grid_takes_less_than_ten_minutes_on_two_cores(tmp_path, monkeypatch):
    monkeypatch.setattr(experiments, "RUNS", tmp_path)
    runs, began = experiments.load("smoke"), time.monotonic()
    ended = pool.run_all(runs, 2)
    seconds = time.monotonic() - began
    assert len(ended) == len(runs) > 110 and set(ended.values()) == {"done"}
    notes = []
    rows = report.collect(notes)
    assert notes == [] and len(rows) == len(runs)
    assert seconds < 600 or os.getloadavg()[0] > 4  # others at work say nothing of us
    print(f"{len(runs)} runs in {seconds:.0f} s")
