"""What a run will cost: measured, estimated, or unknown; and the device that was."""

import json
import shutil
from dataclasses import replace

import pytest

import gfnlite as gl
from reproduce import cost, experiments, report
from reproduce.experiments import BadInput, Run

RUN = Run("25gmm", "TB+Expl", "full", (0, 1, 2, 3, 4), "04_25gmm", {})


def committed():
    """(run, row) of every committed row of a run on one device that the benchmark speaks of."""
    found = []
    for path in sorted(report.FOLDER.glob("*.json")):
        if path.stem == "lgcp":  # is estimated from its own rows
            continue
        for row in json.loads(path.read_text()).get("rows", []):
            trained = row["method"] not in gl.annealing.METHODS
            if trained and row["seeds"] and " then " not in row["device"]:
                seeds = tuple(row["seeds"])
                run = Run(path.stem, row["method"], row["profile"], seeds, "04_25gmm", {})
                found.append(pytest.param(run, row, id=f"{path.stem} {run.method} {run.profile}"))
    return found


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """No run was made, one thread, no GPU, and results that a test may change."""
    monkeypatch.setattr(experiments, "RUNS", tmp_path / "runs")
    shutil.copytree(report.FOLDER, tmp_path / "results")
    monkeypatch.setattr(report, "FOLDER", tmp_path / "results")
    monkeypatch.setattr(cost.torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return tmp_path


# Trained while other programs shared two slow cores; to be timed again, with the same numbers.
BUSY = {
    ("manywell32", "FL-SubTB+LP", "full"): 3.0,
    ("25gmm", "TB+Expl+LS+Few", "full"): 6.0,
    ("25gmm", "MLE+LV+Std+Few", "full"): 7.0,
}


@pytest.mark.parametrize("run, row", committed())
def test_estimates_are_within_a_factor_of_two_of_what_was_measured(run, row):
    measured = row["metrics"]["seconds"]["mean"]
    seconds, source = cost.estimated(run, gpu=row["device"] != "cpu")
    factor = BUSY.get((run.task, run.method, run.profile), 2.0)
    assert measured / factor < seconds < measured * 2
    assert row["device"] in source and "estimated" in source


def test_what_was_measured_is_taken_and_says_on_what(here, monkeypatch):
    rows = json.loads((report.FOLDER / "25gmm.json").read_text())["rows"]
    on_gpu = [r for r in rows if r["seeds"] and r["device"].startswith("NVIDIA")]
    mixed, alone = (
        [r for r in on_gpu if (" then " in r["device"]) == moved] for moved in (True, False)
    )
    row = alone[0]
    run = replace(RUN, method=row["method"])
    # so on a CPU it says nothing
    assert cost.estimate(run).source.startswith("estimated from the benchmark on cpu")
    monkeypatch.setattr(cost.torch.cuda, "is_available", lambda: True)
    # nor does one that moved from a GPU to a CPU say what either takes
    moved = replace(RUN, method=mixed[0]["method"])
    assert cost.estimate(moved).source.startswith("estimated from other runs")
    found, each = cost.estimate(run), row["metrics"]["seconds"]["mean"]
    assert found == cost.Cost(each, 5 * each, f"measured on {row['device']}")
    # seeds that are done cost nothing more
    for seed in (0, 3):
        folder = run.folder / f"seed-{seed}"
        folder.mkdir(parents=True)
        (folder / "metrics.json").write_text("{}")
    assert cost.estimate(run).seconds == 3 * each == 3 * found.seconds_per_seed
    # with a setting changed it is another run
    assert cost.estimate(replace(run, overrides={"lr": 2e-3})).source.startswith("estimated")


def estimated(task="25gmm", method="TB+Expl", profile="full", **changes):
    return cost.estimate(Run(task, method, profile, (0,), "04_25gmm", changes)).seconds


def test_what_was_not_measured_scales_as_the_benchmark_does():
    usual = estimated(lr=2e-3)
    assert estimated(iterations=50_000) == pytest.approx(2 * usual)
    # the benchmark's own numbers, where it has them
    entries, _ = cost._entries("scaling", 1)
    for axis, setting, values in [
        ("steps", "steps", (10, 50, 200)), ("batch", "batch_size", (100, 3000)),
        ("hidden", "hidden", (32, 256)),
    ]:  # fmt: skip
        ours = {
            e["value"]: e["ours"]["median"]
            for e in entries
            if e["axis"] == axis and e["task"] == "25gmm"
        }
        for value in values:
            ratio = ours[value] / ours[cost.USUAL[axis]]
            assert estimated(**{setting: value}) == pytest.approx(ratio * usual)
    # a coarse part costs what so few steps do
    whole = estimated(profile="quick", coarse_steps=None)
    few = estimated(profile="quick", coarse_steps=None, steps=20)
    for share in (0.0, 0.3, 1.0):
        mixed = estimated(profile="quick", coarse_steps=20, coarse_fraction=share)
        assert mixed == pytest.approx(share * few + (1 - share) * whole)
    # between and beyond them it goes on
    assert usual < estimated(steps=150) < estimated(steps=200) < estimated(steps=400)
    assert estimated(steps=400) == pytest.approx(2 * estimated(steps=200), rel=0.1)


def test_a_dimension_far_from_the_benchmark_is_estimated_from_what_was_run(here):
    rows = json.loads((report.FOLDER / "lgcp.json").read_text())["rows"]
    (row,) = [r for r in rows if r["method"] == "TB+Expl+LP" and r["seeds"]]
    measured = row["metrics"]["seconds"]["mean"]
    again = estimated("lgcp", "TB+Expl+LP", "quick", iterations=2000)
    assert again == pytest.approx(2 * measured)
    # what a method adds, it adds as on Manywell
    more = [estimated(task, "TB+Expl+LP", iterations=100)
            / estimated(task, "TB+Expl", iterations=100)
            for task in ("lgcp", "manywell32")]  # fmt: skip
    assert more[0] == pytest.approx(more[1]) and more[0] > 1
    (here / "results/lgcp.json").unlink()
    found = cost.estimate(Run("lgcp", "TB+Expl", "full", (0,), "", {}))
    assert found.seconds is None and "dim=1600 is far from" in found.source


def test_every_method_of_every_task_is_estimated():
    for task in gl.TASKS:
        for method in gl.METHODS:
            for profile in gl.PROFILES:
                found = cost.estimate(Run(task, method, profile, (0,), "", {}))
                most = 24 if task != "lgcp" else 72
                assert 0 < found.seconds < most * 3600, (task, method, profile)
    # a dimension, the score and a search each cost more
    assert estimated("9gmm") < estimated("funnel") < estimated("manywell32")
    assert estimated("manywell32", iterations=100) < estimated(
        "manywell32", "TB+Expl+LP", iterations=100
    )
    assert estimated("25gmm", "TB+Expl+LS", ls_every=1) > 1.5 * estimated("25gmm", "TB+Expl+LS")


def test_nothing_to_estimate_from_is_unknown_and_says_why(here):
    far = cost.estimate(replace(RUN, overrides={"steps": 10_000}))
    assert far == cost.Cost(None, None, "unknown: steps=10000 is far from all that was measured")
    deep = cost.estimate(replace(RUN, overrides={"layers": 5}))
    assert deep == cost.Cost(None, None, "unknown: no benchmark varies layers=5")
    assert cost.estimate(replace(RUN, overrides={"hidden": 128})).seconds > 0
    (report.FOLDER / "bench/steps.json").unlink()
    (report.FOLDER / "25gmm.json").unlink()
    assert cost.estimate(RUN).source == "unknown: there is no steps.json of the benchmark"


def test_a_gpu_is_estimated_from_runs_on_a_gpu_only(here, monkeypatch):
    monkeypatch.setattr(cost.torch.cuda, "is_available", lambda: True)
    run = replace(RUN, overrides={"lr": 2e-3})
    source = cost.estimate(run).source
    assert source.startswith("estimated from other runs on NVIDIA")
    unknown = cost.estimate(replace(run, task="manywell64"))
    assert unknown.source == "unknown: no run of manywell64 was measured on a GPU alone"


def test_threads_choose_the_benchmark(monkeypatch):
    one = estimated(lr=2e-3)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    found = cost.estimate(replace(RUN, overrides={"lr": 2e-3}))
    assert found.seconds_per_seed < one and "2 threads" in found.source
    monkeypatch.setenv("OMP_NUM_THREADS", "all")
    with pytest.raises(BadInput, match="OMP_NUM_THREADS='all' must be an integer"):
        estimated(lr=2e-3)


@pytest.mark.parametrize(
    "seconds, text",
    [(None, "unknown"), (0, "0 s"), (0.2, "1 s"), (44.1, "45 s"), (59.5, "1 min"), (170, "3 min"),
     (3560, "59 min"), (3575, "1.0 h"), (7560, "2.1 h"), (302_400, "3.5 days")],
)  # fmt: skip
def test_seconds_for_people(seconds, text):
    assert cost.human(seconds) == text
