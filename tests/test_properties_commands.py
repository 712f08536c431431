"""The command line, experiments in YAML and the environment, whatever is written in them.

Cases are generated: 1,650 with `--all`, 330 in the fast tier. What cannot be done is one line and
an exit code, never a traceback, and nothing on disk has changed.
"""

import contextlib
import io
import os
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml
from generated import cases, is_clear, tried
from hypothesis import strategies as st

import gfnlite as gl
from reproduce import (
    autoencoder,
    cli,
    cli_runs,
    cli_slurm,
    experiments,
    pool,
    reading,
    reasons,
    runner,
    seed_names,
)
from reproduce.__main__ import main
from reproduce.bench import schedule
from reproduce.experiments import BadInput
from reproduce.seed_table import ROWS

ROOT = Path(__file__).parent.parent
EXPERIMENT = {
    "task": "25gmm",
    "notebook": "fake",
    "methods": ["TB", "TB+Expl", "PIS"],
    "seeds": {"smoke": [0], "quick": [0, 1], "full": [0, 1]},
}


@pytest.fixture
def house(build_house, monkeypatch, tmp_path_factory):
    """A copy of the repository's shape with runs in every state, where nothing takes long."""
    home = build_house(EXPERIMENT, "pass\n")
    for name in seed_names.NOTEBOOKS.values():
        shutil.copy(home / "notebooks/fake.py", home / f"notebooks/{name}.py")
    for run, state in zip(experiments.load("quick"), ("done", "failed", "running"), strict=True):
        about = {name: getattr(run, name) for name in "task method profile notebook".split()}
        gl.write_json(run.folder / "config.json", about | {"config": asdict(run.config)})
        gl.write_json(run.folder / "run.json", {"status": state, "cause": None})
        gl.write_json(run.folder / "seed-0/metrics.json", {"elbo": -1.0})
        (run.folder / "notebook.ipynb").write_text("{}")
    monkeypatch.setenv("PATH", "")  # neither Slurm nor git
    monkeypatch.setattr(pool, "run_all", lambda runs, *_: {run.name: "failed" for run in runs})
    monkeypatch.setattr(cli_slurm, "carry_out", lambda *_, **__: None)
    monkeypatch.setattr(schedule, "execute", lambda *_: 0)
    for name in ("train", "truth", "prepare"):
        monkeypatch.setattr(autoencoder, name, lambda *_: {"sets": {}, "test_elbo": 1.0,
                                                           "test_elbo_se": 1.0})  # fmt: skip
    monkeypatch.setattr(cli_runs, "_say_where_time_goes", lambda runs: None)
    monkeypatch.chdir(tmp_path_factory.mktemp("here"))
    Path("bad.yaml").write_text("energy_type: [")
    return home


def contents(home):
    return {path: path.read_bytes() for path in home.rglob("*") if path.is_file()}


def restore(before, home):
    for path in contents(home).keys() - before.keys():
        path.unlink()
    for path, content in before.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def commanded(words, monkeypatch):
    """Exit code, output and errors of `python -m reproduce`; any exception but its exit is one."""
    streams = [io.TextIOWrapper(io.BytesIO(), "utf-8", errors, write_through=True)
               for errors in ("strict", "backslashreplace")]  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["reproduce", *words])
    with contextlib.redirect_stdout(streams[0]), contextlib.redirect_stderr(streams[1]):
        try:
            cli.entry()
            code = 0
        except SystemExit as ended:
            code = ended.code or 0
    return code, *(stream.buffer.getvalue().decode() for stream in streams)


# What can be typed: bytes that are no text are there too, as Python reads them, but no zero.
TEXT = st.text(
    st.characters(exclude_characters="\0", exclude_categories=["Cs"])
    | st.characters(min_codepoint=0xDC80, max_codepoint=0xDCFF, categories=["Cs"]),
    max_size=8,
)
TYPED = TEXT | st.integers().map(str) | st.floats().map(str) | st.sampled_from(
    [
        "", " ", "0", "-1", "1", "2", "1e400", "1e-3", "²", "٣", "0x10", "1_000", "nan", "None",
        "null", "~", "true", "[]", "[[[", "{a: b", "&a [*a]", "!!bool x", "!!timestamp x",
        "!!python/object:os", "2026-99-99", "..", "../..", "/", "/etc/passwd", "\n", "a\nb",
        "\x1b[31m", "-", "--", "=", "==", "%s", "{0}", "[red]", "$(x)", "9" * 5000, "[" * 3000,
        "x" * 5000, "8h", "30m", "1d", "999-99:99:99", "0.5s", "1e99d", "25gmm", "task=25gmm",
    ]
)  # fmt: skip
PAIRS = st.tuples(
    st.sampled_from([*gl.Config.describe(), "task", "seeds", "out_dir", "method"]) | TEXT,
    TYPED | st.sampled_from(["25gmm", "TB", "TB+Expl", "PIS", "SMC+MALA"]),
).map("=".join)
VALUES = {
    "--profile": st.sampled_from(["smoke", "quick", "full"]),
    "--seeds": st.lists(st.integers(-1, 5).map(str) | TYPED, max_size=3).map(",".join),
    "--only": st.sampled_from(["task=25gmm", "method=TB", "method=PIS"]) | PAIRS,
    "--set": PAIRS,
    "--sbatch": PAIRS,
    "--track": st.sampled_from(["tensorboard", "wandb"]),
    "--what": st.sampled_from(["stale", "failed", "interrupted", "smoke"]),
    "--format": st.sampled_from(["markdown", "latex", "csv"]),
    # never a path that may be there
    "--output": st.sampled_from(["", ".", "out", "/dev/null/x", "x" * 300]),
    "--from-yaml": st.sampled_from(["", ".", "bad.yaml", "nowhere.yaml", "/dev/null", "x" * 300]),
}


def option_of(command):
    """A word, or an option of the command with a value that is good, or any."""
    kinds = [TYPED.map(lambda word: [word]), st.just(["--nonsense"])]
    for param in command.params:
        for name in (name for name in param.opts if name.startswith("--")):
            if getattr(param, "is_flag", False):
                kinds.append(st.just([name]))
                continue
            value = VALUES.get(name, TYPED)
            value = value if name in ("--output", "--from-yaml") else value | TYPED
            kinds.append(value.map(lambda value, name=name: [name, value]))
    if command.name == "train":
        flags = st.sampled_from([f"--{row.name}" for row in ROWS])
        kinds.append(st.tuples(flags, TYPED | st.sampled_from(["9gmm", "vae", "tb"])).map(list))
    return st.one_of(kinds)


@st.composite
def commands(draw):
    command = main.commands[draw(st.sampled_from(sorted(main.commands)))]
    words = draw(st.lists(option_of(command), max_size=4))
    return [command.name, *sum(words, [])]


# Those change what is there when all is well: and `report` makes pictures for a long time.
WRITES = {"clean": "--yes", "collect": "collect", "report": "report", "submit": "submit"}


def check_command(words, home, before, monkeypatch):
    code, out, err = commanded(words, monkeypatch)
    assert code in (0, 1, 2) and "Traceback" not in out + err
    if code == 2 and words[0] != "drift":  # which says so if there is nothing to compare
        assert out == "" and err.startswith("reproduce: ") and err.count("\n") == 1
        assert is_clear(err.strip()) or "allowed: " in err
    assert code == 0 or out or err
    if contents(home) != before:
        assert code != 2 and WRITES.get(words[0]) in words
        restore(before, home)


@cases(150, 900)
def test_a_command_is_done_or_is_one_line(cases, house, monkeypatch):
    monkeypatch.setattr(pool, "gpus", lambda: [])
    before = contents(house)
    tried(cases, lambda words: check_command(words, house, before, monkeypatch), words=commands())
    assert contents(house) == before


def test_a_traceback_or_a_change_would_be_seen(house, monkeypatch):
    before = contents(house)
    monkeypatch.setattr(cli_runs.state, "standings", lambda runs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        check_command(["status"], house, before, monkeypatch)

    def careless(run):
        (run.folder / "run.json").write_text("{}")
        raise BadInput("no")

    monkeypatch.setattr(runner, "why_not", careless)
    with pytest.raises(AssertionError):
        check_command(["run", "--dry-run"], house, before, monkeypatch)


@pytest.mark.parametrize(
    "words",
    [
        [b"run", b"--only", b"task=\xff\xfe"],
        [b"show", b"\x1b[31m\xc3\x28"],
        [b"train", b"--energy", b"\xf0\x9f\x99\x82\xff"],
        [b"r\xffn"],
    ],
)
def test_bytes_that_are_no_text_are_one_line_from_a_shell_too(words):
    done = subprocess.run([sys.executable, "-m", "reproduce", *words], cwd=ROOT,
                          capture_output=True)  # fmt: skip
    said = done.stderr.decode()
    assert done.returncode == 2 and done.stdout == b""
    assert said.startswith("reproduce: ") and said.count("\n") == 1 and said.strip().isprintable()


def test_a_refused_submission_leaves_nothing_behind(house, monkeypatch):
    before = contents(house)
    code, _, err = commanded(["submit"], monkeypatch)
    assert code == 2 and "sbatch is not here" in err
    assert contents(house) == before and not list((experiments.RUNS / ".slurm").iterdir())


# ---------------------------------------------------------------- YAML

SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.dates(),
    st.binary(max_size=3),
    st.sampled_from(
        ["25gmm", "TB", "PIS", "../fake", "fake\0", "a\nb", "x" * 5000, "manywell7", ".", ""]
    ),
)  # fmt: skip
KEYS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
TREES = st.recursive(
    SCALARS, lambda t: st.lists(t, max_size=3) | st.dictionaries(KEYS, t, max_size=3), max_leaves=8
)
PARTS = {
    "task": SCALARS | st.lists(SCALARS, max_size=2),
    "notebook": SCALARS,
    "methods": st.lists(SCALARS, max_size=2),
    "seeds": st.dictionaries(
        st.sampled_from(["quick", "smoke"]) | KEYS,
        st.lists(st.integers(-2, 3) | SCALARS, max_size=3) | SCALARS, max_size=2,
    ),
    "overrides": st.dictionaries(
        st.sampled_from(list(gl.Config.describe())) | KEYS, SCALARS, max_size=2
    ),
    "published": SCALARS,
    "colour": TREES,
}  # fmt: skip
WHOLE = {
    "experiment": EXPERIMENT,
    "legacy": {"energy_type": "9gmm", "T": 50, "gfn": {"exploration": "none"}},
    "reasons": {"25gmm": {"TB": {"elbo": "open: who knows"}}},
}


@st.composite
def documents(draw):
    """Bytes that are of one of these kinds but for one thing, or anything; and what reads them."""
    kind = draw(st.sampled_from(["experiment", *WHOLE]))
    reader, whole = draw(st.sampled_from([kind, kind, "yaml"])), dict(WHOLE[kind])
    change = draw(
        st.sampled_from(["none", "part", "part", "key", "drop", "tree", "bytes", "bytes"])
    )
    if change == "part":
        name = draw(st.sampled_from(list(PARTS)))
        whole[name] = draw(PARTS[name] | TREES)
    elif change == "key":
        whole[draw(KEYS)] = draw(TREES)
    elif change == "drop":
        del whole[draw(st.sampled_from(list(whole)))]
    data = yaml.safe_dump(draw(TREES) if change == "tree" else whole, allow_unicode=True)
    data = data.encode("utf-8", "surrogatepass")
    if change == "bytes":
        at, gone = draw(st.integers(0, len(data))), draw(st.integers(0, 4))
        snippets = (
            b"\t &a *a !! <<: \xff : - [ { \n | > % @ ` # ? '\" \0 \r \xef\xbb\xbf ]\n --- ...\n "
            b"!!bool !!int !!float !!timestamp !!binary !!set !!omap !!python/name:os.system "
            b"<<:[1]\n .nan 0x 1:99"
        )
        put = draw(st.sampled_from(snippets.split(b" ")) | st.binary(max_size=4))
        data = data[:at] + put + data[at + gone :]
    return reader, data


def laughs(name):
    """Nine times nine times … of a key's value, in a line."""
    lines = [b"&a [x,x,x,x,x,x,x,x,x]"]
    for i in range(1, 12):
        lines.append(b"&%c [%s]" % (97 + i, b",".join([b"*%c" % (96 + i)] * 9)))
    return name + b": [" + b", ".join(lines) + b"]\n"


GOOD = yaml.safe_dump(EXPERIMENT).encode()
RAW = {
    "empty": b"",
    "aliases": GOOD.replace(b"task: 25gmm\n", laughs(b"task")),
    "more aliases": GOOD + b"overrides: {" + laughs(b"steps").strip() + b"}\n",
    "aliased key": laughs(b"x"),
    "circle": GOOD.replace(b"25gmm", b"&a [*a]"),
    "merged circle": GOOD + b"overrides: &a {<<: *a}\n",
    "deep list": b"[" * 3000,
    "deep mapping": b"{" * 3000 + b"a",
    "key twice": GOOD + b"task: 9gmm\n",
    "inner key twice": GOOD + b"overrides: {steps: 3, steps: 4}\n",
    "two documents": GOOD + b"---\n" + GOOD,
    "tab": b"\ttask: 25gmm",
    "huge number": GOOD + b"overrides: {steps: 0x" + b"f" * 5000 + b"}\n",
    "huge digits": GOOD + b"overrides: {steps: " + b"9" * 5000 + b"}\n",
    "surrogate": GOOD + b'published: "\\ud800"\n',
    "list as key": b"? [a]\n: b",
    "code": b"!!python/object/apply:os.system [ls]",
}
READERS = {
    "experiment": lambda path: [
        (run.folder, experiments.command(run, run.seeds), experiments.parameters(run))
        for run in experiments.load("quick")
    ],
    "legacy": seed_names.from_yaml,
    "reasons": reasons.read,
    "yaml": reading.read_yaml,
}


def read_with(reader, data, home):
    """What a reader says of the bytes, if it takes them; None if it refuses them in one line."""
    path = home / "reproduce/experiments/fake.yaml"
    path.write_bytes(data)
    experiments._read.cache_clear()
    try:
        return READERS[reader](path)
    except BadInput as error:
        # Lists of what is allowed may be long; the rest is not.
        message = reading.printable(str(error)).partition("allowed: ")[0]
        assert message.startswith("fake.yaml") and len(message) < 700


@cases(150, 600)
def test_yaml_is_read_or_is_one_line(cases, house):
    path = house / "reproduce/experiments/fake.yaml"
    whole, taken = path.read_bytes(), set()

    def check(document):
        reader, data = document
        if read_with(reader, data, house) is not None:
            taken.add(reader)

    tried(cases, check, document=documents())
    path.write_bytes(whole)
    assert taken == set(READERS)  # they are not all refused


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", RAW)
def test_yaml_that_is_made_to_harm_is_one_line(name, reader, house):
    found = read_with(reader, RAW[name], house)
    assert found is None or reader in ("reasons", "yaml") or name in ("surrogate", "merged circle")
    if name in ("empty", "aliased key"):
        assert reader == "yaml" or not found


def test_a_byte_order_mark_is_no_mistake_and_a_key_twice_is_named(house):
    assert len(read_with("experiment", b"\xef\xbb\xbf" + GOOD, house)) == 3
    path = house / "reproduce/experiments/fake.yaml"
    path.write_bytes(RAW["inner key twice"])
    line = RAW["inner key twice"].count(b"\n")
    with pytest.raises(BadInput, match=f"fake.yaml line {line}: .*the key 'steps' is given twice"):
        experiments.load("quick")
    # of a merged mapping a key may be said anew: that is what merging is for
    merged = b"base: &b {a: 1}\nmine: {<<: *b, a: 2}\n"
    assert reading.parse_yaml(merged)["mine"] == {"a": 2}
    assert reading.parse_yaml(b"{a: 1, 'b': 2, ? 3 : 4}") == {"a": 1, "b": 2, 3: 4}


# ---------------------------------------------------------------- environment

VARIABLES = [
    "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "GFNLITE_PROFILE", "GFNLITE_STATIC", "GFNLITE_DATA",
    "WANDB_PROJECT", "CXX", "COLUMNS", "SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID",
    "SLURM_RESTART_COUNT", "SLURMD_NODENAME", *seed_names.VARIABLES,
]  # fmt: skip
USES = [
    ["list"], ["status"], ["run"], ["run", "--dry-run"], ["train", "--from-environment"],
    ["work", "nowhere.json"], ["submit", "--dry-run"], ["bench", "--quick"], ["collect"],
]  # fmt: skip


@cases(30, 150)
def test_a_variable_is_taken_or_is_one_line(cases, house, monkeypatch):
    before = contents(house)

    def check(variables, words):
        with pytest.MonkeyPatch.context() as patch:
            for name, value in variables.items():
                patch.setenv(name, value)
            code, out, err = commanded(words, monkeypatch)
        assert code in (0, 1, 2) and "Traceback" not in out + err
        if code == 2:
            assert err.startswith("reproduce: ") and err.count("\n") == 1
        if words != ["collect"]:
            assert contents(house) == before
        restore(before, house)

    variables = st.dictionaries(st.sampled_from(VARIABLES), TYPED, min_size=1, max_size=3)
    tried(cases, check, variables=variables, words=st.sampled_from(USES))


@pytest.mark.parametrize("value", ["many", "0", "-1", "1.5", "9" * 50, "²", ""])
def test_threads_that_are_no_number_stop_a_run_before_it_starts(value, house, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    monkeypatch.setattr(pool, "run_all", lambda *_: pytest.fail("it started"))
    for words in (["run"], ["run", "--dry-run"], ["train", "--energy", "9gmm"]):
        code, _, err = commanded(words, monkeypatch)
        assert code == 2 and err.startswith("reproduce: OMP_NUM_THREADS=")


@pytest.mark.parametrize("value", ["", "three", "-1", "9" * 50])
def test_restarts_that_are_no_number_are_none(value, monkeypatch):
    monkeypatch.setenv("SLURM_RESTART_COUNT", value)
    assert cli_slurm.restarts(os.environ) == 0
    assert cli_slurm.restarts({"SLURM_RESTART_COUNT": "2"}) == 2


@pytest.mark.parametrize("value", ["Quick", "", "smoke ", "../full", "\udcff"])
def test_a_profile_in_the_environment_is_known_or_is_one_error(value, one_clear_error):
    """The chapters give what GFNLITE_PROFILE says to `gl.preset`, and the book checks it."""
    one_clear_error(lambda: gl.preset("25gmm", "TB", value), "profile=.* allowed: smoke, quick")
