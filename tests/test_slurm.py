"""Runs on a real Slurm of one node: arrays, dependencies, warnings, requeues, and their status."""

import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import jupytext
import pytest
import torch
from click.testing import CliRunner
from conftest import PARAMETERS
from slurm_one_node import missing, one_node_slurm

import gfnlite as gl
from gfnlite.files import read_json
from reproduce import autoencoder, experiments, papers, runner, slurm, state, submission
from reproduce.__main__ import entry, main
from reproduce.lock import locked

ROOT = Path(__file__).parent.parent
# TB ends well, PIS fails; the others train slowly, until Slurm has started them a second time.
GMM = {"task": "25gmm", "notebook": "tiny", "methods": ["TB", "PIS", "TB+Expl", "VarGrad+Expl"]}
DIGITS = {"task": "vae_whitened", "notebook": "tiny", "methods": ["VarGrad+LP+LV+Few"]}
SMALL = {"steps": 10, "iterations": 40, "batch_size": 60}
BODY = """
import os, time
from pathlib import Path
import gfnlite as gl

if task == "vae_whitened" and not Path("prepared").exists():
    raise RuntimeError("it did not wait for what it needs")
if method == "PIS":
    raise RuntimeError("the seventh seal")
slow = "Expl" in method and os.environ.get("SLURM_RESTART_COUNT", "0") == "0"
given = {"steps": steps, "iterations": iterations, "batch_size": batch_size}
ensemble = gl.Ensemble(
    gl.ManyWell(2), config=gl.preset("25gmm", "TB", profile, **given), seeds=seeds
)
pause = slow * float(os.environ.get("PAUSE", 0.15))
ensemble.fit(folder=out_dir, progress=False, callbacks=lambda *_: time.sleep(pause))
for sampler in ensemble:
    metrics = {"n_modes": 1, "true_log_z": 0.0, "delta_log_z": 0.0, "delta_log_z_rw": 0.0}
    metrics |= sampler.evaluate(n_samples=200, seed=sampler.seed) | {"seconds": 1.0}
    gl.write_json(Path(out_dir) / f"seed-{sampler.seed}" / "metrics.json", metrics)
"""


@pytest.fixture(scope="session")
def real_slurm():
    """The variables of the environment that lead to a running Slurm."""
    if absent := missing():
        pytest.skip(
            f"no Slurm: {', '.join(absent)} not installed (apt-get install slurm-wlm munge)"
        )
    with one_node_slurm() as environment:
        yield environment


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Makes copies of the repository's shape with a tiny notebook, which jobs can run in."""
    patch = pytest.MonkeyPatch()

    def make(name):
        home = tmp_path_factory.mktemp(name)
        leave = shutil.ignore_patterns("runs", "results", "bench", "experiments", "__pycache__")
        shutil.copytree(ROOT / "reproduce", home / "reproduce", ignore=leave)
        shutil.copytree(ROOT / "reproduce/bench", home / "reproduce/bench")
        for folder in ("notebooks", "reproduce/experiments"):
            (home / folder).mkdir()
        (home / ".venv").symlink_to(sys.prefix)
        for data in (GMM, DIGITS):
            data = data | {"overrides": SMALL, "seeds": {p: [0, 1] for p in gl.PROFILES}}
            path = home / f"reproduce/experiments/{data['task']}.yaml"
            path.write_text(json.dumps(data))
        source = f'# %% tags=["parameters"]{PARAMETERS}\n# %%{BODY}'
        jupytext.write(jupytext.reads(source, "py:percent"), home / "notebooks/tiny.py")
        for module, names in {
            experiments: ("ROOT", "FOLDER", "NOTEBOOKS", "RUNS"),
            papers: ("NOTEBOOKS",),
            submission: ("SCRIPT",),
        }.items():
            for name in names:
                original = ROOT / getattr(module, name).relative_to(experiments.ROOT)
                if name != "ROOT":
                    patch.setattr(module, name, home / original.relative_to(ROOT))
        patch.setattr(experiments, "ROOT", home)
        experiments.notebook_parameters.cache_clear()
        return home

    yield make
    patch.undo()
    experiments.notebook_parameters.cache_clear()


@pytest.fixture
def cluster(real_slurm, place, monkeypatch):
    """A copy of the repository on the cluster."""
    for name, value in real_slurm.items():
        monkeypatch.setenv(name, value)
    return place("cluster")


def told(*words):
    """What a command prints, in this process."""
    done = CliRunner().invoke(main, words, catch_exceptions=False)
    return done.output


def run_of(method, profile="quick"):
    return next(run for run in experiments.load(profile) if run.method == method)


def standing(run):
    return state.standings([run])[0]


def wait(condition, seconds=90, every=0.2):
    until = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < until, f"{subprocess.getoutput('squeue')}\n{logs()}"
        time.sleep(every)
    return found


def logs():
    found = sorted((experiments.RUNS / ".slurm").glob("*/*.log"))
    return "\n".join(f"{path.name}: {path.read_text()[-1500:]}" for path in found)


def trained(run):
    """How many iterations of its first seed are in the history."""
    assert runner.status(run) != "failed", runner.record_of(run.folder)["traceback"]
    try:
        lines = (run.folder / f"seed-{run.seeds[0]}" / "history.jsonl").read_text().splitlines()
    except OSError:
        return 0
    return json.loads(lines[-1])["iteration"]


def ids_of(submission_output):
    words = [line.split() for line in submission_output.splitlines() if line.startswith("Slurm")]
    return {line[3].strip(","): line[2].strip(":") for line in words}


def queue_is_empty():
    done = subprocess.run(["squeue", "--noheader"], capture_output=True, text=True, check=True)
    return not done.stdout.strip()


# ---------------------------------------------------------------- one campaign, seen from all sides


@pytest.fixture(scope="module")
def campaign(real_slurm, place):
    """Five runs from submission to the table, two of them stopped on the way; what was seen."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in real_slurm.items():
            patch.setenv(name, value)
        home = place("campaign")
        # In place of ten minutes of training.
        with (home / "reproduce/autoencoder.py").open("a") as file:
            file.write(
                "\n\ndef prepare():\n    import time\n    time.sleep(2)\n"
                "    (ROOT / 'notebooks/prepared').touch()\n"
            )
        ids = ids_of(told("submit", "--mem", "100M", "--time", "1:00:00"))
        runs = experiments.load("quick")
        good, bad, warned, preempted, digits = runs
        wait(lambda: "Dependency" in standing(digits).note)
        seen = SimpleNamespace(ids=ids, runs=runs, at_first=state.standings(runs))
        seen.again = told("submit")
        for run in (warned, preempted):
            wait(lambda run=run: trained(run) > 3)
        seen.running = [standing(run) for run in (warned, preempted)]
        tasks = [f"{ids['array-0']}_{runs.index(run)}" for run in (warned, preempted)]
        warn = ["scancel", "--signal=USR1", "--batch", tasks[0]]
        subprocess.run(warn, check=True)
        subprocess.run(["scontrol", "requeue", tasks[1]], check=True)
        seen.stopped = {}
        for run in (warned, preempted):
            wait(lambda run=run: runner.record_of(run.folder)["status"] == "interrupted")
            seen.stopped[run.method] = runner.record_of(run.folder), trained(run)
        wait(lambda: standing(warned).state == "queued")
        seen.requeued = standing(warned)
        wait(queue_is_empty)
        seen.at_last = state.standings(runs)
        seen.records = [runner.record_of(run.folder) for run in runs]
        (folder,) = (experiments.RUNS / ".slurm").iterdir()
        seen.table = (folder / f"collect-{ids['collect']}.log").read_text()
        seen.logs = logs()
        yield seen


def test_a_campaign_ends_well_but_for_the_run_that_fails(campaign):
    ended = {one.run.method: one.state for one in campaign.at_last}
    assert ended.pop("PIS") == "failed", campaign.logs
    assert set(ended.values()) == {"done"}, campaign.logs
    assert campaign.records[1]["cause"] == "RuntimeError: the seventh seal"


def test_jobs_wait_for_what_they_need_and_the_table_for_all(campaign):
    assert set(campaign.ids) == {"prepare", "array-0", "array-1", "collect"}
    waiting = campaign.at_first[4]
    assert waiting.state == "queued" and waiting.note.endswith("pending (Dependency)")
    assert f"Slurm job {campaign.ids['array-1']}_0" in waiting.note
    for method in ("TB", "TB+Expl", "VarGrad+Expl", "VarGrad+LP+LV+Few"):
        assert f"{method} " in campaign.table
    assert "its status is failed" in campaign.table


def test_status_tells_what_is_queued_and_what_runs(campaign):
    assert {one.state for one in campaign.at_first} <= {"queued", "running"}
    assert campaign.again.count("already, Slurm job") == 5
    assert campaign.again.endswith("nothing to submit\n")
    assert [one.state for one in campaign.running] == ["running", "running"]
    assert f"Slurm job {campaign.ids['array-0']}_2 on" in campaign.running[0].note
    assert "pending" in campaign.requeued.note


def test_a_run_that_was_stopped_starts_again_and_is_the_same_as_one_that_was_not(
    campaign, tmp_path, monkeypatch
):
    monkeypatch.setenv("PAUSE", "0")
    causes = ["told that its time is nearly up", "told to terminate"]
    for run, cause in zip(campaign.runs[2:4], causes, strict=True):
        record, iteration = campaign.stopped[run.method]
        assert record["cause"] == cause and 3 < iteration < 40
        folder = tmp_path / run.name
        cells = {"__name__": "cells"} | experiments.parameters(run) | {"out_dir": str(folder)}
        exec(BODY, cells)
        for seed in run.seeds:
            ours, theirs = run.folder / f"seed-{seed}", folder / f"seed-{seed}"
            first, second = (
                torch.load(at / "checkpoint.pt", weights_only=True) for at in (ours, theirs)
            )
            for name, value in second["policy"].items():
                assert torch.equal(first["policy"][name], value), name
            first, second = (json.loads((at / "metrics.json").read_text()) for at in (ours, theirs))
            assert first == second
            assert trained(run) == 40


def test_records_name_their_job(campaign):
    for index, record in enumerate(campaign.records):
        array, task = ("array-0", index) if index < 4 else ("array-1", 0)
        assert record["slurm"]["array"] == campaign.ids[array]
        assert record["slurm"]["task"] == str(task) and record["slurm"]["job"].isdecimal()
        assert record["machine"] is None or record["machine"]["visible_devices"] in set("0123")
    restarts = [record["slurm"].get("restarts", "0") for record in campaign.records]
    assert restarts == ["0", "0", "1", "1", "0"]


# ---------------------------------------------------------------- cancelled, refused, misused


def test_cancelled_runs_stop_and_are_not_queued_again(cluster):
    ids = ids_of(told("submit", "--only", "task=25gmm", "--cap", "2", "--gres", "none"))
    runs = experiments.select(experiments.load("quick"), ["task=25gmm"])
    wait(lambda: "Limit" in standing(runs[2]).note)
    assert told("cancel", "--only", "method=TB") == f"cancelled {ids['array-0']}_0 {runs[0].name}\n"
    assert told("cancel", f"{ids['array-0']}_1").split()[2] == runs[1].name
    wait(lambda: trained(runs[2]) > 3)
    lines = told("cancel").splitlines()
    assert f"cancelled {ids['array-0']}_2 {runs[2].name}" in lines
    assert f"cancelled {ids['collect']}" in lines and len(lines) == 3
    wait(queue_is_empty)
    states = [one.state for one in state.standings(runs)]
    assert set(states[:2]) <= {"missing", "interrupted"} and states[2] == "interrupted"
    assert states[3] in ("missing", "interrupted")
    # Slurm gives it time to save: nothing is lost.
    assert runner.record_of(runs[2].folder)["cause"] == "told to terminate"
    assert (runs[2].folder / "seed-0/checkpoint.pt").exists()
    assert told("cancel") == "nothing of it is in the queue\n"


def refused(capsys, monkeypatch, *words):
    """The one line of a command that ends with exit code 2."""
    monkeypatch.setattr(sys, "argv", ["reproduce", *words])
    with pytest.raises(SystemExit) as ended:
        entry()
    err = capsys.readouterr().err
    assert ended.value.code == 2 and err.startswith("reproduce: ") and err.count("\n") == 1, err
    return err


def test_hostile_values_are_values(cluster, capsys, monkeypatch):
    monkeypatch.chdir(cluster)
    for words, message in {
        ("--partition", "a; touch pwned"): "invalid partition",
        ("--partition", "$(touch pwned)"): "invalid partition",
        ("--gres", "gpu:1`touch pwned`"): "[Ii]nvalid",
        ("--sbatch", "nodelist=$(touch pwned)"): "[Ii]nvalid",
        ("--sbatch", "exclusive", "comment"): "Unable to open file",
        ("--set", "steps=$(touch pwned)"): "has type str, must be int",
        ("--set", "x=$(touch pwned)"): "unknown setting 'x'",
    }.items():
        line = refused(capsys, monkeypatch, "submit", *words)
        assert re.search(message, line), line
    assert queue_is_empty() and not list(cluster.rglob("pwned"))
    assert "no job in the queue submitted from here" in refused(
        capsys, monkeypatch, "cancel", "1; touch pwned"
    )


def test_a_refused_array_leaves_nothing_in_the_queue(cluster, capsys, monkeypatch):
    planned = submission.jobs(experiments.load("quick"), submission.Options(), cluster / "jobs")
    last = submission.Job("collect", ("--partition=none",), ("collect",))
    with pytest.raises(experiments.BadInput, match="invalid partition"):
        submission.submit([*planned[:-1], last], cluster / "jobs")
    wait(queue_is_empty)


def test_a_busy_run_is_left_alone(place):
    manifest, run = place("busy") / "array.json", run_of("TB")
    gl.write_json(manifest, [submission.entry(run)])
    with locked(run.folder):
        done = CliRunner().invoke(main, ["work", str(manifest), "0"])
    assert done.exit_code == 75 and done.output.endswith("worked on by another process\n")


@pytest.mark.full
def test_a_time_limit_warns_requeues_and_loses_nothing(cluster, monkeypatch):
    """The real thing: two minutes do not suffice for a training that pauses after each entry."""
    monkeypatch.setenv("PAUSE", "1")
    changes = {"iterations": 400}
    words = ["--only", "method=TB+Expl", "--set", "iterations=400"]
    told("submit", *words, "--time", "2m", "--warning", "10")
    (run,) = experiments.select(experiments.load("quick", overrides=changes), words[1:2])
    wait(lambda: runner.record_of(run.folder).get("status") == "interrupted", 180)
    assert runner.record_of(run.folder)["cause"] == "told that its time is nearly up"
    assert 20 < trained(run) < 400
    wait(queue_is_empty, 180)
    record = runner.record_of(run.folder)
    assert record["status"] == "done" and record["slurm"]["restarts"] == "1", logs()
    assert trained(run) == 400


# ---------------------------------------------------------------- without a cluster


def plan(runs, **options):
    folder = Path("/f")
    return {job.name: job for job in submission.jobs(runs, submission.Options(**options), folder)}


def test_arrays_are_split_chained_and_wait(place, monkeypatch):
    place("plan")
    monkeypatch.setattr(submission, "slurm", lambda *words, **_: "MaxArraySize = 3\n")
    planned = plan(experiments.load("quick"), cap=2, minutes=60, gres=None)
    assert list(planned) == ["prepare", "array-0", "array-1", "array-2", "collect"]
    assert [len(job.runs) for job in planned.values()] == [0, 3, 1, 1, 0]
    words = planned["array-2"].words({"prepare": "7", "array-1": "9"})
    assert "--dependency=afterok:7,afterany:9" in words and "--array=0-0%2" in words
    assert "--kill-on-invalid-dep=yes" in words and "--signal=B:USR1@120" in words
    assert not any("gres" in word for word in words) and "--time=60" in words
    assert not planned["array-0"].after and planned["array-1"].after == (("afterany", "array-0"),)
    assert [name for _, name in planned["collect"].after] == ["array-0", "array-1", "array-2"]
    # Without a cap nothing waits for another array, and smoke runs need no preparation.
    assert [job.after for job in plan(experiments.load("smoke")).values()][:-1] == [(), ()]


def test_a_dry_run_prints_everything_and_writes_nothing(place, monkeypatch):
    home = place("dry")
    monkeypatch.setenv("PATH", str(home))
    text = told(
        "submit", "--dry-run", "--partition", "a; rm", "--sbatch", "exclusive", "mail-user=x"
    )
    assert "'--partition=a; rm'" in text and " --mail-user=x --exclusive " in text
    assert (ROOT / "reproduce/slurm/job.sh").read_text() in text
    assert "task 3: 25gmm-VarGrad+Expl-quick-" in text and "afterany:<array-0>" in text
    assert not experiments.RUNS.exists()


def test_without_slurm_status_is_silent_and_commands_say_so(place, capsys, monkeypatch):
    monkeypatch.setenv("PATH", str(place("none")))
    assert slurm.queue() == {} and standing(run_of("TB")).state == "missing"
    assert "sbatch is not here" in refused(capsys, monkeypatch, "submit", "--only", "task=25gmm")
    assert "squeue is not here" in refused(capsys, monkeypatch, "cancel")


def test_a_damaged_record_hides_no_other_job(place, monkeypatch):
    home, run = place("damage"), run_of("TB")
    monkeypatch.setattr(slurm, "slurm", lambda *_, **__: "7|0|PENDING|(Priority)\n8|1|RUNNING|n1\n")
    for name, job in {"1": "7", "2": "8"}.items():
        folder = home / f"reproduce/runs/.slurm/{name}"
        gl.write_json(folder / "submitted.json", {"array-0": job})
        gl.write_json(folder / "array-0.json", [submission.entry(run)])
    (folder / "submitted.json").write_text("{")
    assert slurm.queue() == {run.name: slurm.Queued(False, "Slurm job 7_0 pending (Priority)")}
    gl.write_json(folder / "submitted.json", {"array-0": "8"})  # a task that the manifest lacks
    assert list(slurm.queue()) == [run.name]


def test_a_cluster_without_arrays_is_said(place, monkeypatch):
    place("arrays")
    monkeypatch.setattr(submission, "slurm", lambda *words, **_: "MaxArraySize = 0\n")
    with pytest.raises(experiments.BadInput, match="MaxArraySize=0: this cluster takes no job"):
        plan(experiments.load("quick"))


@pytest.mark.parametrize("error", [KeyboardInterrupt, experiments.BadInput, OSError])
def test_whatever_stops_a_submission_cancels_it(place, monkeypatch, error):
    home, asked = place("half"), []
    planned = list(plan(experiments.select(experiments.load("quick"), ["task=25gmm"])).values())

    def answer(*words, **_):
        asked.append(words)
        # Before the first sbatch it is written down what is to come.
        assert json.loads((home / "array-0.json").read_text())
        known = read_json(home / "submitted.json")
        assert known == {"array-0": "7" if asked[1:] else None, "collect": None}
        if words[0] == "sbatch" and asked[1:]:
            raise error
        return "7\n"

    monkeypatch.setattr(submission, "slurm", answer)
    with pytest.raises(error):
        submission.submit(planned, home)
    assert asked[-1] == ("scancel", "7") and len(asked) == 3


BAD_OPTIONS = {
    "reserved": (["--sbatch", "array=0-9"], "array: is set by `submit` itself"),
    "abbreviated": (["--sbatch", "arr=0-9"], "arr: is set by `submit` itself"),
    "no option": (["--sbatch", "--wrap=ls"], "No such option|must be a long option|requires"),
    "capital": (["--sbatch", "Nodes=1"], "must be a long option of sbatch"),
    "bare time": (["--time", "30"], "must be a time such as 30m"),
    "time": (["--time", "soon"], "must be a time such as"),
    "short": (["--time", "3m"], "more than a minute longer than the warning of 120 s"),
    "warning": (["--warning", "1"], "not in the range"),
    "cap": (["--cap", "0"], "not in the range"),
}


@pytest.mark.parametrize("words, message", BAD_OPTIONS.values(), ids=BAD_OPTIONS)
def test_bad_options_are_one_line(place, capsys, monkeypatch, words, message):
    place("bad")
    line = refused(capsys, monkeypatch, "submit", *words)
    assert re.search(message, line), line


BAD_MANIFESTS = {
    "text": (lambda entry: "what?", "cannot be read as a manifest"),
    "mapping": (lambda entry: entry, "must be a list of runs"),
    "number": (lambda entry: [3], "must be a mapping with the keys task"),
    "key": (lambda entry: [entry | {"more": 1}], "must be a mapping with the keys task"),
    "kind": (lambda entry: [entry | {"seeds": 3}], "seeds=3 must be a list"),
    "seed": (lambda entry: [entry | {"seeds": ["$(ls)"]}], "list of different"),
    "notebook": (lambda entry: [entry | {"notebook": "../x"}], "is not in notebooks/"),
    "method": (lambda entry: [entry | {"method": "X"}], "method='X' is unknown"),
    "setting": (lambda entry: [entry | {"overrides": {"hidden": 8}}], "'hidden' is not a"),
    "changed": (lambda entry: [entry | {"name": "25gmm-TB-quick-0"}], "have changed since"),
    "index": (lambda entry: [], "index=0: .* has 0 runs"),
}


@pytest.mark.parametrize("make, message", BAD_MANIFESTS.values(), ids=BAD_MANIFESTS)
def test_a_bad_manifest_is_one_line(place, capsys, monkeypatch, make, message):
    manifest = place("manifest") / "array.json"
    made = make(submission.entry(run_of("TB")))
    manifest.write_text(made if isinstance(made, str) else json.dumps(made))
    line = refused(capsys, monkeypatch, "work", str(manifest), "0")
    assert re.search(message, line), line


def test_prepare_trains_only_what_is_not_there(tmp_path, monkeypatch):
    asked, trainings = [], []
    monkeypatch.setattr(autoencoder, "mnist", lambda *words: asked.append(words))
    monkeypatch.setattr(autoencoder, "train", lambda **words: trainings.append(words))
    told("prepare")
    assert asked == [("train", "full"), ("test", "full")] and trainings == []
    monkeypatch.setattr(autoencoder, "WEIGHTS", tmp_path / "vae.safetensors")
    assert told("prepare") == "MNIST and the autoencoder are here\n"
    assert trainings == [{"binary": False, "epochs": 100}]
