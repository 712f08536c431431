"""Runs from the flags, YAML or variables that users of the code before this project know."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from pathlib import Path

import gfnlite as gl
from gfnlite.arguments import shown

from . import experiments
from .experiments import BadInput, Run
from .reading import read_yaml
from .seed_table import ROWS, Row, Switch

NOTEBOOKS = {"manywell": "07_manywell", "vae": "08_vae_conditional", "": "04_25gmm"}  # by prefix
LOSSES = ("PIS", "TB", "VarGrad", "FL-SubTB")
EXTRAS = ("Expl", "LP", "LS")

FLAGS = {row.flag: row for row in ROWS if row.flag}
KEYS = {row.in_yaml: row for row in ROWS}
VARIABLES = {row.variable: row for row in ROWS if row.variable}
SETTINGS = {field.name for field in fields(gl.Config)}


def from_flags(words: list[str]) -> Run:
    """The run that `--energy 9gmm --T 20 --local_search` means.

    Raises:
        BadInput: for an unknown flag, a missing or unusable value, or settings that do not fit.
    """
    said, rest = [], list(words)
    while rest:
        flag, equals, value = rest.pop(0).partition("=")
        row = FLAGS.get(flag)
        if row is None:
            raise BadInput(f"{shown(flag)} is no flag; allowed: {', '.join(FLAGS)}")
        if not equals and isinstance(row, Switch):
            value = "true"
        elif not equals:
            if not rest or rest[0].startswith("--"):
                raise BadInput(f"{flag} needs a value: {row.meaning}")
            value = rest.pop(0)
        said.append((row, flag, value))
    return _run(said)


def from_yaml(path: str | Path) -> Run:
    """The run that a file with `energy_type: manywell`, `gfn: {exploration: …}` means.

    Raises:
        BadInput: for a file that cannot be read, an unknown key or as `from_flags`.
    """
    name, data = shown(Path(path).name)[1:-1], read_yaml(Path(path))
    nested = data.pop("gfn", {}) if isinstance(data, dict) else None
    if not isinstance(nested, dict):
        raise BadInput(f"{name}: must be a mapping, and gfn: in it another")
    data |= {f"gfn.{key}": value for key, value in nested.items()}
    for key in data:
        if key not in KEYS:
            raise BadInput(f"{name}: unknown key {shown(key)}; allowed: {', '.join(KEYS)}")
    if "energy_type" not in data:
        raise BadInput(f"{name}: the key 'energy_type' is missing")
    try:
        return _run((KEYS[key], key, value) for key, value in data.items())
    except BadInput as error:
        raise BadInput(f"{name}: {error}") from error


def from_environment(environment: Mapping[str, str]) -> Run:
    """The run that variables such as ENERGY, T and LOCAL_SEARCH mean; others are not looked at.

    A switch is on if it says so, or repeats its flag (LOCAL_SEARCH=1, LOCAL_SEARCH=--local_search);
    LOCAL_SEARCH="" is off, and so is a variable that is not set.

    Raises:
        BadInput: as `from_flags`.
    """
    said = []
    for variable, row in VARIABLES.items():
        if variable in environment:
            value = environment[variable]
            said.append((row, variable, "true" if value == row.flag else value))
    return _run(said)


def table() -> list[dict[str, str]]:
    """What each flag, key and variable is here, for the documentation."""
    return [
        {
            "flag": row.flag or "",
            "key": row.in_yaml,
            "variable": row.variable or "",
            "option": row.option,
            "meaning": row.meaning,
        }
        for row in ROWS
    ]


def _run(said: Iterable[tuple[Row, str, object]]) -> Run:
    values, labels = {}, {}
    for row, label, value in said:
        if row.name in values:
            raise BadInput(f"{label} is given twice")
        try:
            values[row.name] = row.read(value)
        except ValueError as error:
            raise BadInput(f"{label}={shown(value)} {error}") from error
        labels.setdefault(row.option, []).append(f"{label}={shown(value)}")
    by_option = {row.option: values[row.name] for row in ROWS if row.name in values}
    task, profile = by_option.get("task", "9gmm"), by_option.get("profile", "full")
    method = _method(values, labels)
    settings = {name: value for name, value in by_option.items() if name in SETTINGS}
    factor = settings.pop("exploration", None)
    if method.startswith("FL-SubTB") and "lr_log_z" in settings:
        settings["lr_flow"], labels["lr_flow"] = settings.pop("lr_log_z"), labels["lr_log_z"]
    if "ls_steps" in settings:
        settings.setdefault("ls_burn_in", settings["ls_steps"] // 2)  # as the paper has it
    notebook = next(book for start, book in NOTEBOOKS.items() if task.startswith(start))
    track = by_option.get("track", "")
    if track and "disable_wandb" in values:
        raise BadInput(f"{labels['track'][0]} and disable_wandb contradict each other")
    seeds = (by_option.get("seeds", 0),)
    run = Run(task, method, profile, seeds, notebook, settings, track=track)
    _check(run, labels)
    if factor is not None:
        variance = run.config.steps * factor * factor  # T steps of dt = 1 / T add e dt each
        run = replace(run, overrides=settings | {"exploration": variance})
        _check(run, labels)
    # What the preset says anyhow is no change of it: the run is then the paper's row itself.
    usual = gl.preset(task, method, profile)
    changes = {k: v for k, v in run.overrides.items() if v != getattr(usual, k)}
    return replace(run, overrides=changes)


def _method(values: Mapping, labels: Mapping) -> str:
    """The name in `gl.METHODS` of all the parts that were asked for."""
    parts = {"Expl"} if values.get("exploration_factor") else set()
    for row in ROWS:
        if row.option == "method":
            parts |= values.get(row.name, set())
    losses = [part for part in LOSSES if part in parts] or ["TB"]
    method = "+".join([*losses, *(part for part in EXTRAS if part in parts)])
    if method not in gl.METHODS:
        asked = ", ".join(labels.get("method", []) + labels.get("exploration", []))
        raise BadInput(f"{asked}: {method} is no method; allowed: {', '.join(gl.METHODS)}")
    return method


def _check(run: Run, labels: Mapping[str, list[str]]) -> None:
    """As `experiments.check`, and names what the user wrote."""
    if not (experiments.NOTEBOOKS / f"{run.notebook}.py").is_file():
        asked = ", ".join(labels.get("task", [run.task]))
        raise BadInput(f"{asked}: there is no notebook {run.notebook}")
    try:
        experiments.check(run)
    except BadInput as error:
        options = re.findall(r"\b(\w+_\w+|\w+(?==))", str(error))
        written = [label for option in options for label in labels.get(option, [])]
        blamed = f"{', '.join(written)}: " if written else ""
        raise BadInput(f"{blamed}{error}") from error
