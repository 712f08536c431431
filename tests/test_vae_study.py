"""What made the sampler of posteriors good: cells are measured once, the committed ones are all."""

import json

import pytest

import gfnlite as gl
from reproduce.bench import vae_study


def test_measuring_goes_on_where_it_stopped(tmp_path, monkeypatch):
    path, measured = tmp_path / "study.json", []

    def measure(changes):
        measured.append(changes)
        gap = {"mean": 1.0, "half_width": 0.1}
        names = ("elbo", "gap_elbo", "gap_bound_100", "gap_eubo")
        return {"iterations": 3, "seconds": 1.0, "metrics": dict.fromkeys(names, gap)}

    monkeypatch.setattr(vae_study, "measure", measure)
    names = list(vae_study.CELLS)
    vae_study.run(names[:2], path)
    vae_study.run(names[:3], path)
    assert measured == [vae_study.CELLS[name] for name in names[:3]]
    assert list(vae_study.load(path)) == names[:3]


@pytest.mark.parametrize("name", vae_study.CELLS)
def test_each_cell_is_measured_and_is_what_it_says(name):
    cell = vae_study.load()[name]
    assert cell["changes"] == vae_study.CELLS[name]
    changes = {key: value for key, value in cell["changes"].items() if key != "whitened"}
    gl.Config(**(vae_study.BEST | changes))  # raises if that is not allowed
    assert cell["seconds"] == pytest.approx(vae_study.SECONDS, rel=0.15)
    gaps = {key: cell["metrics"][f"gap_{key}"] for key in ("elbo", "bound_100", "eubo")}
    assert gaps["elbo"]["mean"] > gaps["bound_100"]["mean"] > 0 < gaps["eubo"]["mean"]
    truth, elbo = (cell["metrics"][key]["mean"] for key in ("log_z", "elbo"))
    assert truth - elbo == pytest.approx(gaps["elbo"]["mean"])


def test_the_committed_study_says_what_the_chapter_says():
    """Coordinates, then gradient, then objective; all else is within half a nat."""
    cells = vae_study.load()
    gap = {name: cell["metrics"]["gap_elbo"]["mean"] for name, cell in cells.items()}
    order = ("in the latent itself", "no gradient of the energy", "TB and a network for log Z(x)")
    first, second, third = (gap[name] for name in order)
    assert first > second > third > gap["the best"] + 1
    others = ("fixed variance", "10 steps", "exploration 0.5", "2 trajectories an image")
    assert all(abs(gap[name] - gap["the best"]) < 0.5 for name in others)
    about = json.loads(vae_study.RESULTS.read_text())
    assert about["best"] == vae_study.BEST and about["threads"] == 1
