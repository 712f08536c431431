"""What can be run: YAML experiments, checked before anything starts."""

import ast
import dataclasses
import hashlib
import itertools
import json
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from functools import cache, cached_property
from pathlib import Path

import yaml

import gfnlite as gl
from gfnlite.arguments import shown

from .reading import BadInput, parse_yaml, read_yaml

__all__ = [
    "BadInput", "Run", "check", "check_seeds", "command", "defaults", "load", "notebook_parameters",
    "parameters", "parse_settings", "select",
]  # fmt: skip

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "reproduce" / "experiments"
NOTEBOOKS = ROOT / "notebooks"
RUNS = ROOT / "reproduce" / "runs"

KEYS = {
    "task": str | list, "notebook": str, "methods": list, "seeds": dict, "overrides": dict,
    "published": str,
}  # fmt: skip
OPTIONAL = ("overrides", "published")
# Parameters that a run sets itself; the others of a notebook are overrides of its preset, and
# `settings`, if it has that, takes every setting that has no parameter of its own.
OWN_PARAMETERS = {"task", "method", "profile", "seeds", "out_dir", "track", "settings"}


@dataclasses.dataclass(frozen=True)
class Run:
    """One cell of an experiment: a method on a task in a profile, for some seeds."""

    task: str
    method: str
    profile: str
    seeds: tuple[int, ...]
    notebook: str
    overrides: Mapping[str, object]
    published: str = ""  # the paper's table in published.json; by default the task's name
    track: str = ""  # tensorboard or wandb: also log there; no part of what the run is

    def __post_init__(self):
        object.__setattr__(self, "published", self.published or self.task)

    @cached_property
    def config(self) -> gl.Config | gl.annealing.Annealing:
        """The resolved settings."""
        preset = gl.annealing.preset if self.method in gl.annealing.METHODS else gl.preset
        return preset(self.task, self.method, self.profile).replace(**self.overrides)

    @property
    def chosen(self) -> dict[str, object]:
        """The settings that are not as everywhere else: a new one renames no finished run."""
        usual = defaults(type(self.config))
        return {k: v for k, v in vars(self.config).items() if v != usual[k]}

    @cached_property
    def name(self) -> str:
        """`<task>-<method>-<profile>-<hash of the settings>`; seeds share the folder."""
        settings = json.dumps(self.chosen, sort_keys=True)
        digest = hashlib.sha256(settings.encode()).hexdigest()[:8]
        return f"{self.task}-{self.method}-{self.profile}-{digest}"

    @property
    def folder(self) -> Path:
        """Where the run keeps everything."""
        return RUNS / self.name


@cache
def defaults(kind: type[gl.Config] | type[gl.annealing.Annealing]) -> dict[str, object]:
    """What each setting is where nothing is said of it."""
    return vars(kind())


def check(run: Run) -> None:
    """Whether there is the run's notebook, which takes the settings, and the package knows them.

    Raises:
        BadInput: for a notebook that is not there, a setting that is unknown, of a wrong type, out
            of range or not taken, or a tracker that is unknown, not taken or not installed.
    """
    if f"{run.notebook}.py" not in os.listdir(NOTEBOOKS):  # no path, and of any length
        raise BadInput(f"notebook={shown(run.notebook)} is not in notebooks/")
    try:
        config = run.config
        if run.track:
            gl.callbacks.check(run.track)
    except (ValueError, TypeError, ImportError) as error:
        raise BadInput(str(error)) from error
    taken = notebook_parameters(run.notebook)
    if not taken <= OWN_PARAMETERS | set(config.describe()):
        raise BadInput(f"method={run.method!r} is not one that {run.notebook} runs")
    if run.track and "track" not in taken:
        raise BadInput(f"track={run.track!r}: {run.notebook} has no parameter 'track'")
    for name in run.overrides:
        if name not in taken and "settings" not in taken:
            raise BadInput(
                f"{name!r} is not a parameter of {run.notebook}; "
                f"allowed: {', '.join(sorted(taken - OWN_PARAMETERS))}"
            )


def check_seeds(where: str, profile: str, seeds) -> None:
    """Whether `seeds` is a list of different seeds.

    Raises:
        BadInput: if not, naming `where` they are given.
    """
    given = seeds if isinstance(seeds, list) else []
    whole = all(type(seed) is int and 0 <= seed < 2**32 for seed in given)
    if not whole or not given or len(set(given)) < len(given):
        raise BadInput(
            f"{where}: seeds={shown(seeds)} of profile {profile} must be a list of different "
            "integers from 0 to 4294967295"
        )


def parameters(run: Run) -> dict[str, object]:
    """What papermill gives the run's notebook: settings without a parameter go into `settings`."""
    taken = notebook_parameters(run.notebook)
    given = {"task": run.task, "method": run.method, "profile": run.profile}
    given |= {"seeds": list(run.seeds), "out_dir": str(run.folder)}
    given |= {name: value for name, value in run.overrides.items() if name in taken}
    given |= {"track": run.track} if run.track else {}
    rest = {name: value for name, value in run.overrides.items() if name not in taken}
    return given | ({"settings": rest} if rest else {})


def command(run: Run, usual: Sequence[int]) -> str:
    """What makes the run again, to be typed into a shell; `usual` are the seeds of its YAML."""
    words = ["python -m reproduce run --profile", run.profile]
    words += ["--only", f"task={run.task}", f"method={run.method}"]
    if tuple(usual) != run.seeds:
        words += ["--seeds", ",".join(map(str, run.seeds))]
    if run.overrides:
        words += ["--set", *(shlex.quote(f"{k}={v}") for k, v in run.overrides.items())]
    return " ".join(words)


def load(
    profile: str,
    seeds: list[int] | None = None,
    overrides: Mapping | None = None,
    only: Sequence[str] = (),
) -> list[Run]:
    """Runs of a profile, in the order of the files: all, or those that `only` selects.

    `overrides` win over the YAML's, and need to be settings of the selected runs alone.

    Raises:
        BadInput: for anything in the files or the arguments that could not be run as meant.
    """
    if profile not in gl.PROFILES:
        raise BadInput(f"profile={shown(profile)} is unknown; allowed: {', '.join(gl.PROFILES)}")
    if seeds is not None:
        check_seeds("given", profile, seeds)
    runs, given = [], None if seeds is None else tuple(seeds)
    for path in sorted(FOLDER.glob("*.yaml")):
        runs += _read(path, path.stat().st_mtime_ns, profile, given)
    runs = select(runs, only)
    if overrides:
        runs = [dataclasses.replace(r, overrides={**r.overrides, **overrides}) for r in runs]
        for run in runs:
            check(run)
    return runs


def select(runs: list[Run], only: Sequence[str]) -> list[Run]:
    """The runs that match every KEY=VALUE; KEY is task or method.

    Raises:
        BadInput: for another key, or a value that no run has.
    """
    for condition in only:
        key, equals, value = condition.partition("=")
        if key not in ("task", "method") or not equals:
            raise BadInput(f"--only {condition}: must be task=NAME or method=NAME")
        known = sorted({getattr(run, key) for run in runs})
        runs = [run for run in runs if getattr(run, key) == value]
        if not runs:
            raise BadInput(f"--only {condition}: no such {key}; allowed: {', '.join(known)}")
    return runs


def parse_settings(pairs: list[str]) -> dict[str, object]:
    """`["steps=50", "lr=1e-3", "coarse_steps=None"]` as values, numbers as numbers.

    Raises:
        BadInput: for text that is not KEY=VALUE, or whose value is not YAML.
    """
    settings = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not (key and equals):
            raise BadInput(f"--set {pair}: must be NAME=VALUE, such as steps=50")
        # YAML reads 1e-3 as text; on a command line it can only be meant as a number.
        number = re.fullmatch(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+", text)
        try:
            settings[key] = float(text) if number else parse_yaml(text)
            if text == "None":  # as settings are shown; YAML's is null
                settings[key] = None
        except yaml.YAMLError as error:
            raise BadInput(f"--set {pair}: not valid as a value of YAML") from error
    return settings


@cache
def notebook_parameters(notebook: str) -> frozenset[str]:
    """Names in the notebook's parameters cell (papermill's own reader misses `int | None`)."""
    cells = re.split(r"^# %%", (NOTEBOOKS / f"{notebook}.py").read_text(), flags=re.MULTILINE)
    marked = (cell.partition("\n") for cell in cells)
    source = "\n".join(code for head, _, code in marked if '"parameters"' in head)
    return frozenset(node.target.id for node in ast.parse(source).body)


@cache
def _said(path: Path, _modified: int) -> object:
    return read_yaml(path)


@cache  # a report asks for them dozens of times
def _read(path: Path, modified: int, profile: str, given: tuple[int, ...] | None) -> list[Run]:
    data = _said(path, modified)
    if not isinstance(data, dict):
        raise BadInput(f"{path.name}: must be a mapping with the keys {', '.join(KEYS)}")
    for key, value in data.items():
        if key not in KEYS:
            raise BadInput(f"{path.name}: unknown key {shown(key)}; allowed: {', '.join(KEYS)}")
        if not isinstance(value, KEYS[key]):
            kind = getattr(KEYS[key], "__name__", KEYS[key])
            raise BadInput(f"{path.name}: {key}={shown(value)} must be a {kind}")
    for key in KEYS:
        if key not in data and key not in OPTIONAL:
            raise BadInput(f"{path.name}: the key {key!r} is missing")
    seeds = data["seeds"].get(profile) if given is None else list(given)
    check_seeds(path.name, profile, seeds)
    runs, tasks = [], data["task"]
    tasks = tasks if isinstance(tasks, list) else [tasks]
    for task, method in itertools.product(tasks, data["methods"]):
        run = Run(
            task, method, profile, tuple(seeds), data["notebook"], data.get("overrides", {}),
            data.get("published", ""),
        )  # fmt: skip
        try:
            check(run)
        except BadInput as error:
            raise BadInput(f"{path.name}: {error}") from error
        runs.append(run)
    return runs
