"""reproduce: checks before anything runs, and runs that survive."""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
import zipfile
from dataclasses import asdict
from pathlib import Path

import pytest

import gfnlite as gl
from gfnlite.files import read_json
from reproduce import experiments, provenance, report, runner, table

ROOT = Path(__file__).parent.parent
EXPERIMENT = {
    "task": "25gmm",
    "notebook": "fake",
    "methods": ["TB", "TB+Expl"],
    "seeds": {"smoke": [0], "quick": [0, 1], "full": [0, 1]},
}
# A notebook that stands for a training: it keeps what it has done and can be told to misbehave.
BODY = """
import json, time
from pathlib import Path
import gfnlite as gl
for seed in seeds:
    folder = Path(out_dir) / f"seed-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / "metrics.json").exists():
        continue
    with open(folder / "starts", "a") as file:
        file.write("x")
    if Path("slow").exists():
        time.sleep(60)
    if Path("fail").read_text().strip() == method if Path("fail").exists() else False:
        raise RuntimeError("the seventh seal")
    names = "elbo eubo log_z_is log_z_learned ess w2 w2_floor delta_log_z delta_log_z_rw seconds"
    metrics = {name: 1.0 + seed for name in names.split()}
    metrics |= {"modes": 20 + seed, "n_modes": 25, "energy_calls": 10, "true_log_z": 0.0}
    (folder / "metrics.json").write_text(json.dumps(metrics))
(Path(out_dir) / "samples.png").write_bytes(b"picture")
"""


@pytest.fixture
def house(build_house):
    """A copy of the repository's shape with the fake notebook."""
    return build_house(EXPERIMENT, BODY)


def runs(profile="quick", **kwargs):
    return experiments.load(profile, **kwargs)


# ---------------------------------------------------------------- what is run


def trained(profile):
    """All runs but those of annealing, which tests/test_annealing.py is about."""
    return [run for run in experiments.load(profile) if run.method not in gl.annealing.METHODS]


def test_the_real_experiments_load_and_are_presets():
    for profile in gl.PROFILES:
        for run in trained(profile):
            assert run.config == gl.preset(run.task, run.method, profile)
            assert run.seeds == (0,) or profile != "smoke"
    beyond = [run.method for run in trained("full") if run.notebook == "13_beyond"]
    assert beyond and all(method.startswith("MLE") for method in beyond)
    full = [run for run in trained("full") if run.notebook != "13_beyond"]
    methods = {task: [run.method for run in full if run.task == task] for task in gl.TASKS}
    few = {task: [row for row in rows if row.endswith("+Few")] for task, rows in methods.items()}
    methods = {t: [row for row in rows if row not in few[t]] for t, rows in methods.items()}
    published = json.loads(table.PUBLISHED.read_text())["tasks"]
    found = {run.published: run.task for run in full if run.published in published}
    assert found.keys() == published.keys()  # each table of the paper is an experiment
    for name, task in found.items():
        rows = published[name]["rows"]
        assert methods[task] == [row for row in rows if row in gl.METHODS]
        assert set(rows) - set(methods[task]) <= {"SMC", "GGNS"}  # no diffusion samplers
    assert found["manywell"] == "manywell32"
    for task in ("9gmm", "manywell64", "manywell128"):  # which the paper's tables lack
        assert methods[task] == methods["25gmm"]
    assert few["vae_whitened"] == ["VarGrad+LP+LV+Few"]
    for task, rows in methods.items():  # where anything is trained, something is on few steps
        assert few[task] or not rows, task
    seeds = {run.task: run.seeds for run in full}
    assert seeds["25gmm"] == (0, 1, 2, 3, 4) and seeds["lgcp"] == seeds["vae"] == (0,)


def test_the_folder_depends_on_settings_and_on_nothing_else(house):
    one = runs(overrides={"steps": 50, "lr": 1})[0]
    same = runs(overrides={"lr": 1.0, "steps": 50}, seeds=[7])[0]
    other = runs(overrides={"steps": 51, "lr": 1})[0]
    assert one.name == same.name != other.name
    assert runs()[0].name != one.name
    # A setting that is as it always is, such as one that did not exist before, renames nothing.
    usual = {"hidden": gl.Config().hidden}
    assert dataclasses.replace(one, overrides=one.overrides | usual).name == one.name
    assert dataclasses.replace(one, overrides=one.overrides | {"hidden": 8}).name != one.name
    assert len({run.name for profile in gl.PROFILES for run in runs(profile)}) == 6


def broken_yaml(**changes):
    return {**EXPERIMENT, **changes}


BAD_YAML = {
    "unknown key": (broken_yaml(colour="red"), "unknown key 'colour'; allowed: task"),
    "missing key": ({"task": "25gmm"}, "the key 'notebook' is missing"),
    "task": (broken_yaml(task="26gmm"), "task='26gmm' is unknown; allowed: 9gmm"),
    "method": (
        broken_yaml(methods=["../../x"]),
        "method='../../x' is unknown; allowed: DIS, ",
    ),
    "notebook": (broken_yaml(notebook="../fake"), "notebook='../fake' is not in notebooks/"),
    "list": (broken_yaml(methods="TB"), "methods='TB' must be a list"),
    "no seeds": (broken_yaml(seeds={}), "seeds=None of profile quick must be a list"),
    "twice": (broken_yaml(seeds={"quick": [1, 1]}), "must be a list of different"),
    "setting": (broken_yaml(overrides={"stepps": 3}), "unknown setting 'stepps'; known:"),
    "text number": (broken_yaml(overrides={"lr": "1e-3"}), "lr='1e-3' has type str.*1.0e-3"),
    "range": (broken_yaml(overrides={"steps": -1}), "steps=-1 must be at least 1"),
    "no parameter": (broken_yaml(overrides={"layers": 3}), "'layers' is not a parameter of fake"),
    "table": (broken_yaml(published=3), "published=3 must be a str"),
    "not a mapping": ([1, 2], "must be a mapping with the keys task"),
}


def test_a_table_of_the_paper_is_named_by_the_yaml_or_by_the_task(house):
    assert {run.published for run in runs()} == {"25gmm"}
    data = broken_yaml(published="manywell")
    (house / "reproduce/experiments/fake.yaml").write_text(json.dumps(data))
    assert {run.published for run in runs()} == {"manywell"}
    assert {run.task for run in runs()} == {"25gmm"}


@pytest.mark.parametrize("data, message", BAD_YAML.values(), ids=BAD_YAML)
def test_bad_yaml_is_one_clear_error(house, data, message):
    (house / "reproduce/experiments/fake.yaml").write_text(json.dumps(data))
    with pytest.raises(experiments.BadInput, match=message) as caught:
        runs()
    assert "fake.yaml" in str(caught.value) or "not a parameter" in str(caught.value)


def test_malformed_yaml_is_named_with_its_line(house):
    (house / "reproduce/experiments/fake.yaml").write_text("task: 25gmm\nmethods: [TB\n")
    with pytest.raises(experiments.BadInput, match="fake.yaml line 3: not valid YAML"):
        runs()


BAD_COMMANDS = {
    "profile": (["run", "--profile", "fast"], "profile='fast' is unknown; allowed: smoke"),
    "only key": (["run", "--only", "colour=red"], "must be task=NAME or method=NAME"),
    "only value": (
        ["list", "--only", "task=25gmm", "method=X"],
        "no such method; allowed: AIS\\+MALA, DDS, DIS, FL-Sub",
    ),
    "only nothing": (["run", "--only"], "Option '--only' requires an argument"),
    "seeds": (["run", "--seeds", "a,b"], "must be integers such as 0,1,2"),
    "same seed": (["run", "--seeds", "1,1"], "must be a list of different"),
    "set": (["run", "--set", "steps"], "must be NAME=VALUE"),
    "set name": (["run", "--set", "stepps=3"], "unknown setting 'stepps'"),
    "set type": (["run", "--set", "steps=many"], "steps='many' has type str, must be int"),
    "set range": (["run", "--set", "steps=50", "lr=-1e-3"], "lr=-0.001 must be greater than 0"),
    "command": (["rum"], "No such command 'rum'"),
    "option": (["run", "--sets", "steps=3"], "No such option '?--sets"),
    "set infinity": (["run", "--set", "lr=.inf"], "lr=inf must be finite"),
    "set list": (["run", "--set", "steps=[3]"], "steps=\\[3\\] has type list, must be int"),
    "set own": (["run", "--set", "task=9gmm"], "unknown setting 'task'"),
    "set path": (["run", "--set", "out_dir=/etc"], "unknown setting 'out_dir'"),
    "set shell": (["run", "--set", "$(touch pwned)=3"], "unknown setting '\\$\\(touch pwned"),
    "set yaml": (["run", "--set", "steps={"], "steps={: not valid"),
    "set code": (["run", "--set", "steps=!!python/name:os.system"], "steps=!!python.*: not valid"),
    "set conflict": (["run", "--only", "method=PIS", "--set", "exploration=1"], "set both to 0"),
    "negative seed": (["run", "--seeds", "-1"], "--seeds"),
    "no seeds": (["run", "--seeds", ""], "must be integers such as 0,1,2"),
    "huge seed": (["run", "--seeds", "4294967296"], "must be a list of different"),
    "jobs": (["run", "--jobs", "0"], "--jobs.*0 is not in the range"),
    "jobs type": (["run", "--jobs", "many"], "--jobs.*'many' is not a valid integer"),
    "limit": (["run", "--limit", "soon"], "--limit.*'soon': must be a time such as 90s"),
    "no limit": (["run", "--limit", "0"], "--limit.*'0': must be a time"),
    "endless limit": (["run", "--limit", "inf"], "--limit.*'inf': must be a time"),
    "word": (["run", "25gmm"], "unexpected extra argument"),
    "status profile": (["status", "--profile", "fast"], "profile='fast' is unknown"),
    "status only": (["status", "--only", "method"], "must be task=NAME or method=NAME"),
    "show nothing": (["show"], "Missing argument 'NAME'"),
    "show unknown": (["show", "no-such-run"], "show no-such-run: no such run"),
    "show outside": (["show", "../../.."], "show ../../..: no such run"),
    "clean": (["clean", "--what", "everything"], "--what.*'everything' is not one of"),
    "report form": (["report", "--format", "pdf"], "--format.*'pdf' is not one of"),
    "report output": (["report", "--output", "x.tex"], "--output.*needs --format"),
    "drift": (["drift", "--only", "task=nobody"], "no such task"),
    "submit time": (["submit", "--time", "30"], "--time.*'30': must be a time such as 30m"),
    "submit short": (["submit", "--time", "2m"], "--time of 2 min: must be more than a minute"),
    "submit cap": (["submit", "--cap", "0"], "--cap.*0 is not in the range"),
    "submit own": (["submit", "--sbatch", "array=1-5"], "--sbatch array: is set by `submit`"),
    "submit shell": (["submit", "--sbatch", "a;rm=1"], "--sbatch a;rm: must be a long option"),
    "work": (["work", "nowhere.json", "0"], "nowhere.json: cannot be read as a manifest"),
    "vae": (["vae", "--epochs", "0"], "--epochs.*0 is not in the range"),
    "bench": (["bench", "--only", "speed"], "speed"),
    "train flag": (["train", "--energie", "9gmm"], "'--energie' is no flag; allowed: --energy"),
    "train energy": (["train", "--energy", "8gmm"], "--energy='8gmm' is unknown; allowed: 9gmm"),
    "train value": (["train", "--energy"], "--energy needs a value"),
    "train range": (["train", "--T", "0"], "--T='0': .*steps=0 must be at least 1"),
    "train twice": (["train", "--T", "5", "--from-environment"], "one of them"),
    "train file": (["train", "--from-yaml", "nowhere.yaml"], "nowhere.yaml: cannot be read"),
}
# The same of the environment, for `train --from-environment`.
BAD_VARIABLES = {
    "ENERGY": ("25 gmm", "ENERGY='25 gmm' is unknown; allowed: 9gmm"),
    "T": ("fifty", "T='fifty' must be a whole number"),
    "BATCH_SIZE": ("-3", "BATCH_SIZE='-3': .*must be at least 1"),
    "EPOCHS": ("1e400", "EPOCHS='1e400' must be a whole number"),
    "LOCAL_SEARCH": ("maybe", "LOCAL_SEARCH='maybe' must be true or false"),
    "USE_AMP": ("$(touch pwned)", "USE_AMP=.* must be true or false"),
    "MAX_ITER_LS": ("0", "MAX_ITER_LS='0'"),
}


def command(*words, **kwargs):
    kwargs = {"capture_output": True, "text": True, "cwd": ROOT} | kwargs
    return subprocess.run([sys.executable, "-m", "reproduce", *words], **kwargs)


@pytest.mark.parametrize("words, message", BAD_COMMANDS.values(), ids=BAD_COMMANDS)
def test_a_bad_command_is_one_line_and_exit_code_2(words, message, capsys, monkeypatch):
    from reproduce.__main__ import entry

    monkeypatch.setattr(sys, "argv", ["reproduce", *words])
    with pytest.raises(SystemExit) as ended:
        entry()
    out, err = capsys.readouterr()
    assert ended.value.code == 2 and out == ""
    assert err.startswith("reproduce: ") and err.count("\n") == 1
    assert re.search(message, err), err


@pytest.mark.parametrize("name", BAD_VARIABLES)
def test_a_bad_variable_is_one_line_and_exit_code_2(name, capsys, monkeypatch):
    value, message = BAD_VARIABLES[name]
    monkeypatch.setenv("LOCAL_SEARCH", "1")
    monkeypatch.setenv(name, value)
    words = ["train", "--from-environment"]
    test_a_bad_command_is_one_line_and_exit_code_2(words, message, capsys, monkeypatch)


@pytest.mark.parametrize("data, message", BAD_YAML.values(), ids=BAD_YAML)
def test_bad_yaml_is_exit_code_2_for_every_command(house, data, message, capsys, monkeypatch):
    (house / "reproduce/experiments/fake.yaml").write_text(json.dumps(data))
    for word in ("run", "status", "submit"):
        command_line = [word, "--profile", "quick"]
        test_a_bad_command_is_one_line_and_exit_code_2(command_line, message, capsys, monkeypatch)


def test_the_command_line_runs_from_a_shell():
    done = command("run", "--only", "task=25gmm", "method=TB", "--dry-run", "--set", "lr=1e-3")
    assert done.returncode == 0 and " lr=0.001\n" in done.stdout
    assert "--only" in command("run", "--help").stdout
    assert command("run", "--set", "steps=-1").returncode == 2


# ---------------------------------------------------------------- how it is run


def test_a_run_keeps_everything_and_is_not_done_twice(house):
    run = runs()[1]
    assert runner.status(run) == "missing" and not runner.finished(run)
    assert runner.execute(run) == "done" and runner.finished(run)
    names = {path.name for path in run.folder.iterdir()}
    kept = "config.json run.json machine.json notebook.ipynb seed-0 seed-1 samples.png .lock"
    assert names == set(kept.split())
    record = json.loads((run.folder / "run.json").read_text())
    assert record["status"] == "done" and record["commit"] == "0123abc" and not record["dirty"]
    assert record["cause"] is None and record["changes"] is None and record["slurm"] is None
    assert record["machine"]["device"] == "cpu" and record["machine"]["tf32"] is False
    assert record["peak_memory"] > 10**7 and record["energy_calls"] == 20
    assert record["versions"]["gfnlite"] == gl.__version__ and record["seeds"] == [0, 1]
    config = json.loads((run.folder / "config.json").read_text())
    assert config["config"] == asdict(run.config)

    more = runs(seeds=[0, 1, 2])[1]
    assert more.folder == run.folder and not runner.finished(more)
    runner.execute(more)
    starts = [(more.folder / f"seed-{seed}" / "starts").read_text() for seed in range(3)]
    assert starts == ["x", "x", "x"]


def git(monkeypatch, commit, changed=""):
    """From now on the repository is at this commit."""
    monkeypatch.setattr(provenance, "git", lambda *a: commit if a[0] == "rev-parse" else changed)


def test_each_seed_keeps_the_commit_that_made_it(house, monkeypatch):
    def made_by(seeds):
        assert runner.execute(runs(seeds=seeds)[1]) == "done"
        record = json.loads((runs()[1].folder / "run.json").read_text())
        return record["commits"], report.collect([])[0]["commit"]

    git(monkeypatch, "aaa")
    assert made_by([0, 1]) == ({"0": ["aaa"], "1": ["aaa"]}, "aaa")
    git(monkeypatch, "bbb", " M gfnlite/nets.py")
    old = {"0": ["aaa"], "1": ["aaa"]}
    commits, label = made_by([0, 1, 2])
    assert commits == old | {"2": ["bbb+changes"]} and label == "aaa, bbb+changes"
    # Begun by one commit and finished by another, a seed names both; begun anew, only the second.
    folder = runs()[1].folder
    (folder / "seed-0/metrics.json").unlink()
    (folder / "seed-1/metrics.json").unlink()
    with zipfile.ZipFile(folder / "seed-1/checkpoint.pt", "w"):  # as one that is whole
        pass
    git(monkeypatch, "ccc")
    commits, _ = made_by([0, 1])
    assert commits == {"0": ["ccc"], "1": ["aaa", "ccc"], "2": ["bbb+changes"]}


def test_a_run_names_every_device_that_trained_it(house, monkeypatch):
    def made_on(device, seeds=(0, 1)):
        monkeypatch.setattr(runner, "device_name", lambda: device)
        assert runner.execute(runs(seeds=list(seeds))[1]) == "done"
        return report.collect([])[0]["device"]

    folder = runs()[1].folder
    assert made_on("a GPU") == "a GPU"
    assert made_on("cpu") == "a GPU"  # which only shows what is there
    (folder / "seed-0/metrics.json").unlink()
    (folder / "seed-0/checkpoint.pt").touch()
    assert made_on("cpu") == "a GPU then cpu"
    assert made_on("cpu", [0, 1, 2]) == "a GPU then cpu"
    for path in folder.glob("seed-*/*"):
        path.unlink()
    assert made_on("cpu") == "cpu"


def test_code_without_a_history_is_unknown_and_not_reported(house, monkeypatch):
    git(monkeypatch, None, None)
    done_runs()
    assert [row["commit"] for row in report.collect([])] == ["unknown"] * 2
    notes = []
    report.write_committed(report.collect([]), notes)
    assert len(notes) == 2 and all("left out" in n and "unknown code" in n for n in notes)
    path = runs()[0].folder / "run.json"
    record = read_json(path)
    record["once"] = record.pop("commits")
    gl.write_json(path, record)
    assert [row["commit"] for row in report.collect([])] == ["unknown"] * 2


def commanded(*words):
    """What a command prints, in this process."""
    from click.testing import CliRunner

    from reproduce.__main__ import main

    return CliRunner().invoke(main, words, catch_exceptions=False).output


def listed(*words):
    """What `list` says of each method's quick run."""
    lines = [line.split() for line in commanded("list", *words).splitlines()]
    return [" ".join(line[3:]) for line in lines if line[2] == "quick"]


def test_list_says_which_seeds_are_done(house):
    assert listed() == ["missing seeds 0,1"] * 2
    runner.execute(runs(seeds=[0])[0])
    assert listed() == ["partly done seeds 0 of 0,1", "missing seeds 0,1"]
    runner.execute(runs()[0])
    runner.execute(runs(seeds=[7])[1])
    assert listed() == ["done seeds 0,1", "missing seeds 0,1"]
    (house / "notebooks/fail").write_text("TB+Expl")
    runner.execute(runs(seeds=[0])[1])
    assert listed("--only", "method=TB+Expl") == ["failed seeds 0,1"]


def test_a_failed_run_keeps_its_traceback_and_does_not_stop_the_rest(house):
    (house / "notebooks/fail").write_text("TB")
    first, second = runs()
    assert [runner.execute(first), runner.execute(second)] == ["failed", "done"]
    record = json.loads((first.folder / "run.json").read_text())
    assert "the seventh seal" in record["traceback"]
    assert record["cause"] == "RuntimeError: the seventh seal"
    assert (first.folder / "notebook.ipynb").exists() and not runner.finished(first)
    (house / "notebooks/fail").unlink()
    assert runner.execute(first) == "done"


def test_an_interrupted_run_is_marked_and_goes_on(house):
    (house / "notebooks/slow").touch()
    run = runs()[0]
    worker = f"""
import pathlib, sys
sys.path.insert(0, {str(ROOT)!r})
from reproduce import experiments, papers, provenance, runner
home = pathlib.Path({str(house)!r})
experiments.ROOT = runner.ROOT = home
experiments.FOLDER, experiments.RUNS = home / "reproduce/experiments", home / "reproduce/runs"
experiments.NOTEBOOKS = papers.NOTEBOOKS = provenance.NOTEBOOKS = home / "notebooks"
runner.execute(experiments.load("quick")[0])
"""
    child = subprocess.Popen([sys.executable, "-c", worker], stderr=subprocess.PIPE)
    waited = time.monotonic()
    while not (run.folder / "seed-0/starts").exists():
        assert time.monotonic() - waited < 60 and child.poll() is None
        time.sleep(0.1)
    assert runner.status(run) == "running"
    os.kill(child.pid, signal.SIGINT)
    child.wait(60)
    assert child.returncode == 0 and runner.status(run) == "interrupted"
    assert runner.record_of(run.folder)["cause"] == "interrupted from the keyboard"
    (house / "notebooks/slow").unlink()
    assert runner.execute(run) == "done"


def done_runs(profile="quick", **kwargs):
    for run in runs(profile, **kwargs):
        assert runner.execute(run) == "done"


# ---------------------------------------------------------------- all of it


def test_the_smoke_profile_runs_the_real_notebook(tmp_path, monkeypatch):
    monkeypatch.setattr(experiments, "RUNS", tmp_path)
    (run,) = experiments.select(experiments.load("smoke", [0, 1]), ["task=25gmm", "method=TB+Expl"])
    assert runner.execute(run) == "done", (run.folder / "run.json").read_text()
    notes = []
    row = report.collect(notes)[0]
    assert notes == [] and row["method"] == "TB+Expl"
    for name in ("elbo", "delta_log_z", "delta_log_z_rw", "w2", "modes", "seconds"):
        assert row["metrics"][name] is not None
    # Run again, a seed that has its metrics is left as it is; without them, they are made again
    # from its checkpoint and are the same.
    first, second = (run.folder / f"seed-{seed}/metrics.json" for seed in run.seeds)
    before = first.read_bytes()
    assert before != second.read_bytes()
    first.unlink()
    second.write_text('{"kept": 1}')
    assert runner.execute(run) == "done"
    assert first.read_bytes() == before and second.read_text() == '{"kept": 1}'
