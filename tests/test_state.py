"""Where runs stand, what `clean` removes, and what damaged files are taken for."""

import json
import multiprocessing
import time
from dataclasses import asdict, replace
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

import gfnlite as gl
from reproduce import cli_runs, cli_slurm, experiments, lock, report, runner, slurm, state
from reproduce.__main__ import main
from reproduce.experiments import BadInput
from reproduce.lock import is_locked, locked

EXPERIMENT = {
    "task": "25gmm",
    "notebook": "fake",
    "methods": ["TB", "TB+Expl"],
    "seeds": {"smoke": [0], "quick": [0, 1], "full": [0, 1]},
}


@pytest.fixture
def house(build_house, monkeypatch):
    """A copy of the repository's shape, on a machine without Slurm."""
    monkeypatch.setenv("PATH", "")
    return build_house(EXPERIMENT, "pass\n")


def runs(profile="quick", **kwargs):
    return experiments.load(profile, **kwargs)


def made(run, status="done", **record):
    """The folder that a run leaves."""
    about = {name: getattr(run, name) for name in "task method profile notebook overrides".split()}
    gl.write_json(run.folder / "config.json", about | {"config": asdict(run.config)})
    gl.write_json(run.folder / "run.json", {"status": status, "cause": None} | record)
    for seed in run.seeds if status == "done" else ():
        gl.write_json(run.folder / f"seed-{seed}" / "metrics.json", {})
    return run


def otherwise(run, **changes):
    """Have the run's record say that some settings were others."""
    path = run.folder / "config.json"
    about = json.loads(path.read_text())
    about["config"] |= changes
    gl.write_json(path, about)
    return run


def told(*words):
    return CliRunner().invoke(main, words)


def names(kinds):
    return {folder.name for folder in state.removable(set(kinds))}


# ---------------------------------------------------------------- stale, and clean


def test_clean_keeps_what_is_finished_whether_an_experiment_names_it_or_not(house):
    listed, changed = made(runs()[0]), made(runs(overrides={"steps": 50})[0])
    # `train --energy easy_funnel` has no overrides, and no YAML has its task
    unlisted = made(replace(runs()[0], task="easy_funnel"))
    smoke, failed, cut = (
        made(runs("smoke")[0]),
        made(runs()[1], "failed"),
        made(runs("full")[0], "interrupted"),
    )
    stale = otherwise(made(runs("full")[1]), lr=0.5)
    gone = made(replace(runs()[0], task="9gmm"))
    about = json.loads((gone.folder / "config.json").read_text()) | {"method": "TB-of-old"}
    gl.write_json(gone.folder / "config.json", about)
    assert names(["stale"]) == {stale.name, gone.name}
    assert names(["failed"]) == {failed.name}
    assert names(["interrupted"]) == {cut.name}
    assert names(["smoke"]) == {smoke.name}

    assert told("clean").output.endswith("say --yes to do it\n")
    assert stale.folder.exists() and failed.folder.exists()
    told("clean", "--yes")
    left = {folder.name for folder in experiments.RUNS.iterdir()}
    assert left == {run.name for run in (listed, changed, unlisted, smoke, cut)}
    assert told("clean", "--yes").output == "nothing to remove\n"


def test_clean_keeps_what_slurm_has(house, monkeypatch):
    failed = made(runs()[0], "failed")
    monkeypatch.setattr(state, "queue", lambda strict: {failed.name: slurm.Queued(False, "")})
    assert names(["failed"]) == set()
    monkeypatch.setattr(state, "queue", lambda strict: {})
    assert names(["failed"]) == {failed.name}


def silent(*words, **_):
    raise BadInput(f"{words[0]}: timed out")


def test_what_needs_the_queue_asks_until_it_answers(house, monkeypatch):
    made(runs()[0], "failed")
    monkeypatch.setattr(slurm, "slurm", silent)
    for words in (["clean", "--yes"], ["submit"]):
        error = told(*words).exception
        assert isinstance(error, BadInput) and str(error) == "squeue: timed out"
    assert runs()[0].folder.exists() and not (experiments.RUNS / ".slurm").exists()
    assert "failed" in told("status").output  # which only shows
    assert "task 1: " in told("submit", "--dry-run").output


def test_clean_looks_again_before_it_removes(house):
    run = made(runs()[0], "failed")
    with locked(run.folder):
        assert not state.remove(run.folder, {"failed"})
    made(run, "done")  # somebody has finished it since it was listed
    assert not state.remove(run.folder, {"failed"}) and run.folder.exists()
    made(run, "running")  # its process is no more
    assert state.remove(run.folder, {"interrupted"}) and not run.folder.exists()


def test_a_stale_run_is_named_and_not_mixed(house, monkeypatch):
    stale, other = otherwise(made(runs()[0]), lr=0.5), made(runs()[1])
    assert runner.status(stale) == "stale" == state.standing(stale).state
    assert not runner.finished(stale) and runner.finished(other)
    words = f"{stale.name}: stale: made with other settings; `clean --what stale` removes it"
    monkeypatch.setattr(cli_runs.pool, "run_all", lambda runs, *_: dict.fromkeys(runs, "done"))
    ended = told("run", "--seeds", "0,1,2", "--only", "method=TB")
    assert ended.output == words + "\n" and ended.exit_code == 1
    assert words.partition(": ")[2] in told("run", "--dry-run").output
    assert told("submit").output.splitlines() == [
        words,
        f"{other.name}: done already",
        "nothing to submit",
    ]
    with pytest.raises(BadInput, match="stale: made with other settings"):
        cli_slurm.carry_out(stale)
    notes = []
    report.collect(notes)
    assert sum("settings that have changed since" in note for note in notes) == 1
    told("clean", "--what", "stale", "--yes")
    assert runner.status(stale) == "missing" and runner.finished(other)


def test_a_new_setting_and_another_version_make_nothing_stale(house):
    run = made(runs()[0], versions={"gfnlite": "0.0.1"})
    path = run.folder / "config.json"
    about = json.loads(path.read_text())
    del about["config"]["hidden"]  # it did not exist then
    gl.write_json(path, about)
    assert runner.finished(run)


# ---------------------------------------------------------------- locks


def test_a_run_that_ends_between_two_looks_is_done(house, monkeypatch):
    run = made(runs()[0], "running")

    def ends(folder):
        made(run, "done")
        return False

    monkeypatch.setattr(runner, "is_locked", ends)
    assert runner.status(run) == "done"


def look(folder, until, seen):
    while time.monotonic() < until:
        seen.value += is_locked(folder)


def test_those_who_look_do_not_see_each_other(tmp_path):
    with locked(tmp_path):
        assert is_locked(tmp_path)
    context = multiprocessing.get_context("fork")
    seen, until = context.Value("i", 0), time.monotonic() + 1
    lookers = [context.Process(target=look, args=(tmp_path, until, seen)) for _ in range(2)]
    for looker in lookers:
        looker.start()
    for looker in lookers:
        looker.join()
    assert seen.value == 0
    with open(tmp_path / lock.NAME) as one:  # the same without luck
        lock.fcntl.flock(one, lock.fcntl.LOCK_SH)
        assert not is_locked(tmp_path)


# ---------------------------------------------------------------- damage

RECORDS = {
    "null": {"status": None},
    "word": {"status": "perhaps"},
    "list": [1],
    "types": {"status": "done", "cause": 3, "versions": None, "wall_seconds": "long"},
    "running": {"status": "running", "slurm": [1], "started": "2000-01-01"},
    "commits": {"status": "failed", "commits": {"0": 3}, "traceback": 3, "cause": "[red]\\[x"},
}


@pytest.mark.parametrize("name", RECORDS)
def test_a_damaged_record_is_shown_and_not_raised(house, name):
    run = made(runs()[0])
    gl.write_json(run.folder / "run.json", RECORDS[name])
    for folder in ("seed-x", "seed-7"):
        (run.folder / folder).mkdir()
    (run.folder / "seed-7/history.jsonl").write_text('3\n{"iteration": 1, "elbo": "x"}\n')
    (run.folder / "seed-1/metrics.json").unlink()
    (run.folder / "seed-1/history.jsonl").write_text('{"elbo": 1.0}\n')
    gl.write_json(run.folder / "config.json", {"overrides": [1], "config": 3})
    unreadable = name in ("null", "word", "list")
    assert (runner.status(run) == "unreadable") == unreadable
    for words in (["status"], ["list"], ["show", run.name]):
        ended = told(*words)
        assert ended.exit_code == 0, ended.exception
    if name == "commits":
        assert "[red]\\[x" in told("status").output


def test_damage_in_what_was_submitted_hides_nothing_else(house, monkeypatch):
    told_by = "7|0|PENDING|(Priority)\n8|0|RUNNING|n1\n8|1|RUNNING|n1\n"
    monkeypatch.setattr(slurm, "slurm", lambda *_, **__: told_by)
    folder, run = experiments.RUNS / ".slurm", runs()[0]
    entry = asdict(run) | {"name": run.name}
    gl.write_json(folder / "1/submitted.json", [1, 2])
    gl.write_json(folder / "2/submitted.json", {"array-0": "7", "collect": None, "x": ["8"]})
    gl.write_json(folder / "2/array-0.json", [{}])
    gl.write_json(folder / "3/submitted.json", {"array-0": "8"})
    gl.write_json(folder / "3/array-0.json", [entry | {"seeds": 3}, entry])
    assert list(slurm.queue()) == [run.name]
    assert slurm.cancel(only=["method=TB"]) == [f"8_1 {run.name}"]


@pytest.mark.parametrize("data", [b"published: 2026-99-99\n", b"task: \xff\xfe\n"])
def test_yaml_that_is_none_is_one_line(house, data):
    (house / "reproduce/experiments/fake.yaml").write_bytes(data)
    with pytest.raises(BadInput, match="^fake.yaml: not valid YAML$"):
        runs()
    reasons = house / "reproduce/reasons.yaml"
    reasons.write_bytes(data)
    with pytest.raises(BadInput, match="^reasons.yaml: not valid YAML$"):
        report.reasons.read(reasons)


# ---------------------------------------------------------------- restarts


def test_a_run_that_gets_no_further_is_not_queued_for_ever(house, monkeypatch):
    run, asked = runs()[0], []
    monkeypatch.setattr(slurm, "requeue", lambda: asked.append(1) or True)
    history = run.folder / "seed-0/history.jsonl"
    iterations = iter([1, 1, 2, 2, 2])

    def interrupted(run, *_):
        made(run, "interrupted", cause="told that its time is nearly up")
        history.parent.mkdir(exist_ok=True)
        history.write_text(json.dumps({"iteration": next(iterations)}))
        return "interrupted"

    monkeypatch.setattr(cli_slurm.runner, "execute", interrupted)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    for restarts in range(4):  # further, not (but it is early), further, not
        monkeypatch.setenv("SLURM_RESTART_COUNT", str(restarts))
        if restarts < 3:
            cli_slurm.carry_out(run)
        else:
            with pytest.raises(SystemExit) as ended:
                cli_slurm.carry_out(run)
    assert len(asked) == 3 and ended.value.code == 1


@pytest.mark.parametrize("failures", [0, 2, 3])
def test_a_requeue_is_asked_for_three_times(monkeypatch, failures):
    asked = []

    def run(words, timeout=None, **_):
        asked.append(words[0])
        assert timeout == slurm.PATIENCE
        if asked.count(words[0]) <= failures:
            raise slurm.subprocess.TimeoutExpired(words, timeout)
        return SimpleNamespace(returncode=0, stdout="RUNNING\n")

    monkeypatch.setattr(slurm.subprocess, "run", run)
    monkeypatch.setattr(slurm, "PAUSES", (0, 0))
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    if failures == 3:
        with pytest.raises(BadInput, match="squeue: .*timed out"):
            slurm.requeue()
        assert asked == ["squeue"] * 3
    else:
        assert slurm.requeue()
        assert asked == ["squeue"] * (failures + 1) + ["scontrol"] * (failures + 1)
