"""Annealing as a row of the ledger: its settings, what it keeps, and its runs."""

import json
import math

import pytest
import torch
from scipy.stats import t

import gfnlite as gl
from gfnlite.annealing import METHODS, Annealing, anneal, preset
from gfnlite.files import read_json
from reproduce import cost, display, experiments, report, runner

UNCONDITIONAL = [name for name in gl.TASKS if not name.startswith("vae")]


def test_presets_are_what_the_method_says():
    assert [preset("25gmm", method, "quick").resample for method in METHODS] == [False, True]
    for task in UNCONDITIONAL:
        for profile in gl.PROFILES:
            config = preset(task, "AIS+MALA", profile)
            reach = gl.TASKS[task]["sigma2"] + gl.TASKS[task]["exploration"]
            assert config.scale == math.sqrt(reach)
    smoke, full = (preset("25gmm", "SMC+MALA", profile) for profile in ("smoke", "full"))
    assert smoke.particles < full.particles and smoke.keep < full.keep
    assert preset("25gmm", "SMC+MALA", "full", keep=0.9, moves=None) == full.replace(keep=0.9)


@pytest.mark.parametrize("call, message", [
    (lambda: preset("vae", "AIS+MALA", "quick"), "task='vae' is unknown; allowed: 9gmm"),
    (lambda: preset("25gmm", "TB", "quick"), "method='TB' is unknown; allowed: AIS"),
    (lambda: preset("25gmm", "AIS+MALA", "fast"), "profile='fast' is unknown; allowed: smoke"),
    (lambda: Annealing(keep=1.0), "keep=1.0 must be at most 0.9999"),
    (lambda: Annealing(particles=1.5), "particles=1.5 has type float, must be int"),
    (lambda: Annealing().replace(steps=3), "unknown setting 'steps'; known: resample"),
    (lambda: anneal(lambda x: x, Annealing()), "must be a Target"),
])  # fmt: skip
def test_bad_input_is_one_clear_error(call, message, one_clear_error):
    one_clear_error(call, message)


@pytest.mark.parametrize("method", METHODS)
def test_metrics_are_those_of_a_sampler(tmp_path, method):
    config = preset("9gmm", method, "quick", particles=5000)
    found, evaluation = anneal(gl.gmm9, config, 3, tmp_path, "cpu")
    kept = json.loads((tmp_path / "metrics.json").read_text())
    sampler = gl.GFNDiffusion(gl.gmm9, iterations=1, batch_size=8, steps=2).fit(progress=False)
    like = set(gl.record(sampler, tmp_path / "sampler", 50))
    assert like - set(evaluation) == {"ess_forward", "mode_coverage"}
    assert set(report.METRICS) <= set(kept) and kept["seed"] == 3
    assert kept["modes"] == 9 == kept["n_modes"] and kept["eubo"] is None
    assert sum(kept["mode_weights"]) == pytest.approx(1)
    assert kept["delta_log_z_rw"] == -kept["log_z_is"]
    assert kept["energy_calls"] == found.energy_calls and kept["seconds"] > 0
    assert kept["w2"] < 3 * kept["w2_floor"]
    unknown = {kept[name] is None for name in ("ess", "elbo", "paper_elbo", "delta_log_z")}
    assert unknown == {config.resample}
    if not config.resample:
        assert kept["elbo"] < kept["log_z_is"] and 0 < kept["ess"] < 1
    (tmp_path / "metrics.json").write_text('{"kept": 1}')
    again, _ = anneal(gl.gmm9, config, 3, tmp_path, "cpu")
    assert torch.equal(again.x, found.x)
    assert (tmp_path / "metrics.json").read_text() == '{"kept": 1}'


@pytest.mark.parametrize("method", METHODS)
def test_log_z_is_right_to_its_measured_error(method):
    config = preset("9gmm", method, "quick", particles=2000)
    found = torch.tensor([anneal(gl.gmm9, config, s, device="cpu")[0].log_z for s in range(8)])
    # of so few runs; once in 10,000 times by chance
    error = t.ppf(1 - 0.5e-4, 7) * found.std().item() / math.sqrt(8)
    assert abs(found.mean().item() - gl.gmm9.log_z) < error
    assert abs(found.mean().item() - gl.gmm9.log_z - 0.3) > error  # the twin


def test_modes_are_counted_by_weight():
    """Two modes of equal width and unequal mass: the walk leaves as many particles in each."""
    target = gl.GMM([[-6.0], [6.0]], 0.5, weights=[0.8, 0.2])
    config = Annealing(resample=False, particles=20_000, scale=6.0, keep=0.9)
    found, evaluation = anneal(target, config, device="cpu")
    assert evaluation["mode_weights"] == pytest.approx([0.8, 0.2], abs=0.04)
    walk = target.modes_of(found.x).mean(0).tolist()
    assert walk != pytest.approx([0.8, 0.2], abs=0.04)


def test_what_does_not_arrive_is_said():
    nowhere = gl.targets.as_target(lambda x: x.square().sum(-1) + torch.inf, 2)
    with pytest.raises(FloatingPointError, match="particles=50, keep=0.9: they did not arrive"):
        anneal(nowhere, Annealing(particles=50, keep=0.9))


def test_the_experiments_are_all_tasks_without_a_condition():
    runs = [run for run in experiments.load("quick") if run.method in METHODS]
    tasks = {"easy_funnel"} | {run.task for run in runs}
    assert tasks == set(UNCONDITIONAL) and len(runs) == 2 * (len(tasks) - 1)
    assert all(run.config == preset(run.task, run.method, "quick") for run in runs)
    assert len({run.name for run in runs}) == len(runs)
    with pytest.raises(cost.Unknown, match="nothing is trained"):
        cost.estimated(runs[0], gpu=False)


def test_settings_need_to_be_of_the_chosen_runs_alone():
    samplers = experiments.load("quick", None, {"lr": 0.01}, ["task=25gmm", "method=TB"])
    assert [run.config.lr for run in samplers] == [0.01]
    only = ["task=25gmm", "method=AIS+MALA"]
    (annealed,) = experiments.load("quick", None, {"particles": 10}, only)
    assert annealed.config.particles == 10
    with pytest.raises(experiments.BadInput, match="unknown setting 'lr'; known: resample"):
        experiments.load("quick", None, {"lr": 0.01}, only)


def test_a_method_goes_with_a_notebook_that_runs_it():
    for method, notebook in (("TB", "14_classical_baselines"), ("AIS+MALA", "04_25gmm")):
        run = experiments.Run("25gmm", method, "smoke", (0,), notebook, {})
        with pytest.raises(experiments.BadInput, match=f"is not one that {notebook} runs"):
            experiments.check(run)


def test_the_notebook_runs_in_smoke(tmp_path, monkeypatch):
    monkeypatch.setattr(experiments, "RUNS", tmp_path)
    run = experiments.Run("manywell32", "AIS+MALA", "smoke", (0, 1), "14_classical_baselines", {})
    assert display.fraction_done(run) == 0
    assert runner.execute(run) == "done", (run.folder / "run.json").read_text()
    assert display.fraction_done(run) == 1
    (row,) = report.collect([])
    assert row["method"] == "AIS+MALA" and row["metrics"]["eubo"] is None
    assert len(row["metrics"]["elbo"]["values"]) == 2
    assert (run.folder / "samples.png").exists()
    # Begun anew, seeds that are done are left as they are.
    first, second = (run.folder / f"seed-{seed}" / "metrics.json" for seed in run.seeds)
    old = read_json(second)
    first.write_text('{"kept": 1}')
    second.unlink()
    assert runner.execute(run) == "done" and first.read_text() == '{"kept": 1}'
    again = read_json(second)
    assert again | {"seconds": 0} == old | {"seconds": 0}
    notebook = (run.folder / "notebook.ipynb").read_text()
    assert "<th>seed 1</th>" in notebook and "<th>seed 0</th>" not in notebook
