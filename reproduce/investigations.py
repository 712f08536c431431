"""Questions, each with runs that differ in few settings: investigations.yaml and beyond.yaml.

Those of the first are raised by the tables: each is asked "against" a row of the paper's, and has
an answer. Those of the second go beyond the paper, and are answered by their numbers alone.

Results are results/investigations.json and beyond.json, {"investigations": [{"name", "question",
"task", "against", "answer", "rows"}]}, and a row is {"what", "method", "profile", "settings",
"command", "estimate", "seeds", "metrics", "p", "runs", "commit", "device"}: "p" has Welch's p-value
against each column of the paper's row of that method, not corrected, where both have a spread. A
row without seeds has not been run; "estimate" is what it would take, in seconds on one core.
"""

from pathlib import Path

from gfnlite.arguments import shown

from . import experiments
from .experiments import BadInput, Run
from .reading import read_mapping, read_yaml
from .reasons import KINDS
from .table import published, seconds_of
from .verdict import ours, welch

__all__ = ["FILES", "read", "run_of", "tell"]

KEYS = {"name": str, "question": str, "task": str, "against": str, "answer": str, "rows": list}
ROW_KEYS = {"what": str, "method": str, "profile": str, "set": dict, "seeds": list}
FILES = ("investigations", "beyond")
OPTIONAL = {"against", "answer"}  # both or none
KEPT = ("seeds", "metrics", "runs", "commit", "device")


def read(path: Path) -> list[dict]:
    """The questions, each row with a "run"; a file that is not there has none.

    Raises:
        BadInput: for anything of another shape, a run that could not be run as meant, or a row
            that the paper's table has not.
    """
    found = _list(path.name, (read_yaml(path) if path.exists() else None) or [])
    for entry in found:
        free = set() if OPTIONAL & entry.keys() else OPTIONAL
        _shape(path.name, entry, KEYS, set(KEYS) - free)
        where = f"{path.name}: {entry['name']}"
        if not free and not entry["answer"].startswith(KINDS):
            raise BadInput(f"{where}: answer must start with {' or '.join(map(repr, KINDS))}")
        if not free and entry["against"] not in published(entry["task"])["rows"]:
            raise BadInput(f"{where}: against={entry['against']!r} is no row of the paper's table")
        for row in _list(where, entry["rows"]):
            _shape(where, row, ROW_KEYS, {"what", "method"})
        entry["rows"] = [row | {"run": run_of(entry["task"], row)} for row in entry["rows"]]
    names = [entry["name"] for entry in found]
    if len(set(names)) < len(names):
        raise BadInput(f"{path.name}: two questions have the same name")
    return found


def run_of(task: str, row: dict) -> Run:
    """The run of a row, in the paper's profile if it names none.

    Raises:
        BadInput: for a task, a method, a profile, a setting or seeds that are not allowed.
    """
    only = [f"task={task}", f"method={row['method']}"]
    profile, seeds = row.get("profile", "full"), row.get("seeds")
    (run,) = experiments.load(profile, seeds, row.get("set"), only)
    return run


def tell(entries: list[dict], found: list[dict], before: Path) -> dict:
    """What is known of the questions, from these rows and from what was known before.

    Args:
        entries: from `read`.
        found: rows from `report.collect`, and the committed ones.
        before: the file that this replaces.
    """
    known: dict[tuple, dict] = {}
    told_before = read_mapping(before).get("investigations", [])
    for row in [*(row for entry in told_before for row in entry["rows"]), *found]:
        name = tuple(row["runs"])
        # As in the tables, fewer seeds never take the place of more.
        if len(row["seeds"]) >= len(known.get(name, row)["seeds"]):
            known[name] = row
    told = []
    for entry in entries:
        rows = published(entry["task"])["rows"] if "against" in entry else {}
        made = []
        for row in entry["rows"]:
            run = row["run"]
            ran = known.get((run.name,), {"seeds": [], "metrics": {}, "runs": []})
            cells = {"what": row["what"], "method": run.method, "profile": run.profile}
            cells |= {"settings": dict(run.overrides)}
            usual = run_of(entry["task"], {"method": run.method, "profile": run.profile}).seeds
            cells |= {"command": experiments.command(run, usual)}
            cells |= {name: ran.get(name) for name in KEPT}
            cells |= {"estimate": None if ran["seeds"] else seconds_of(run)}
            made.append(cells | {"p": _p(cells, rows.get(run.method, {}))})
        told.append({name: entry[name] for name in KEYS if name in entry} | {"rows": made})
    return {"investigations": told}


def _p(row: dict, paper: dict) -> dict[str, float]:
    found = {}
    for column, cell in paper.items():
        _, mine = ours(row, column)
        if cell and cell["std"] is not None and mine and len(mine["values"]) > 1:
            found[column] = welch(mine, cell)[0]
    return found


def _list(where: str, data) -> list[dict]:
    if not isinstance(data, list) or not all(isinstance(item, dict) for item in data):
        raise BadInput(f"{where}: must be a list of mappings")
    return data


def _shape(where: str, data: dict, keys: dict, needed: set[str]) -> None:
    for key, value in data.items():
        if key not in keys:
            raise BadInput(f"{where}: unknown key {shown(key)}; allowed: {', '.join(keys)}")
        if not isinstance(value, keys[key]):
            raise BadInput(f"{where}: {key}={shown(value)} must be a {keys[key].__name__}")
    for key in sorted(needed - set(data)):
        raise BadInput(f"{where}: the key {key!r} is missing")
