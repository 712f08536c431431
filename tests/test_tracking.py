"""Tracking: off by default; on, each seed is logged below the run's folder, and checked before."""

import json
import sys
from dataclasses import replace
from types import SimpleNamespace

import jupytext
import pytest
from click.testing import CliRunner

import gfnlite as gl
from reproduce import experiments, runner, submission
from reproduce.__main__ import main
from reproduce.cli import chosen
from reproduce.experiments import BadInput

SMALL = {"steps": 3, "batch_size": 8, "hidden": 8, "layers": 1, "iterations": 60}


class Wandb:
    """What of the package is used: runs that know what was logged, and whether they ended."""

    def __init__(self):
        self.runs = []

    def init(self, **options):
        run = SimpleNamespace(options=options, entries=[], finished=False)
        run.log = lambda values, step: run.entries.append((step, values))
        run.finish = lambda: setattr(run, "finished", True)
        self.runs.append(run)
        return run


@pytest.fixture
def wandb(monkeypatch):
    client = Wandb()
    monkeypatch.setitem(sys.modules, "wandb", client)
    return client


def trained(tmp_path, track, seeds=(0, 1), iterations=None):
    ensemble = gl.Ensemble(gl.gmm25, seeds=list(seeds), config=gl.Config(**SMALL))
    callbacks = gl.callbacks.named(track, tmp_path)
    return ensemble.fit(iterations, tmp_path, progress=False, callbacks=callbacks)


def test_nothing_is_logged_unless_asked():
    assert gl.callbacks.named(None) == gl.callbacks.named(None, "folder") == []


def test_wandb_gets_a_run_for_each_seed(tmp_path, wandb):
    samplers = trained(tmp_path / "a-run", "wandb")
    assert len(wandb.runs) == 2
    for sampler, run in zip(samplers, wandb.runs, strict=True):
        assert run.options["name"] == run.options["id"] == f"a-run-seed-{sampler.seed}"
        assert run.options["group"] == "a-run" and run.options["dir"] == str(tmp_path / "a-run")
        assert "mode" not in run.options  # WANDB_MODE says it
        assert run.options["config"]["batch_size"] == 8
        assert [step for step, _ in run.entries] == [e["iteration"] for e in sampler.history]
        assert run.entries[-1][1]["elbo"] == sampler.history[-1]["elbo"]
        assert run.finished


def test_a_training_that_goes_on_is_logged_on(tmp_path, wandb):
    trained(tmp_path, "wandb", seeds=[0], iterations=30)
    trained(tmp_path, "wandb", seeds=[0])
    first, second = wandb.runs
    assert first.options["id"] == second.options["id"] and second.options["resume"] == "allow"
    assert first.entries[-1][0] == 30 and second.entries[0][0] == 31


def test_tensorboard_gets_a_folder_for_each_seed(tmp_path):
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    samplers = trained(tmp_path, "tensorboard")
    for sampler in samplers:
        events = reader.EventAccumulator(str(tmp_path / f"tensorboard/seed-{sampler.seed}"))
        events.Reload()
        curve = [(point.step, point.value) for point in events.Scalars("elbo")]
        wanted = [(entry["iteration"], entry["elbo"]) for entry in sampler.history]
        assert [step for step, _ in curve] == [step for step, _ in wanted]
        assert [y for _, y in curve] == pytest.approx([y for _, y in wanted], rel=1e-5)


def test_what_a_killed_training_logged_too_far_is_not_shown_twice(tmp_path):
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    for start, value in ((1, 1.0), (3, 2.0)):  # killed at 5, gone on with from a checkpoint at 2
        log = gl.callbacks.tensorboard(tmp_path, purge_step=start)
        for iteration in range(start, 6):
            log(None, {"iteration": iteration, "elbo": value})
        log.close()
    events = reader.EventAccumulator(str(tmp_path))
    events.Reload()
    assert [(p.step, p.value) for p in events.Scalars("elbo")] == [
        (1, 1.0), (2, 1.0), (3, 2.0), (4, 2.0), (5, 2.0),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "name, folder, message",
    [
        ("mlflow", "x", "track='mlflow' is unknown; allowed: tensorboard, wandb"),
        ("wandb", None, "track='wandb' needs a folder to write to: set out_dir"),
    ],
)
def test_bad_trackers_are_one_line(one_clear_error, wandb, name, folder, message):
    one_clear_error(lambda: gl.callbacks.named(name, folder), message)


def test_a_missing_package_is_one_line_before_anything_runs(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.setattr(sys, "argv", ["reproduce"])
    words = ["run", "--profile", "smoke", "--only", "task=25gmm", "--track", "wandb"]
    monkeypatch.setattr("reproduce.pool.run_all", lambda *a: pytest.fail("it ran"))
    ended = CliRunner().invoke(main, words)
    assert isinstance(ended.exception, BadInput)
    assert str(ended.exception) == "this callback needs wandb: pip install wandb"
    assert ended.output == ""


def test_all_notebooks_that_train_take_a_tracker(wandb):
    plain, tracked = chosen([], "smoke"), chosen([], "smoke", track="wandb")
    for one, other in zip(plain, tracked, strict=True):
        given = {"track": "wandb"} if isinstance(one.config, gl.Config) else {}
        assert "track" not in experiments.parameters(one) and other.folder == one.folder
        assert experiments.parameters(other) == experiments.parameters(one) | given
    assert len({run.notebook for run in tracked if run.track}) == 4
    untrained = next(run for run in tracked if not run.track)
    with pytest.raises(BadInput, match=f"{untrained.notebook} has no parameter 'track'"):
        experiments.check(replace(untrained, track="wandb"))


def test_a_job_of_a_cluster_is_tracked_too(tmp_path, wandb):
    (run,) = chosen(["task=25gmm", "method=TB+Expl"], "smoke", track="wandb")
    gl.write_json(tmp_path / "array.json", [submission.entry(run)])
    assert submission.read_manifest(tmp_path / "array.json") == [run] and run.track == "wandb"


def test_it_reaches_the_training_in_a_notebook(tmp_path, monkeypatch):
    """The notebook's own kernel finds a package `wandb` that writes down what it is told."""
    package = tmp_path / "packages" / "wandb"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(
        "import json, pathlib\n"
        "class Run:\n"
        "    def __init__(self, dir, id, **rest):\n"
        "        self.file = open(pathlib.Path(dir, id + '.txt'), 'w')\n"
        "    def log(self, values, step):\n"
        "        self.file.write(json.dumps([step, values['elbo']]) + '\\n')\n"
        "    def finish(self):\n"
        "        self.file.close()\n"
        "init = lambda **options: Run(**options)\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'packages'}:{':'.join(sys.path)}")
    monkeypatch.setattr(experiments, "RUNS", tmp_path / "runs")
    changes = {"steps": 3, "batch_size": 16, "iterations": 12}
    (run,) = experiments.load("smoke", [5], changes, ["task=25gmm", "method=TB+Expl"])
    assert runner.execute(replace(run, track="wandb")) == "done", runner.record_of(run.folder)
    logged = (run.folder / f"{run.name}-seed-5.txt").read_text().splitlines()
    kept = (run.folder / "seed-5" / "history.jsonl").read_text().splitlines()
    entries = [json.loads(line) for line in kept]
    assert [json.loads(line) for line in logged] == [[e["iteration"], e["elbo"]] for e in entries]
    notebook = jupytext.read(run.folder / "notebook.ipynb")
    assert notebook.metadata.papermill.parameters["track"] == "wandb"
