"""Data and energy on one network: cells are measured once, and the committed ones are all."""

import json
import math
from statistics import fmean, stdev

import pytest
import torch

import gfnlite as gl
from reproduce.bench import joint_study


def test_measuring_goes_on_where_it_stopped(tmp_path, monkeypatch):
    path, measured = tmp_path / "joint.json", []

    def measure(data, weight):
        measured.append((data, weight))
        return {"seconds": 1.0, "metrics": {}}

    monkeypatch.setattr(joint_study, "measure", measure)
    joint_study.run(joint_study.CELLS[:2], path)
    joint_study.run(joint_study.CELLS[:3], path)
    assert measured == [(data, joint_study.WEIGHTS[w]) for data, w in joint_study.CELLS[:3]]
    assert sum(map(len, joint_study.load(path).values())) == 3
    with pytest.raises(ValueError, match="is of settings"):
        joint_study.run(joint_study.CELLS[:4], path, lr=0.1)


def test_the_data_lack_what_they_should():
    blind, few = map(joint_study.data_of, joint_study.DATA)
    found = gl.gmm25.modes_of(blind).mean(0)
    assert (found[list(joint_study.MISSING)] == 0).all() and (found > 0.03).sum() == 20
    assert few.shape == (100, 2) and len(gl.gmm25.modes_of(few).argmax(1).unique()) > 20


@pytest.mark.parametrize("weight", [0.0, 0.5, math.inf])
def test_a_cell_is_trained_and_measured(weight):
    small = {"iterations": 3, "steps": 5, "batch_size": 8, "hidden": 8}
    row = joint_study.measure("100 points", weight, seeds=2, n=100, **small)
    assert all(len(values) == 2 for values in row["metrics"].values())
    assert all(0 <= share <= 1 for share in row["metrics"]["missing"])


@pytest.mark.parametrize("data, weight", joint_study.CELLS)
def test_each_committed_cell_is_whole(data, weight):
    metrics = joint_study.load()[data][weight]["metrics"]
    values = {name: torch.tensor(found).float() for name, found in metrics.items()}
    assert all(len(found) == joint_study.SEEDS for found in values.values())
    # log Z = 0 lies between the bounds, within what 20,000 samples leave open
    assert (values["elbo"] < 0.05).all() and (values["eubo"] > -0.05).all()


def test_the_committed_cells_are_of_these_settings_and_say_what_the_chapter_says():
    about = json.loads(joint_study.RESULTS.read_text())
    assert about["settings"] == joint_study.SETTINGS
    assert about["missing"] == list(joint_study.MISSING)
    blind, few = (about["cells"][data] for data in joint_study.DATA)

    def of(cells, weight, name):
        return cells[weight]["metrics"][name]

    # blind: next to nothing, about the right share and every mode, about twice too much
    assert max(of(blind, "0.01", "missing")) < 0.03
    assert set(of(blind, "0.1", "modes")) == {25}
    assert fmean(of(blind, "0.1", "missing")) == pytest.approx(0.2, abs=0.05)
    assert min(blind, key=lambda weight: fmean(of(blind, weight, "eubo"))) == "0.1"
    assert min(of(blind, "1", "missing")) > 0.25 and fmean(of(blind, "1", "missing")) > 0.35
    spread = {weight: stdev(of(blind, weight, "modes")) for weight in blind}
    assert max(spread, key=spread.get) == "energy alone"
    assert blind["energy alone"]["metrics"] == few["energy alone"]["metrics"]
    # few: every mode from the start; shares go off as the weight grows
    assert set(of(few, "0", "modes")) == {25}
    shares = [of(few, weight, "missing") for weight in ("0", "0.01", "0.1", "1")]
    assert all(fmean(a) < fmean(b) for a, b in zip(shares, shares[1:], strict=False))
    assert max(shares[0]) < min(shares[2])
    gap = {
        weight: fmean(of(few, weight, "eubo")) - fmean(of(few, weight, "elbo")) for weight in few
    }
    assert gap["0.01"] < gap["0"]
    assert fmean(of(few, "0.01", "w2")) > fmean(of(few, "0", "w2")) - 0.1
