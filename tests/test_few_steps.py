"""Few random steps: "+Few" changes what it says and nothing else, and the measurements bear it."""

import dataclasses
import itertools
import json
import math

import pytest
import torch

import gfnlite as gl
from gfnlite.presets import EXCEPTIONS, EXTRAS, SUFFIX
from reproduce import experiments
from reproduce.bench import few_steps

COARSE = {"coarse_steps", "coarse_fraction"}
ALL = list(itertools.product(gl.TASKS, gl.METHODS, gl.PROFILES))


def settings(task, method, profile):
    return dataclasses.asdict(gl.preset(task, method, profile))


# ---------------------------------------------------------------- the suffix


@pytest.mark.parametrize("task, method, profile", ALL)
def test_the_suffix_changes_the_grids_and_nothing_else(task, method, profile):
    plain, few = (settings(task, method + end, profile) for end in ("", SUFFIX))
    if profile == "quick":  # which trains on few steps anyway
        wanted = EXTRAS["Few"] | EXCEPTIONS["quick"].get(task, {})
        assert plain == few and plain["coarse_steps"] == wanted["coarse_steps"]
        return
    assert plain["coarse_steps"] is None
    assert {name for name in plain if plain[name] != few[name]} <= COARSE
    wanted = EXTRAS["Few"] | EXCEPTIONS[profile].get("Few", {})
    assert set(wanted) == COARSE and {name: few[name] for name in COARSE} == wanted
    assert few["coarse_steps"] < few["steps"] and 0 < few["coarse_fraction"] < 1


@pytest.mark.parametrize("method", ["+Few", "TB+Few+Few", "TB+Few+Expl", "TB+few", "Few", "TBFew"])
def test_an_unknown_method_is_one_clear_error(method, one_clear_error):
    message = (
        rf"method='{method}' is unknown; allowed: DIS, DDS, PIS, .*each may end in \+Few".replace(
            f"'{method}'", "'" + method.replace("+", r"\+") + "'"
        )
    )
    one_clear_error(lambda: gl.preset("25gmm", method, "full"), message)


def test_a_sampler_trains_on_few_steps_and_then_on_all(monkeypatch):
    lengths = []
    sampler = gl.GFNDiffusion(gl.gmm25, config=gl.preset("25gmm", "TB+Expl+Few", "smoke"))
    rollout = gl.step.Team.rollout

    def spy(*args, **kwargs):
        trajectory = rollout(*args, **kwargs)
        lengths.append(len(trajectory.x) - 1)
        return trajectory

    monkeypatch.setattr(gl.step.Team, "rollout", spy)
    sampler.fit(progress=False)
    assert lengths == [5] * 32 + [10] * 8


def test_a_method_on_few_steps_can_be_a_row_of_an_experiment(tmp_path, monkeypatch):
    data = {"task": "25gmm", "notebook": "04_25gmm", "methods": ["TB+Expl", "TB+Expl+Few"],
            "seeds": {"full": [0, 1]}}  # fmt: skip
    (tmp_path / "25gmm.yaml").write_text(json.dumps(data))
    monkeypatch.setattr(experiments, "FOLDER", tmp_path)
    plain, few = experiments.load("full")
    assert few.config == gl.preset("25gmm", "TB+Expl+Few", "full") != plain.config
    assert few.name.startswith("25gmm-TB+Expl+Few-full-")
    assert experiments.select([plain, few], ["method=TB+Expl+Few"]) == [few]


# ---------------------------------------------------------------- the measurements


def test_measuring_goes_on_where_it_stopped(tmp_path):
    path, cells = tmp_path / "few.json", few_steps.CELLS[:4]
    measured = []

    def measure(cell):
        if len(measured) == 2:
            measured.append("stopped")
            raise KeyboardInterrupt
        measured.append(cell)
        return few_steps.measure(dataclasses.replace(cell, iterations=2), 2, 50) | {
            "iterations": cell.iterations
        }

    with pytest.raises(KeyboardInterrupt):
        few_steps.run(cells, path, measure, say=lambda line: None)
    few_steps.run(cells, path, measure, say=lambda line: None)
    assert measured == [*cells[:2], "stopped", *cells[2:]]
    assert [row["coarse_steps"] for row in few_steps.load(path)] == [c.coarse_steps for c in cells]


def test_every_cell_has_been_measured_with_three_seeds():
    rows = few_steps.load()
    keys = [field.name for field in dataclasses.fields(few_steps.Cell)]
    found = [few_steps.Cell(*(row[key] for key in keys)) for row in rows]
    assert len(found) == len(set(found)) and set(found) == set(few_steps.CELLS)
    for row in rows:
        assert row["seeds"] == [0, 1, 2] and row["method"] in gl.METHODS
        assert 0 <= row["setup_seconds"] < row["seconds"]
        for name, summary in row["metrics"].items():
            values = torch.tensor(summary["values"], dtype=torch.float64)
            assert len(values) == 3 and values.isfinite().all(), name
            assert summary["mean"] == pytest.approx(values.mean().item())
            assert summary["std"] == pytest.approx(values.std().item())
        gaps = zip(*(row["metrics"][n]["values"] for n in ("elbo_gap", "eubo_gap")), strict=True)
        for gap, (below, above) in zip(row["metrics"]["gap"]["values"], gaps, strict=True):
            assert math.isclose(gap, below + above) and gap > 0


def test_the_presets_are_what_was_measured_to_be_best():
    steps, fraction = few_steps.best()
    assert EXTRAS["Few"] == {"coarse_steps": steps, "coarse_fraction": fraction}
    quick = gl.preset("25gmm", few_steps.METHODS["25gmm"], "quick")
    assert (quick.coarse_steps, quick.coarse_fraction) == (steps, fraction)
    assert quick == gl.GFNDiffusion(gl.gmm25, steps=quick.steps).config  # who sets little has it
    assert gl.GFNDiffusion(gl.gmm25).config.coarse_steps == steps  # and who sets nothing


def test_quick_trains_manywell_on_what_is_best_in_its_time():
    quick = gl.preset("manywell32", few_steps.METHODS["manywell32"], "quick")
    rows = [row for row in few_steps.load() if row["task"] == "manywell32"]
    usual = next(row for row in rows if (row["coarse_steps"], row["coarse_fraction"]) == (20, 0.8))
    rows = [row for row in rows if row["study"] == "seconds"]
    best = min(rows, key=lambda row: row["metrics"]["gap"]["mean"])
    assert {name: getattr(quick, name) for name in COARSE} == {name: best[name] for name in COARSE}
    # as many as take the time of 4000 with the usual choice
    assert quick.iterations == 4000 * best["iterations"] / usual["iterations"]
    assert best["seconds"] < 1.1 * usual["seconds"]
    assert max(best["metrics"]["gap"]["values"]) < min(usual["metrics"]["gap"]["values"])


def test_best_sees_what_is_cheaper_and_what_is_worse():
    def cell(task, steps, seconds, gap):
        choice = {"coarse_steps": steps, "coarse_fraction": 0.8 if steps else 0.0}
        result = {"seconds": seconds, "metrics": {"gap": {"mean": gap}}}
        return {"study": "iterations", "task": task} | choice | result

    rows = [
        cell("a", None, 60, 1.0), cell("a", 50, 40, 1.1), cell("a", 20, 20, 1.1),
        cell("b", None, 90, 2.0), cell("b", 50, 60, 2.0), cell("b", 20, 30, 3.0),
    ]  # fmt: skip
    assert few_steps.best(rows) == (50, 0.8)  # 20 steps are good in one task only
    assert few_steps.best(rows, tolerance=0.5) == (20, 0.8)
    assert few_steps.best(rows, tolerance=0.01) == (None, 0.0)


def test_few_steps_save_more_than_half_and_lose_little():
    rows = {(row["task"], row["study"], row["coarse_steps"], row["coarse_fraction"]): row
            for row in few_steps.load()}  # fmt: skip
    for task in few_steps.METHODS:
        few, fine = rows[task, "iterations", 20, 0.8], rows[task, "iterations", None, 0.0]
        assert few["seconds"] < 0.45 * fine["seconds"]
        if "modes" in few["metrics"]:
            assert few["metrics"]["modes"]["values"] == 3 * [few["n_modes"]]
        if short := rows.get((task, "seconds", None, 0.0)):
            assert few["metrics"]["gap"]["mean"] < 0.8 * short["metrics"]["gap"]["mean"]
