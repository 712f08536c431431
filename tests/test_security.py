"""Weights, settings and names of strangers are data: nothing in them is executed."""

import ast
import json
import os
import pickle
import re
import shutil
import stat
import subprocess
import sys
import tempfile
from dataclasses import replace
from importlib.metadata import requires
from pathlib import Path

import jupytext
import pytest
import torch
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import gfnlite as gl
from gfnlite import files
from gfnlite.vae import VAE
from reproduce import constraints, experiments, runner
from reproduce.__main__ import entry
from reproduce.bench import quality

ROOT = Path(__file__).parent.parent
SMALL = {"iterations": 4, "batch_size": 16, "steps": 3, "coarse_steps": None, "hidden": 4}

# ---------------------------------------------------------------- what is written here

RUNS_WHAT_IT_READS = {
    "pickle", "joblib", "dill", "cloudpickle", "marshal", "shelve", "eval", "exec", "compile",
    "__import__", "os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput",
    "yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.full_load", "pandas.read_pickle",
    "torch.jit", "torch.hub", "torch.package", "tempfile.mktemp",
}  # fmt: skip
SHARED = f"{os.sep}tmp"  # a folder where others can write, too


def faults(source):
    """What in a program would run data, or leaves a file where others can guess it."""
    tree, known, found = ast.parse(source), {}, []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            known |= {a.asname or a.name.split(".")[0]: a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            known |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}

    def dotted(node):
        if isinstance(node, ast.Attribute):
            return f"{dotted(node.value)}.{node.attr}"
        return known.get(node.id, node.id) if isinstance(node, ast.Name) else "?"

    def forbidden(name):
        return any(name == one or name.startswith(f"{one}.") for one in RUNS_WHAT_IT_READS)

    found += [name for name in known.values() if forbidden(name)]
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and str(node.value).startswith(SHARED):
            found.append(node.value)
        if not isinstance(node, ast.Call):
            continue
        name = dotted(node.func)
        said = {k.arg: getattr(k.value, "value", "?") for k in node.keywords}
        if forbidden(name):
            found.append(name)
        if name == "torch.load" and said.get("weights_only") is not True:
            found.append("torch.load")
        if said.get("allow_pickle", False) or said.get("shell", False):
            found.append(f"{name} of {said}")
        if name.startswith("subprocess.") and isinstance(
            node.args[0], ast.JoinedStr | ast.Constant
        ):
            found.append(f"{name} of a string")
    return found


def programs():
    """(name, source) of all that is ours; of a notebook all cells but the one that fetches it."""
    for folder in ("gfnlite", "reproduce", "book"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield path.relative_to(ROOT), path.read_text()
    for path in sorted((ROOT / "notebooks").glob("*.py")):
        cells = [c for c in jupytext.read(path).cells if c.cell_type == "code"]
        own = [c.source for c in cells if c.metadata.get("tags") != ["remove-cell"]]
        assert len(cells) - len(own) == (path.stem != "01_from_scratch")
        yield path.relative_to(ROOT), "\n".join(own)


def test_nothing_here_runs_what_it_reads():
    found = {name: said for name, source in programs() if (said := faults(source))}
    assert found == {}
    tests = ((path.name, path.read_text()) for path in (ROOT / "tests").glob("*.py"))
    careless = [name for name, source in tests if "torch.load" in faults(source)]
    assert careless == ["test_security.py"]  # which has the twins


@pytest.mark.parametrize("source", [
    "import torch\ntorch.load(x)", "import torch\ntorch.load(x, weights_only=False)",
    "from torch import load as read\nread(x)", "import pickle", "from joblib import load",
    "import numpy as np\nnp.load(x, allow_pickle=True)", "import yaml\nyaml.load(x, Loader=L)",
    "from os import system as run\nrun(x)", "import subprocess\nsubprocess.run(x, shell=True)",
    "import subprocess\nsubprocess.run(f'ls {x}')", "eval(x)", "exec(x)", f"open('{SHARED}/here')",
    "import pandas as pd\npd.read_pickle(x)", "import tempfile\ntempfile.mktemp()",
    "import torch\ntorch.hub.load(x)",
])  # fmt: skip
def test_what_would_run_it_is_found(source):
    assert faults(source)


def test_what_does_not_is_left_alone():
    assert faults(
        "import torch, yaml, subprocess\ntorch.load(x, weights_only=True)\nmodel.eval()\n"
        "re.compile(x)\nyaml.safe_load(x)\nsubprocess.run(['ls', x])\ntorch.compile(f)"
    ) == []  # fmt: skip


# ---------------------------------------------------------------- weights


class Evil:
    """Unpickled, it leaves a file behind."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


WAYS = {
    "pickle": lambda evil, path: path.write_bytes(pickle.dumps(evil, 2)),
    "zip": lambda evil, path: torch.save({"format": 4, "config": evil}, path),
    "old": lambda evil, path: torch.save(evil, path, _use_new_zipfile_serialization=False),
}


def small(**more):
    return gl.GFNDiffusion(gl.gmm9, **SMALL, device="cpu", **more)


LOADERS = {
    "sampler": ("a.pt", lambda home: gl.GFNDiffusion.load(home / "a.pt")),
    "own energy": ("a.pt", lambda home: gl.GFNDiffusion.load(home / "a.pt", gl.gmm9)),
    "training": ("checkpoint.pt", lambda home: small().fit(folder=home, progress=False)),
    "seeds": (
        "seed-0/checkpoint.pt",
        lambda home: gl.Ensemble(gl.gmm9, seeds=2, **SMALL).fit(folder=home, progress=False),
    ),
    "autoencoder": ("a.safetensors", lambda home: VAE.load(home / "a.safetensors")),
    "its training": (
        "vae.pt",
        lambda home: VAE(9, 4, 2).fit(torch.rand(8, 9), 1, folder=home, progress=False),
    ),
    "benchmark": ("state.pt", lambda home: quality._restore(None, home, gl.Config())),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("name, load", LOADERS.values(), ids=LOADERS)
def test_no_code_in_weights_runs(tmp_path, one_clear_error, name, load, way):
    path, mark = tmp_path / name, tmp_path / "pwned"
    path.parent.mkdir(exist_ok=True)
    way(Evil(mark), path)
    one_clear_error(lambda: load(tmp_path), re.escape(str(path)))
    assert not mark.exists()


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_read_carelessly_the_code_would_run(tmp_path, way):
    path, mark = tmp_path / "a.pt", tmp_path / "pwned"
    way(Evil(mark), path)
    torch.load(path, weights_only=False) if way is not WAYS["pickle"] else pickle.loads(
        path.read_bytes()
    )
    assert mark.exists()


BODY = """
import gfnlite as gl
config = gl.preset(task, method, profile, steps=3, batch_size=16, iterations=3, hidden=4)
gl.Ensemble(gl.gmm9, config=config, seeds=seeds).fit(folder=out_dir, progress=False)
"""


def test_a_run_from_elsewhere_fails_on_such_weights_and_says_why(build_house, tmp_path):
    build_house({"task": "9gmm", "notebook": "fake", "methods": ["TB"], "seeds": {"quick": [0]}},
                BODY)  # fmt: skip
    (run,) = experiments.load("quick")
    (run.folder / "seed-0").mkdir(parents=True)
    WAYS["zip"](Evil(tmp_path / "pwned"), run.folder / "seed-0/checkpoint.pt")
    assert runner.execute(run) == "failed" and not (tmp_path / "pwned").exists()
    cause = runner.record_of(run.folder)["cause"]
    assert cause.startswith("ValueError: ") and cause.endswith("not a whole gfnlite checkpoint")


# ---------------------------------------------------------------- settings and names

HOSTILE = [
    "!!python/object/apply:os.system ['touch pwned']", "!!python/name:os.system", "'3", '"',
    "$(touch pwned)", "`touch pwned`", "3; touch pwned", "3\ntouch pwned", "3 && touch pwned",
    "\x1b]0;pwned\x07",
]  # fmt: skip


def refused(capsys, monkeypatch, *words):
    """The one line of a command that ends with exit code 2."""
    monkeypatch.setattr(sys, "argv", ["reproduce", *words])
    with pytest.raises(SystemExit) as ended:
        entry()
    said = capsys.readouterr().err
    assert ended.value.code == 2 and said.startswith("reproduce: "), said
    assert said.count("\n") == 1 and said.strip().isprintable()
    return said


@pytest.mark.parametrize("value", HOSTILE)
def test_a_setting_is_a_value(capsys, monkeypatch, tmp_path, value):
    monkeypatch.chdir(tmp_path)
    only = ["run", "--dry-run", "--only", "task=25gmm", "method=TB"]
    for pair in (f"steps={value}", f"{value}=3", value):
        refused(capsys, monkeypatch, *only, "--set", pair)
    for where in ("task", "method"):
        assert f"--only {where}=" in refused(
            capsys, monkeypatch, "run", "--only", f"{where}={value}"
        )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", [*HOSTILE, "../../x", "/x", "a\0b", "<b>", {"a": 1}, ["TB"], 3])
@pytest.mark.parametrize("key", ["task", "methods", "notebook", "published"])
def test_a_name_in_an_experiment_is_known_or_refused(build_house, capsys, monkeypatch, key, name):
    usual = {"task": "9gmm", "notebook": "fake", "methods": ["TB"], "seeds": {"quick": [0]}}
    home = build_house(usual, "pass")
    changed = usual | {key: [name] if key == "methods" else name}
    (home / "reproduce/experiments/fake.yaml").write_text(json.dumps(changed))
    monkeypatch.chdir(home)
    if key == "published" and isinstance(name, str):  # a table that is not there has no rows
        assert experiments.load("quick")[0].folder.parent == experiments.RUNS
    else:
        assert "fake.yaml" in refused(capsys, monkeypatch, "run", "--dry-run")
    assert not list(home.rglob("pwned"))


def test_a_command_that_is_shown_is_one_command():
    (run,) = experiments.load("quick", only=["task=25gmm", "method=TB"])
    run = replace(run, overrides={"$(touch pwned)": "`x`; y"})
    assert experiments.command(run, run.seeds).endswith("--set '$(touch pwned)=`x`; y'")


# ---------------------------------------------------------------- files


def test_a_file_is_private_until_it_is_whole(tmp_path, monkeypatch):
    seen, sync = [], os.fsync

    def look(handle):
        seen.extend((p.name, stat.S_IMODE(p.stat().st_mode)) for p in tmp_path.iterdir())
        sync(handle)

    monkeypatch.setattr(os, "fsync", look)
    monkeypatch.setattr(files, "UMASK", 0o027)
    for _ in range(2):
        files.write_bytes(tmp_path / "a", b"text")
    names = [name for name, mode in seen if name != "a" and mode == 0o600]
    assert len(set(names)) == 2  # of no two the same, so that none can be guessed
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


def test_compiled_code_is_kept_where_nobody_else_can_write(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    monkeypatch.setenv("CXX", sys.executable)  # only that there is one
    private, sampler = str(tmp_path / "gfnlite/compiled"), small()
    theirs = os.path.join(tempfile.gettempdir(), "torchinductor_me")  # PyTorch's own choice
    for before, after in ((None, private), (theirs, private), ("/elsewhere", "/elsewhere")):
        monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", before or "")  # noted, to be undone
        if before is None:
            monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
        sampler.policy.use(compiled=True)
        assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == after


# ---------------------------------------------------------------- dependencies


def pins(text):
    """{name: version} of a file of requirements."""
    found = re.findall(r"^([\w.-]+)==([\w.]+)", text, re.MULTILINE)
    return {canonicalize_name(name): version for name, version in found}


def test_the_strict_file_has_all_of_it_by_hash():
    text = constraints.PATH.read_text()
    entries = re.sub(r" \\\n\s+", " ", text).splitlines()
    entries = [line for line in entries if not line.startswith("#")]
    whole = r"[a-z0-9-]+==[\w.]+( --hash=sha256:[0-9a-f]{64})+"
    assert [line for line in entries if not re.fullmatch(whole, line)] == []
    strict = pins(text)
    assert len(entries) == len(strict) and "://" not in text
    assert "setuptools" in strict  # which builds gfnlite, where nothing is fetched for that
    for name, version in pins((ROOT / "requirements.txt").read_text()).items():
        assert strict[name] == version, f"{name}: python -m reproduce.constraints"
    lost = {
        needed.name
        for name in strict
        for needed in map(Requirement, needs(name))
        if needed.marker is None or needed.marker.evaluate({"extra": ""})
        if canonicalize_name(needed.name) not in strict
    }
    assert lost == set()


def needs(name):
    """What an installed package asks for; nothing of one that is of another platform."""
    try:
        return requires(name) or ()
    except ImportError:
        return ()


def test_a_package_without_a_wheel_is_refused():
    wheel = '{ url = "x", hashes = { sha256 = "ab" } }'
    lock = '[[packages]]\nname = "a"\nversion = "1"\n'
    assert constraints.lines(f"{lock}wheels = [{wheel}]") == ["a==1 \\\n    --hash=sha256:ab"]
    assert constraints.lines(f'{lock}directory = {{ path = "gfnlite" }}') == []
    with pytest.raises(ValueError, match="a==1 has no wheel"):
        constraints.lines(lock)


@pytest.fixture
def asked(tmp_path):
    """What the set-up asks of pip, with such variables."""
    for name in ("reproduce/environment.sh", "gfnlite/pyproject.toml", "requirements.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / ".venv/bin").mkdir(parents=True)
    for name, does in {"pip": f'echo "$@" >> "{tmp_path}/asked"', "python": "exit 1"}.items():
        (tmp_path / ".venv/bin" / name).write_text(f"#!/bin/sh\n{does}\n")
        (tmp_path / ".venv/bin" / name).chmod(0o755)

    def ask(**variables):
        words = ["bash", "-euc", 'source "$0"', str(tmp_path / "reproduce/environment.sh")]
        environment = {"PATH": os.environ["PATH"], "PYTHON": sys.executable}
        subprocess.run(words, env=environment | variables, check=True, capture_output=True)
        return (tmp_path / "asked").read_text().splitlines()

    return ask


def test_strictly_nothing_is_installed_but_by_hash(asked):
    fetched, own = asked(STRICT="1")
    assert "--require-hashes" in fetched and "--only-binary :all:" in fetched
    assert fetched.endswith("-r reproduce/constraints.txt") and own.endswith("-e ./gfnlite")
    assert all(word in own for word in ("--no-index", "--no-deps", "--no-build-isolation"))


def test_usually_the_pins_are_installed(asked):
    assert asked()[-1].endswith("-r requirements.txt")
