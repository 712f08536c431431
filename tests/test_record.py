"""record: one evaluation kept once, with the paper's cells from samples of their own."""

import json

import pytest

import gfnlite as gl

SMALL = {"steps": 5, "device": "cpu"}


def kept(folder):
    return json.loads((folder / "metrics.json").read_text())


def test_a_sampler_that_knows_the_answer_has_it_in_its_file(tmp_path):
    # The untrained pinned process ends in N(0, sigma^2 I): on that target log w is log Z.
    target = gl.Gaussian([0.0, 0.0], 2.0)
    sampler = gl.GFNDiffusion(target, sigma2=4.0, seed=3, **SMALL)
    evaluation = gl.record(sampler, tmp_path, 400, 100)
    metrics = kept(tmp_path)
    for key in ("elbo", "eubo", "log_z_is", "paper_elbo", "paper_log_z_is"):
        assert metrics[key] == pytest.approx(target.log_z, abs=1e-5)
    assert metrics["delta_log_z"] == pytest.approx(0, abs=1e-5)
    assert metrics["delta_log_z_rw"] == pytest.approx(0, abs=1e-5)
    assert (metrics["true_log_z"], metrics["seed"], metrics["seconds"]) == (target.log_z, 3, 0.0)
    assert evaluation["n_samples"] == 400 and evaluation == sampler.evaluate(400, seed=3)


def test_the_papers_cells_are_of_other_and_fewer_samples(tmp_path):
    sampler = gl.GFNDiffusion(gl.gmm25, **SMALL, seed=1)
    gl.record(sampler, tmp_path, 500, 300)
    paper, metrics = sampler.evaluate(300, seed=1001), kept(tmp_path)
    assert metrics["delta_log_z"] == -paper["elbo"] != -metrics["elbo"]
    assert metrics["delta_log_z_rw"] == -paper["log_z_is"] and metrics["w2"] == paper["w2"]
    assert metrics["n_modes"] == 25 and len(metrics["mode_weights"]) == 25

    again = gl.record(sampler, tmp_path / "few", 200)  # never more than the evaluation has
    assert again["n_samples"] == 200
    assert kept(tmp_path / "few")["w2"] == sampler.evaluate(200, seed=1001)["w2"]


def test_an_error_keeps_its_sign(tmp_path):
    for sign in (1, -1):
        known = gl.Gaussian([0.0, 0.0], 2.0)
        known.log_z += sign  # what a wrong truth would show: an error of this sign
        sampler = gl.GFNDiffusion(known, sigma2=4.0, **SMALL)
        gl.record(sampler, tmp_path / str(sign), 200)
        assert kept(tmp_path / str(sign))["delta_log_z_rw"] == pytest.approx(sign, abs=1e-5)


def test_what_the_target_does_not_know_is_none(tmp_path):
    sampler = gl.GFNDiffusion(lambda x: x.square().sum(-1), dim=2, **SMALL)
    gl.record(sampler, tmp_path, 50)
    metrics = kept(tmp_path)
    unknown = "true_log_z delta_log_z delta_log_z_rw w2 w2_floor eubo modes n_modes mode_weights"
    assert {metrics[key] for key in unknown.split()} == {None}
    assert metrics["elbo"] < metrics["log_z_is"]


def test_a_finished_file_stays_and_no_folder_writes_nothing(tmp_path):
    sampler = gl.GFNDiffusion(gl.gmm9, **SMALL)
    (tmp_path / "metrics.json").write_text("{}")
    evaluation = gl.record(sampler, tmp_path, 100)
    assert kept(tmp_path) == {} and evaluation["modes"] is not None
    assert gl.record(sampler, None, 100) == evaluation
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.json"]
