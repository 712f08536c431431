"""Files that were damaged: what is read of them is as it was, or is said to be damaged."""

import errno
import json

import pytest
import torch

import gfnlite as gl
from gfnlite import files
from gfnlite.files import read_json, write_json
from reproduce import experiments, report, runner, state
from reproduce.bench import faults, grid
from reproduce.reading import BadInput


@pytest.fixture
def kept():
    """Each kind of file, and how it is read."""
    with faults.elsewhere() as root:
        yield faults.files(root)


def test_no_damage_at_500_places_is_taken_for_a_result(kept, injected):
    injected("a flipped bit or a file cut short", sum(faults.PLACES.values()))
    assert set(kept) == set(faults.PLACES) and sum(faults.PLACES.values()) == 500
    for name, (path, read) in kept.items():
        found = faults.inject(path, read, faults.PLACES[name])
        assert found.total() == faults.PLACES[name] and found["lost"] == 0, (name, found)
        assert found["detected"] > found["harmless"]


def read_all(data):
    return {name: value for name, value in json.loads(data).items() if name != "sha256"}


def test_without_digests_and_checksums_it_would_be(kept, monkeypatch):
    """The twin: the same damage to the same files, read as they were read before."""
    monkeypatch.setattr(files, "opened", read_all)
    monkeypatch.setattr(files, "is_whole_zip", lambda data: True)

    for name in ("metrics.json", "results", "checkpoint.pt"):
        assert faults.inject(*kept[name], faults.PLACES[name])["lost"] > 5


def test_a_file_laid_out_anew_is_the_same_and_one_without_a_digest_is_taken(tmp_path):
    path, value = tmp_path / "a.json", {"elbo": -0.3, "name": "a b\u00e9\n", "rows": [{"x": None}]}
    write_json(path, value)
    assert read_json(path) == value
    sealed = json.loads(path.read_text())
    assert list(sealed) == [*value, "sha256"]
    for text in (json.dumps(sealed), path.read_text().replace("\n", "\r\n")):
        path.write_text(text)
        assert read_json(path) == value
    path.write_text(json.dumps(sealed | {"elbo": -0.7}))
    with pytest.raises(ValueError, match="a.json is damaged"):
        read_json(path)
    path.write_text(json.dumps(value))
    assert read_json(path) == value
    write_json(path, sealed | {"elbo": -0.7})  # written anew, it has a new digest
    assert read_json(path) == value | {"elbo": -0.7}
    write_json(path, [1, 2])
    assert json.loads(path.read_text()) == read_json(path) == [1, 2]


def test_a_damaged_checkpoint_is_named(tmp_path):
    path = tmp_path / "a.pt"
    sampler = gl.GFNDiffusion(gl.gmm9, config=gl.Config(steps=3, hidden=8), device="cpu")
    sampler.save(path)
    whole = path.read_bytes()
    weights = max(sampler.policy.state_dict().values(), key=torch.numel)
    at = whole.index(weights.numpy().tobytes())
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
    torch.load(path, weights_only=True)  # does not see it
    with pytest.raises(ValueError, match="a.pt is not a whole gfnlite checkpoint"):
        gl.GFNDiffusion.load(path)
    with pytest.raises(FileNotFoundError):
        gl.GFNDiffusion.load(tmp_path / "b.pt")


def test_a_damaged_result_stops_report_and_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "FOLDER", tmp_path)
    path = tmp_path / "25gmm.json"
    write_json(path, {"task": "25gmm", "rows": []})
    assert list(report.read_committed()) == ["25gmm"]
    path.write_text(path.read_text().replace("25gmm", "35gmm"))
    with pytest.raises(BadInput, match=r'25gmm.json is damaged: .* from git; .* "sha256" out'):
        report.read_committed()
    about = json.loads(path.read_text())
    del about["sha256"]
    path.write_text(json.dumps(about))
    assert report.read_committed()["25gmm"]["task"] == "35gmm"


# ---------------------------------------------------------------- late, and out of time


@pytest.fixture
def done(tmp_path, monkeypatch):
    """A finished run of three seeds."""
    monkeypatch.setattr(experiments, "RUNS", tmp_path)
    (run,) = experiments.load("quick", only=["task=25gmm", "method=TB"])
    grid.finish(run, run.folder, faults.random.Random(0))
    return run


def test_a_seed_that_a_network_shows_late_is_waited_for(done, monkeypatch, injected):
    injected("a network's disk that is late", 2)
    (row,) = report.collect([])
    assert row["seeds"] == [0, 1, 2]
    monkeypatch.setattr(report.os, "listdir", lambda folder: ["run.json"])  # of before it ran
    assert report.collect([]) == [row]
    late = done.folder / "seed-1/metrics.json"
    late.rename(done.folder / "late")
    notes = []
    assert report.collect(notes) == [] and "seed-1/metrics.json" in notes[0]
    assert runner.missing_seeds(done) == [1] and runner.why_not(done) is None
    (done.folder / "late").rename(late)
    assert report.collect([]) == [row]
    late.with_name("metrics.json").unlink()
    record = read_json(done.folder / "run.json") | {"seeds": [0, 2]}
    write_json(done.folder / "run.json", record)  # it was last run without that seed
    assert report.collect([])[0]["seeds"] == [0, 2]


@pytest.mark.parametrize("number, again", [(errno.ESTALE, True), (errno.EIO, False)])
def test_a_file_that_was_replaced_on_a_network_is_asked_for_again(
    tmp_path, monkeypatch, injected, number, again
):
    injected("a disk that does not answer")
    write_json(tmp_path / "a.json", {"x": 1})
    failures = [OSError(number, "failed")]

    def opening(*words):
        if failures:
            raise failures.pop()
        return open(*words)

    monkeypatch.setattr(files, "open", opening, raising=False)
    if again:
        assert read_json(tmp_path / "a.json") == {"x": 1}
    else:
        with pytest.raises(OSError, match="failed"):
            read_json(tmp_path / "a.json")


@pytest.mark.parametrize("started", ["1999-01-01T00:00:00+00:00", "2999-01-01T00:00:00+00:00"])
def test_a_clock_that_was_set_changes_no_state(done, monkeypatch, injected, started):
    injected("a clock that jumps")
    record = read_json(done.folder / "run.json")
    write_json(done.folder / "run.json", record | {"started": started})
    assert runner.finished(done) and state.standing(done).elapsed == record["wall_seconds"]
    write_json(done.folder / "run.json", record | {"started": started, "status": "running"})
    assert runner.status(done) == "interrupted"  # nobody holds its lock, whatever the time is
    monkeypatch.setattr(runner, "is_locked", lambda folder: True)
    assert state.standing(done).state == "running" and state.standing(done).elapsed >= 0


@pytest.mark.parametrize("number", [errno.EIO, errno.EMFILE, errno.EACCES])
def test_a_disk_that_does_not_answer_condemns_no_file(tmp_path, monkeypatch, injected, number):
    injected("a disk that does not answer")
    path, sampler = tmp_path / "a.pt", gl.GFNDiffusion(gl.gmm9, steps=3, hidden=8, device="cpu")
    sampler.save(path)
    assert files.is_whole_zip(path.read_bytes())

    def refuse(path):
        raise OSError(number, "no answer", str(path))

    monkeypatch.setattr(files, "_read", refuse)
    for question in (gl.GFNDiffusion.load, runner._has_metrics):
        with pytest.raises(OSError, match="no answer"):
            question(path)
