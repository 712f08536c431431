"""The paper's table of a task beside ours: every published row, the runs there are, verdicts."""

import json
from dataclasses import replace

import gfnlite as gl
from gfnlite.floor import floor as variance_floor
from gfnlite.floor import has_floor

from . import experiments, reasons
from .experiments import Run
from .verdict import judge

PUBLISHED = experiments.ROOT / "reproduce" / "published.json"
KEPT = ("runs", "commit", "device")


def published(task: str) -> dict:
    """The paper's table of a task, {"rows": {method: {column: cell}}, ...}; {"rows": {}}: none.

    "not_comparable" of a table are columns that compare with nothing, and why; "notes" are what
    else has to be known of a column.
    """
    everything = json.loads(PUBLISHED.read_text())
    found = everything["tasks"].get(_published_name(task), {"rows": {}})
    return found | {"shown_only": everything["shown_only"]}


def _published_name(task: str) -> str:
    named = (r.published for r in experiments.load("full") if r.task == task != r.published)
    return next(named, task)


def table(
    task: str, measured: list[dict], entries: dict | None = None, before: dict | None = None
) -> dict:
    """The paper's rows in the paper's order, each with the runs there are, judged.

    Args:
        task: whose table.
        measured: rows with "method", "profile", "seeds", "metrics", "true_log_z".
        entries: of reasons.yaml for this task.
        before: its results as they were, of which the floor is kept if it has the same settings.

    Raises:
        BadInput: as `reasons.apply`.
    """
    paper = published(task)
    order = list(paper["rows"])
    found = {(row["method"], row["profile"]): row for row in measured}
    for method in order:
        found.setdefault((method, "full"), {"method": method, "profile": "full", "seeds": []})
    profiles = list(gl.PROFILES)[::-1]  # full first

    def place(row: dict) -> tuple:
        method = row["method"]
        rank = order.index(method) if method in order else len(order)
        return rank, method, profiles.index(row["profile"])

    rows, planned = [], {}
    for row in sorted(found.values(), key=place):
        if row["profile"] not in planned:
            runs = [run for run in experiments.load(row["profile"]) if run.task == task]
            planned[row["profile"]] = {run.method: run for run in runs}
        verdict, reason = _standing(row, paper)
        rows.append(
            {
                "method": row["method"],
                "profile": row["profile"],
                "seeds": row["seeds"],
                "metrics": row.get("metrics", {}),
                "paper": paper["rows"].get(row["method"]),
                "verdict": verdict,
                "reason": reason,
                **{name: row.get(name, [] if name == "runs" else None) for name in KEPT},
                **_again(row, planned[row["profile"]].get(row["method"])),
            }
        )
    judge(rows, paper.get("not_comparable"))
    reasons.apply(task, rows, entries or {})
    least = _floor(task, (before or {}).get("floor"))
    result = {"task": task, "true_log_z": _truth(task, measured, paper)}
    result |= {
        name: found for name, found in (("floor", least), ("notes", paper.get("notes"))) if found
    }
    return result | {"rows": rows}


def _again(row: dict, planned: Run | None) -> dict:
    """The command that makes a row (again); of one that was not run, seconds on one core."""
    if planned is None:  # nothing here runs it
        return {"command": None, "estimate": None}
    run = replace(planned, seeds=tuple(row["seeds"]) or planned.seeds)
    estimate = None if row["seeds"] else seconds_of(run)
    return {"command": experiments.command(run, planned.seeds), "estimate": estimate}


def seconds_of(run: Run) -> float | None:
    """What a run would take on one core, to two digits; None: unknown."""
    from . import cost  # which reads tables itself

    seconds = cost.on_one_core(run)
    return None if seconds is None else float(f"{seconds:.2g}")


def _standing(row: dict, paper: dict) -> tuple[str, str]:
    """Verdict and reason of a row before its numbers are looked at; "compare" leaves it to them."""
    if not row["seeds"]:
        shown = row["method"] in paper["shown_only"]
        return "not run", "explained: shown as published only" if shown else "none"
    if row["method"] not in paper["rows"]:
        return "not comparable", "explained: the paper has no such row"
    if row["profile"] != "full":
        why = f"explained: the {row['profile']} profile has a shorter schedule of its own"
        return "not comparable", why
    if len(row["seeds"]) < 2:
        return "not comparable", "explained: one seed has no spread to compare with"
    return "compare", "open"


def _truth(task: str, measured: list[dict], paper: dict) -> float | None:
    """True log Z: as the runs were told, else the target's own, else the paper's."""
    for row in measured:
        return row["true_log_z"]
    known = gl.named_target(task).log_z if task in gl.TASKS else None
    return known if isinstance(known, float) else paper.get("true_log_z")


def bound_by_floor(task: str, row: dict) -> bool:
    """Whether the floor of a fixed variance binds a row's method; not if that is not known."""
    if task not in gl.TASKS or row["method"] not in gl.METHODS:
        return False
    return has_floor(gl.preset(task, row["method"], row["profile"]))


def _floor(task: str, known: dict | None) -> dict | None:
    """What fixed variance alone costs at the paper's settings, where it can be computed."""
    if task not in gl.TASKS:
        return None
    settings = {"steps": gl.PROFILES["full"]["steps"], "sigma2": gl.TASKS[task]["sigma2"]}
    if known and known.items() >= settings.items():  # it takes a second
        return known
    least = variance_floor(gl.named_target(task), **settings)
    return least and {"delta_log_z": round(least, 4)} | settings


def aligned(lines: list[list[str]]) -> list[str]:
    """Lines of cells as text, each column as wide as its widest cell."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return [
        "  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]
