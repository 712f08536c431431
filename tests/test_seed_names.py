"""The names of the code before this project: each means what the table says, or is one error."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import asdict, fields
from pathlib import Path

import jupytext
import pytest
import yaml

import gfnlite as gl
from reproduce import experiments, seed_names
from reproduce.experiments import BadInput, Run
from reproduce.seed_table import ENERGIES, ROWS, Switch

ROOT = Path(__file__).parent.parent
PARAMETERS = (
    "task: str = ''\ntrack: str | None = None\nsteps: int | None = None\nsettings: dict = {}"
)


@pytest.fixture(autouse=True)
def notebooks(tmp_path, monkeypatch):
    """Notebooks that take every setting, of the names that runs have."""
    monkeypatch.setattr(experiments, "NOTEBOOKS", tmp_path / "notebooks")
    (tmp_path / "notebooks").mkdir()
    for name in seed_names.NOTEBOOKS.values():
        source = f'# %% tags=["parameters"]\n{PARAMETERS}'
        jupytext.write(jupytext.reads(source, "py:percent"), tmp_path / f"notebooks/{name}.py")
    experiments.notebook_parameters.cache_clear()
    monkeypatch.setattr(gl.callbacks, "check", lambda name: None)  # whatever is installed
    yield
    experiments.notebook_parameters.cache_clear()


# What each row's value means: how it is written, where it shows in the run, and as what. The run
# has local search, so that every row may be said.
MEANS = {
    "energy": ("many_well", "task", "manywell32"),
    "profile": ("quick", "profile", "quick"),
    "seed": ("12345", "seeds", (12345,)),
    "use_wandb": ("", "track", "wandb"),
    "mode_fwd": ("tb-avg", "method", "VarGrad+Expl+LS"),
    "use_trajectory_balance": ("true", "method", "TB+Expl+LS"),
    "exploration": ("local_search", "method", "TB+Expl+LS"),
    "local_search": ("", "method", "TB+Expl+LS"),
    "exploratory": ("", "method", "TB+Expl+LS"),
    "langevin": ("", "method", "TB+Expl+LP+LS"),
    "T": ("50", "steps", 50),
    "batch_size": ("512", "batch_size", 512),
    "epochs": ("5000", "iterations", 5000),
    "exploration_factor": ("0.3", "exploration", 9.0),  # of 100 steps
    "buffer_size": ("100000", "replay_capacity", 100_000),
    "max_iter_ls": ("10", "ls_steps", 10),
    "burn_in": ("20", "ls_burn_in", 20),
    "ls_cycle": ("7", "ls_every", 7),
    "ld_step": ("1e-3", "ls_step_size", 0.001),
    "both_ways": ("", "replay_ratio", 0.5),
    "mode_bwd": ("mle", "replay_objective", "mle"),
    "prioritized": ("none", "replay_priority", "uniform"),
    "rank_weight": ("0.5", "rank_weight", 0.5),
    "use_amp": ("", "amp", True),
    "lr_policy": ("2e-3", "lr", 0.002),
    "lr_flow": ("1e-2", "lr_log_z", 0.01),
    "grad_clip": ("1.5", "grad_clip", 1.5),
    "t_scale": ("3.", "sigma2", 3.0),
    "learned_variance": ("", "learn_variance", True),
    "hidden_dim": ("32", "hidden", 32),
    "joint_layers": ("3", "layers", 3),
    "subtb_lambda": ("3", "subtb_lambda", 3.0),
    "repeats": ("5", "repeats", 5),
    "disable_wandb": ("", "-", None),
    "partial_energy": ("", "-", None),
    "conditional_flow_model": ("", "-", None),
    "exploration_wd": ("", "-", None),
    "pis_architectures": ("", "-", None),
    "zero_init": ("", "-", None),
    "clipping": ("", "-", None),
    "lr_back": ("1e-3", "-", None),
    "lgv_clip": ("1e2", "-", None),
    "gfn_clip": ("1e4", "-", None),
    "ld_schedule": ("", "-", None),
    "target_acceptance_rate": ("0.574", "-", None),
}


def seen(run, option):
    """What the run has as an option, looked up where it decides something."""
    if option == "-":
        return None
    return getattr(run, option) if hasattr(run, option) else getattr(run.config, option)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_every_flag_key_and_variable_is_its_option(row, tmp_path):
    text, option, value = MEANS[row.name]
    assert row.option == option and option in {f.name for f in fields(Run)} | {"-"} | {
        f.name for f in fields(gl.Config)
    }
    runs = []
    if row.flag:
        words = [row.flag] if text == "" else [f"{row.flag}={text}"]
        search = [] if row.name == "local_search" else ["--local_search"]
        runs.append(seed_names.from_flags([*words, *search]))
        if not isinstance(row, Switch):
            assert seed_names.from_flags([row.flag, text, *search]) == runs[0]
        said = {"LOCAL_SEARCH": "1", row.variable: text or row.flag}
        runs.append(seed_names.from_environment(said))
        assert row.variable == row.flag[2:].upper()
    # in the file as YAML itself reads the text: numbers as numbers
    data = {"energy_type": "9gmm", "local_search": True}
    said = {row.in_yaml: True if text == "" else yaml.safe_load(text)}
    for key in [key for key in said if key.startswith("gfn.")]:
        said = {"gfn": {key[4:]: said[key]}}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(data | said))
    runs.append(seed_names.from_yaml(tmp_path / "run.yaml"))
    for run in runs:
        assert seen(run, option) == value
    if option != "-":  # and it is this name that made it so
        bare = seed_names.from_flags([])
        assert seen(bare, option) != value or row.name == "use_trajectory_balance"


def test_nothing_said_is_the_paper_s_run_of_the_first_energy():
    run = seed_names.from_environment({"PATH": "/bin", "HOME": "", "t": "x"})
    assert run == Run("9gmm", "TB", "full", (0,), "04_25gmm", {}) == seed_names.from_flags([])


def test_the_commands_that_users_know():
    variables = {"ENERGY": "many_well", "T": "50", "BATCH_SIZE": "512", "EPOCHS": "5000"}
    plain = seed_names.from_environment(variables | {"LOCAL_SEARCH": "", "USE_AMP": ""})
    changes = {"steps": 50, "batch_size": 512, "iterations": 5000}
    assert plain == Run("manywell32", "TB", "full", (0,), "07_manywell", changes)
    off = {"LOCAL_SEARCH": "no", "USE_AMP": "0"}  # as is what is not set, or says so
    assert plain == seed_names.from_environment(variables)
    assert plain == seed_names.from_environment(variables | off)
    run = seed_names.from_environment(variables | {"LOCAL_SEARCH": "1", "USE_AMP": "true"})
    changes = {"steps": 50, "batch_size": 512, "iterations": 5000, "amp": True}
    assert run == Run("manywell32", "TB+Expl+LS", "full", (0,), "07_manywell", changes)
    spelled = {"LOCAL_SEARCH": "--local_search", "USE_AMP": "--use_amp"}
    assert seed_names.from_environment(variables | spelled) == run

    words = "--energy 9gmm --local_search --T 20 --batch_size 512 --use_amp --max_iter_ls 10"
    run = seed_names.from_flags([*words.split(), "--disable_wandb"])
    assert (run.config.ls_steps, run.config.ls_burn_in, run.config.steps) == (10, 5, 20)


@pytest.mark.parametrize(
    "words, method",
    [
        ("--mode_fwd tb --lr_flow 1e-1", "TB"),
        ("--mode_fwd tb-avg --exploratory --exploration_wd --exploration_factor 0.2",
         "VarGrad+Expl"),
        ("--mode_fwd subtb --lr_flow 1e-2 --partial_energy --conditional_flow_model", "FL-SubTB"),
        ("--mode_fwd pis --langevin --epochs 10000", "PIS+LP"),
        ("--mode_fwd tb --exploratory --exploration_factor 0.2 --langevin --epochs 10000",
         "TB+Expl+LP"),
    ],
)  # fmt: skip
def test_the_paper_s_own_commands_are_its_rows_unchanged(words, method):
    always = "--t_scale 5. --energy 25gmm --pis_architectures --zero_init --clipping"
    run = seed_names.from_flags(f"{always} --lr_policy 1e-3 {words}".split())
    assert run == Run("25gmm", method, "full", (0,), "04_25gmm", {})


def test_wandb_is_off_unless_it_is_asked_for():
    assert seed_names.from_flags(["--use_wandb=false"]).track == ""
    plain = seed_names.from_flags([])
    assert seed_names.from_flags(["--disable_wandb"]) == plain and plain.track == ""
    tracked = seed_names.from_environment({"USE_WANDB": "1"})
    assert tracked.folder == plain.folder  # it is the same run
    one_error(
        lambda: seed_names.from_flags(["--disable_wandb", "--use_wandb"]),
        "--use_wandb='true' and disable_wandb contradict each other",
    )


def test_a_factor_of_exploration_is_a_variance_whatever_the_steps():
    for steps, factor, variance in [("50", "0.2", 2.0), ("100", "0.1", 1.0), ("25", "2", 100.0)]:
        run = seed_names.from_flags(["--T", steps, "--exploration_factor", factor])
        assert run.config.exploration == pytest.approx(variance)
        # what it adds in one of T steps is factor^2
        each = run.config.exploration / run.config.steps
        assert each == pytest.approx(float(factor) ** 2)
    none = seed_names.from_flags(["--local_search", "--exploration_factor", "0"])
    assert none.config.exploration == 0 and none.method == "TB+Expl+LS"


def test_every_energy_has_a_target_and_its_notebook():
    books = dict.fromkeys(["manywell32", "manywell64", "manywell128"], "07_manywell")
    books |= dict.fromkeys(["vae", "vae_whitened"], "08_vae_conditional")
    for name, task in ENERGIES.items():
        run = seed_names.from_flags(["--energy", name])
        assert run.task == task and task in gl.TASKS
        assert run.notebook == books.get(task, "04_25gmm")


def test_the_readme_s_yaml(tmp_path):
    (tmp_path / "manywell.yaml").write_text(
        "energy_type: manywell\ndiffusion_steps: 1000\nbatch_size: 256\ngfn:\n"
        "  use_trajectory_balance: true\n  exploration: local_search\n"
        "  replay_buffer_size: 100000\n"
    )
    run = seed_names.from_yaml(tmp_path / "manywell.yaml")
    changes = {"steps": 1000, "batch_size": 256, "replay_capacity": 100_000}
    assert run == Run("manywell32", "TB+Expl+LS", "full", (0,), "07_manywell", changes)


def test_the_table_is_complete_and_for_people():
    table = seed_names.table()
    assert {row["key"] for row in table} == {row.in_yaml for row in ROWS}
    assert all(row["meaning"] and row["option"] for row in table)
    for column in ("flag", "key", "variable"):
        said = [row[column] for row in table if row[column]]
        assert len(said) == len(set(said))


BAD_VALUES = [
    ("--T", "abc", "must be a whole number"),
    ("--T", "0", "steps=0 must be at least 1"),
    ("--T", "10001", "must be at most 10000"),
    ("--T", "5.0", "must be a whole number"),
    ("--T", "", "must be a whole number"),
    ("--T", "; touch x", "must be a whole number"),
    ("--T", "$(touch x)", "must be a whole number"),
    ("--T", "50\n60", "must be a whole number"),
    ("--T", "٥٠", "must be a whole number"),
    ("--T", "9" * 5000, "must be a whole number"),
    ("--batch_size", "-3", "batch_size=-3 must be at least 1"),
    ("--batch_size", "0x10", "must be a whole number"),
    ("--batch_size", "nan", "must be a whole number"),
    ("--epochs", "1e400", "must be a whole number"),
    ("--epochs", "-0", "iterations=0 must be at least 1"),
    ("--seed", "-1", "must not be negative"),
    ("--seed", "1,2", "must be a whole number"),
    ("--energy", "26gmm", "is unknown; allowed: 9gmm, 25gmm"),
    ("--energy", "", "is unknown; allowed: 9gmm"),
    ("--energy", "../25gmm", "is unknown; allowed: 9gmm"),
    ("--energy", "9gmm\n", "is unknown; allowed: 9gmm"),
    ("--profile", "fast", "is unknown; allowed: smoke, quick, full"),
    ("--mode_fwd", "db", "is unknown; allowed: tb, tb-avg"),
    ("--prioritized", "random", "is unknown; allowed: none, rank, reward"),
    ("--use_amp", "maybe", "must be true or false"),
    ("--local_search", "2", "must be true or false"),
    ("--local_search", "`touch x`", "must be true or false"),
    ("--disable_wandb", "no", "must be true: nothing is logged anywhere else"),
    ("--use_wandb", "maybe", "must be true or false"),
    ("--lr_policy", "fast", "must be a finite number"),
    ("--lr_policy", "inf", "must be a finite number"),
    ("--lr_policy", "1e400", "must be a finite number"),
    ("--lr_policy", "-1e-3", "lr=-0.001 must be greater than 0"),
    ("--exploration_factor", "1e200", "exploration=inf must be finite"),
    ("--exploration_factor", "nan", "must be a finite number"),
    ("--exploration_factor", "1_0", "must be a finite number"),
    ("--buffer_size", "0", "replay_capacity=0 must be at least 1"),
    ("--buffer_size", "999999999999", "must be at most 1000000000"),
    ("--max_iter_ls", "0", "ls_steps=0 must be at least 1"),
    ("--burn_in", "-1", "ls_burn_in=-1 must be at least 0"),
    ("--repeats", "7", "batch_size=300 must be a multiple of repeats=7"),
    ("--ls_cycle", "10", "set replay_ratio above 0"),
    ("--zero_init", "0", "must be True: it is always so here"),
    ("--gfn_clip", "5", "must be 10000.0: it is always so here"),
]


def one_error(call, *parts):
    with pytest.raises(BadInput) as caught:
        call()
    message = str(caught.value)
    assert len(message.splitlines()) == 1 and len(message) < 900
    for part in parts:
        assert part in message, message


@pytest.mark.parametrize("flag, value, message", BAD_VALUES)
def test_a_wrong_value_is_one_line_that_names_what_was_written(flag, value, message, tmp_path):
    shown = repr(value) if len(value) < 50 else repr(value)[:28]
    variable = flag[2:].upper()
    one_error(lambda: seed_names.from_flags([f"{flag}={value}"]), f"{flag}={shown}", message)
    one_error(
        lambda: seed_names.from_environment({variable: value}), f"{variable}={shown}", message
    )
    key = seed_names.FLAGS[flag].in_yaml
    data = {"energy_type": "9gmm", key: value}
    if key.startswith("gfn."):
        data = {"energy_type": "9gmm", "gfn": {key[4:]: value}}
    (tmp_path / "bad.yaml").write_text(yaml.safe_dump(data, allow_unicode=True))
    one_error(
        lambda: seed_names.from_yaml(tmp_path / "bad.yaml"), "bad.yaml", f"{key}={shown}", message
    )


@pytest.mark.parametrize(
    "words, message",
    [
        (["--colour", "red"], "'--colour' is no flag; allowed: --energy"),
        (["red"], "'red' is no flag"),
        (["-T", "5"], "'-T' is no flag"),
        (["--use_amp", "maybe"], "'maybe' is no flag"),
        (["--T"], "--T needs a value: transitions"),
        (["--T", "--use_amp"], "--T needs a value"),
        (["--T", "5", "--T=6"], "--T is given twice"),
        (["--use_trajectory_balance"], "is no flag"),
        (
            ["--mode_fwd", "pis", "--local_search"],
            "--local_search='true': PIS+Expl+LS is no",
        ),
        (["--mode_fwd", "pis", "--exploration_factor", "1"], "--exploration_factor='1': PIS+Expl"),
        (
            ["--local_search", "--max_iter_ls", "9", "--burn_in", "20"],
            "--burn_in='20', --max_iter_ls='9': ls_burn_in=20 must be below ls_steps=9",
        ),
        (["a\nb"], r"'a\nb' is no flag"),
        (["x" * 5000], "is no flag"),
    ],
)
def test_wrong_words_are_one_line(words, message):
    one_error(lambda: seed_names.from_flags(words), message)


DEEP = "[" * 100_000
BAD_FILES = [
    ("", "must be a mapping"),
    ("- 1", "must be a mapping"),
    ("energy_type: [9gmm", "bad.yaml line 1: not valid YAML"),
    ("energy_type: 9gmm\nwhen: 2024-99-99", "not valid YAML"),
    ("energy_type: !!python/object:os.system x", "not valid YAML"),
    (DEEP, "not valid YAML"),
    ("diffusion_steps: 5", "the key 'energy_type' is missing"),
    ("energy_type: 9gmm\nT: 5", "unknown key 'T'; allowed: energy_type"),
    ("energy_type: 9gmm\n1: 5", "unknown key 1"),
    ("energy_type: 9gmm\ngfn: 3", "gfn: in it another"),
    ("energy_type: 9gmm\ngfn: {colour: red}", "unknown key 'gfn.colour'"),
    ("energy_type: 9gmm\nuse_trajectory_balance: true", "unknown key 'use_trajectory_balance'"),
    ("energy_type: 9", "energy_type=9 is unknown"),
    ("energy_type: null", "energy_type=None is unknown"),
    ("energy_type: &a [*a]", "is unknown; allowed"),
    ("energy_type: 9gmm\ndiffusion_steps: true", "diffusion_steps=True must be a whole number"),
    ("energy_type: 9gmm\ndiffusion_steps: 1e3", "diffusion_steps='1e3' must be a whole number"),
    ("energy_type: 9gmm\ndiffusion_steps: [5]", "diffusion_steps=[5] must be a whole number"),
    ("energy_type: 9gmm\nepochs: 0x" + "f" * 9000, "must be a whole number"),
    ("energy_type: 9gmm\nlr_policy: .inf", "lr_policy=inf must be a finite number"),
    ("energy_type: 9gmm\nlr_policy: 0x" + "f" * 9000, "must be a finite number"),
    ("energy_type: 9gmm\nuse_amp: 1", "use_amp=1 must be true or false"),
    ("energy_type: 9gmm\ngfn: {exploration: true}", "gfn.exploration=True is unknown; allowed"),
    ("energy_type: 9gmm\ngfn: {use_trajectory_balance: 1}", "must be true or false"),
    ("energy_type: 9gmm\nmode_fwd: subtb\ngfn: {use_trajectory_balance: true}", "TB+FL-SubTB is"),
    (
        "energy_type: 9gmm\ngfn: {use_trajectory_balance: false, exploration: noise}",
        "PIS+Expl is no method; allowed: DIS",
    ),
]


@pytest.mark.parametrize("text, message", BAD_FILES, ids=range(len(BAD_FILES)))
def test_a_wrong_file_is_one_line(text, message, tmp_path):
    (tmp_path / "bad.yaml").write_text(text)
    one_error(lambda: seed_names.from_yaml(tmp_path / "bad.yaml"), "bad.yaml", message)


def test_a_file_that_cannot_be_read_is_one_line(tmp_path):
    one_error(lambda: seed_names.from_yaml(tmp_path / "no.yaml"), "No such file")
    one_error(lambda: seed_names.from_yaml(tmp_path), "Is a directory")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\xfa")
    one_error(lambda: seed_names.from_yaml(tmp_path / "bytes.yaml"), "not valid YAML")


def test_a_task_without_its_notebook_is_one_line():
    (experiments.NOTEBOOKS / "07_manywell.py").unlink()
    one_error(
        lambda: seed_names.from_environment({"ENERGY": "many_well"}),
        "ENERGY='many_well': there is no notebook 07_manywell",
    )


def test_settings_without_a_parameter_of_their_own_go_into_one():
    run = seed_names.from_flags(["--T", "50", "--use_amp"])
    given = experiments.parameters(run)
    assert given["steps"] == 50 and given["settings"] == {"amp": True} and "amp" not in given
    assert "settings" not in experiments.parameters(seed_names.from_flags([]))


@pytest.mark.parametrize("name", ["04_25gmm", "08_vae_conditional"])
def test_the_real_notebooks_resolve_a_run_as_the_runner_does(name, monkeypatch):
    """Their cells after the parameters make of what papermill passes the run's own config."""
    monkeypatch.setattr(experiments, "NOTEBOOKS", ROOT / "notebooks")
    experiments.notebook_parameters.cache_clear()
    cells = [c for c in jupytext.read(ROOT / f"notebooks/{name}.py").cells if c.cell_type == "code"]
    tags = [c.metadata.get("tags", []) for c in cells]
    at = tags.index(["parameters"])
    task = {"04_25gmm": "25gmm", "08_vae_conditional": "vae_whitened"}[name]
    changes = {"steps": 7, "layers": 3, "amp": True, "coarse_steps": None}
    run = Run(task, "VarGrad+Expl", "quick", (0,), name, changes)
    experiments.check(run)
    space = {"gl": gl, "os": os, "Markdown": str, "Path": Path}
    exec(cells[at].source, space)
    space |= experiments.parameters(run)
    exec(cells[at + 1].source, space)
    assert space["config"] == run.config and run.config.coarse_steps is None
    assert asdict(run.config)["layers"] == 3


# ---------------------------------------------------------------- the script


@pytest.fixture
def repository(tmp_path):
    """A repository whose python only says how it was called."""
    home = tmp_path / "it's a $(home)"
    for name in ("reproduce/slurm", "notebooks", ".venv/bin"):
        (home / name).mkdir(parents=True)
    for name in ("reproduce/environment.sh", "reproduce/slurm/run_gfn.sh"):
        shutil.copy(ROOT / name, home / name)
    (home / "requirements.txt").write_text("")
    (home / "gfnlite").mkdir()
    (home / "gfnlite/pyproject.toml").write_text("")
    sums = subprocess.run(["cksum"], input="", capture_output=True, text=True).stdout
    (home / ".venv/.installed").write_text(sums)
    report = (
        "import json, os, sys; print(json.dumps([sys.argv[1:], dict(os.environ), os.getcwd()]))"
    )
    (home / ".venv/bin/python").write_text(
        f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -c {shlex.quote(report)} "$@"\n'
    )
    (home / ".venv/bin/python").chmod(0o755)
    return home


def submitted(script, cwd, *words, **variables):
    base = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/")}
    return subprocess.run(
        ["bash", str(script), *words], cwd=cwd, env=base | variables, capture_output=True, text=True
    )


HOSTILE = ["; touch x", "$(touch x)", "`touch x`", "a\ntouch x", "' ; touch x ; '", "*", "--help"]


@pytest.mark.parametrize("value", HOSTILE)
def test_the_script_passes_values_on_as_data(repository, value):
    script = repository / "reproduce/slurm/run_gfn.sh"
    variables = dict.fromkeys(["ENERGY", "T", "EPOCHS", "LOCAL_SEARCH", "PROFILE"], value)
    done = submitted(script, repository / "notebooks", **variables)
    words, environment, folder = json.loads(done.stdout)
    assert words == ["-m", "reproduce", "train", "--from-environment"]
    assert {name: environment[name] for name in variables} == variables
    assert Path(folder) == repository and environment["OMP_NUM_THREADS"] == "1"
    assert not list(repository.rglob("x"))
    one_error(lambda: seed_names.from_environment(environment), "ENERGY=", "is unknown")


@pytest.mark.parametrize("value", HOSTILE)
def test_the_job_of_an_array_passes_words_and_variables_on_as_data(repository, value):
    script = shutil.copy(ROOT / "reproduce/slurm/job.sh", repository / "job.sh")
    programs = repository / ".venv/bin"
    (programs / "activate").write_text(f"PATH={shlex.quote(str(programs))}:$PATH\n")
    variables = dict.fromkeys(["SLURM_CPUS_PER_TASK", "SLURM_ARRAY_TASK_ID", "SLURM_JOB_ID"], value)
    done = submitted(script, repository, "work", value, **variables)
    words, environment, _ = json.loads(done.stdout)
    assert words == ["-m", "reproduce", "work", value]
    assert {name: environment[name] for name in variables} == variables
    assert environment["OMP_NUM_THREADS"] == value
    assert not list(repository.rglob("x"))


def test_the_script_finds_the_repository_it_was_submitted_from(repository, tmp_path):
    spool = tmp_path / "spool"
    spool.mkdir()
    script = shutil.copy(repository / "reproduce/slurm/run_gfn.sh", spool / "slurm_script")
    inside = str(repository / "notebooks")
    done = submitted(script, spool, SLURM_SUBMIT_DIR=inside, SLURM_CPUS_PER_TASK="3")
    _, environment, folder = json.loads(done.stdout)
    assert Path(folder) == repository and environment["OMP_NUM_THREADS"] == "3"
    outside = submitted(script, spool, SLURM_SUBMIT_DIR=str(spool))
    assert outside.returncode == 2 and outside.stderr.count("\n") == 1
    assert "submit from inside of it" in outside.stderr
    shutil.rmtree(repository / ".venv")
    bare = submitted(script, spool, SLURM_SUBMIT_DIR=inside)
    assert bare.returncode == 2 and "has no .venv" in bare.stderr and bare.stdout == ""


def test_the_script_asks_slurm_to_come_back():
    text = (ROOT / "reproduce/slurm/run_gfn.sh").read_text()
    asked = re.findall(r"(?m)^#SBATCH --([\w-]+)(?:=(\S+))?$", text)
    wanted = {"requeue": "", "open-mode": "append", "signal": "B:USR1@90", "job-name": "gfn"}
    assert wanted.items() <= dict(asked).items() and "time" in dict(asked)
    assert os.access(ROOT / "reproduce/slurm/run_gfn.sh", os.X_OK)
