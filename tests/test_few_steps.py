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
    assert {name for name in plain if plain[name] != few[name]} <= COARSE
    wanted = EXTRAS["Few"] | EXCEPTIONS[profile].get("Few", {})
    assert set(wanted) == COARSE and {name: few[name] for name in COARSE} == wanted
    assert few["coarse_steps"] < few["steps"] and 0 < few["coarse_fraction"] < 1


@pytest.mark.parametrize("profile", ["smoke", "full"])
def test_without_the_suffix_only_quick_trains_on_few(profile):
    for task, method in itertools.product(gl.TASKS, gl.METHODS):
        config = gl.preset(task, method, profile)
        assert config.coarse_steps is None
        few = gl.preset(task, method + SUFFIX, profile)
        assert few.coarse_steps and few.replace(**{n: getattr(config, n) for n in COARSE}) == config


@pytest.mark.parametrize("method", ["+Few", "TB+Few+Few", "TB+Few+Expl", "TB+few", "Few", "TBFew"])
def test_an_unknown_method_is_one_clear_error(method, one_clear_error):
    message = rf"method='{method}' is unknown; allowed: PIS, .*each may end in \+Few".replace(
        f"'{method}'", "'" + method.replace("+", r"\+") + "'"
    )
    one_clear_error(lambda: gl.preset("25gmm", method, "full"), message)


def test_a_sampler_trains_on_few_steps_and_then_on_all(monkeypatch):
    lengths = []
    sampler = gl.GFNDiffusion(gl.gmm25, config=gl.preset("25gmm", "TB+Few", "smoke"))
    rollout = gl.step.Team.rollout

    def spy(team, t, *args, **kwargs):
        lengths.append(len(t) - 1)
        return rollout(team, t, *args, **kwargs)

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
