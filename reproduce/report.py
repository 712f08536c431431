"""From run folders to tables: `collect` reads the metrics, `report` writes what is committed.

Results of a task are {"task", "true_log_z", "rows": [...]}, and a row is {"method", "profile",
"seeds", "metrics": {name: {"mean", "std", "values"}}, "paper", "verdict", "reason", "verdicts",
"runs", "commit", "device"}.
"""

import json
import shutil
import statistics
from pathlib import Path

import gfnlite as gl

from . import experiments
from .experiments import BadInput, Run
from .verdict import judge

FOLDER = experiments.ROOT / "reproduce" / "results"
PUBLISHED = experiments.ROOT / "reproduce" / "published.json"
METRICS = (
    "elbo eubo log_z_is log_z_learned delta_log_z delta_log_z_rw ess w2 w2_floor modes n_modes "
    "energy_calls seconds"
).split()
# The run whose picture stands for the project, in the README and on the first page.
PICTURE = ("25gmm", "TB+Expl", "quick")


def collect(notes: list[str]) -> list[dict]:
    """A row for each finished run under reproduce/runs; what is left out is said in `notes`."""
    rows = []
    for folder in sorted(experiments.RUNS.glob("[!.]*/")):  # ".bench" is no run
        try:
            rows.append(_row(folder))
        except BadInput as reason:
            notes.append(f"{folder.name}: {reason}")
        except (OSError, ValueError, KeyError, TypeError) as error:
            notes.append(f"{folder.name}: left out, cannot be read ({error})")
    return rows


def _row(folder: Path) -> dict:
    about = json.loads((folder / "config.json").read_text())
    record = json.loads((folder / "run.json").read_text())
    if record["status"] != "done":
        raise BadInput(f"left out, its status is {record['status']}")
    seeds = sorted(int(path.parent.name[5:]) for path in folder.glob("seed-*/metrics.json"))
    run = Run(
        about["task"], about["method"], about["profile"], tuple(seeds), about["notebook"],
        about["overrides"],
    )  # fmt: skip
    if type(run.config)(**about["config"]) != run.config:
        raise BadInput("left out, made with settings that have changed since")
    per_seed = [json.loads((folder / f"seed-{s}" / "metrics.json").read_text()) for s in seeds]
    changed = ", ".join(f"{name}={value}" for name, value in run.overrides.items())
    return {
        "task": run.task,
        "true_log_z": per_seed[0]["true_log_z"],
        "method": run.method + (f" ({changed})" if changed else ""),
        "profile": run.profile,
        "seeds": seeds,
        "metrics": {name: _summary([seed[name] for seed in per_seed]) for name in METRICS},
        "runs": [folder.name],
        "commit": ", ".join(_commits(record, seeds)),
        "device": record["device"],
    }


def _commits(record: dict, seeds: list[int]) -> list[str]:
    """The code that made these seeds, each commit once."""
    by_seed = record.get("commits", {})
    made = [commit for seed in seeds for commit in by_seed.get(str(seed), ["unknown"])]
    return list(dict.fromkeys(made))


def _summary(values: list) -> dict | None:
    if any(value is None for value in values):
        return None
    spread = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.fmean(values), "std": spread, "values": values}


def table(task: str, measured: list[dict]) -> dict:
    """The paper's rows in the paper's order, each with the runs there are, judged."""
    published = json.loads(PUBLISHED.read_text())["tasks"].get(task, {"rows": {}})
    order = list(published["rows"])
    found = {(row["method"], row["profile"]): row for row in measured}
    for method in order:
        found.setdefault((method, "full"), {"method": method, "profile": "full", "seeds": []})
    profiles = list(gl.PROFILES)[::-1]  # full first

    def place(row: dict) -> tuple:
        method = row["method"]
        rank = order.index(method) if method in order else len(order)
        return rank, method, profiles.index(row["profile"])

    rows = []
    for row in sorted(found.values(), key=place):
        verdict, reason = _standing(row)
        rows.append(
            {
                "method": row["method"],
                "profile": row["profile"],
                "seeds": row["seeds"],
                "metrics": row.get("metrics", {}),
                "paper": published["rows"].get(row["method"]),
                "verdict": verdict,
                "reason": reason,
                "runs": row.get("runs", []),
                "commit": row.get("commit"),
                "device": row.get("device"),
            }
        )
    judge(rows)
    truth = next((row["true_log_z"] for row in measured), published.get("true_log_z"))
    return {"task": task, "true_log_z": truth, "rows": rows}


def _standing(row: dict) -> tuple[str, str]:
    """Verdict and reason of a row before its numbers are looked at; "compare" leaves it to them."""
    if not row["seeds"]:
        return "not run", "none"
    if row["profile"] != "full":
        why = f"explained: the {row['profile']} profile has a shorter schedule of its own"
        return "not comparable", why
    if len(row["seeds"]) < 2:
        return "not comparable", "explained: one seed has no spread to compare with"
    return "compare", "open"


def write_local(rows: list[dict]) -> None:
    """Write this machine's rows, by task, where the results page finds them (not committed)."""
    local = FOLDER / "local"
    for path in local.glob("*.json"):
        path.unlink()
    for task in {row["task"] for row in rows}:
        mine = [row for row in rows if row["task"] == task]
        result = table(task, mine)
        result["rows"] = [row for row in result["rows"] if row["seeds"]]
        gl.write_json(local / f"{task}.json", result)


def write_committed(
    rows: list[dict], notes: list[str], allow_dirty: bool = False, replace: bool = False
) -> list[Path]:
    """Merge finished preset runs into reproduce/results/<task>.json; returns the files written.

    A new run replaces the committed row of its method and profile, and its picture, unless it has
    fewer seeds: then the committed one stays and `notes` says so (with `replace`, it goes too).
    Smoke runs and runs with changed settings stay out.

    Raises:
        BadInput: if a run's code had uncommitted changes, unless `allow_dirty`.
    """
    rows = [row for row in rows if row["profile"] != "smoke" and "(" not in row["method"]]
    if not replace:
        rows = [row for row in rows if not _poorer(row, notes)]
    for row in rows:
        clean = "+changes" not in row["commit"] and "unknown" not in row["commit"]
        if not clean and not allow_dirty:
            raise BadInput(
                f"{row['runs'][0]} was made from uncommitted or unknown code: run it again from a "
                "commit, or say --allow-dirty"
            )
    written = []
    for task in sorted({row["task"] for row in rows}):
        path = FOLDER / f"{task}.json"
        kept = []
        if path.exists():
            before = json.loads(path.read_text())
            kept = [row | {"true_log_z": before["true_log_z"]} for row in before["rows"]]
        new = [row for row in rows if row["task"] == task]
        replaced = {(row["method"], row["profile"]) for row in new}
        kept = [r for r in kept if r["seeds"] and (r["method"], r["profile"]) not in replaced]
        gl.write_json(path, table(task, kept + new))
        written.append(path)
    for row in rows:
        if (row["task"], row["method"], row["profile"]) == PICTURE:
            picture = FOLDER / f"{row['task']}.png"
            shutil.copyfile(experiments.RUNS / row["runs"][0] / "samples.png", picture)
            written.append(picture)
    return written


def _poorer(row: dict, notes: list[str]) -> bool:
    """Whether the committed row of this method and profile has more seeds; if so, say it."""
    path = FOLDER / f"{row['task']}.json"
    committed = json.loads(path.read_text())["rows"] if path.exists() else []
    for old in committed:
        same = (old["method"], old["profile"]) == (row["method"], row["profile"])
        if same and len(old["seeds"]) > len(row["seeds"]):
            notes.append(
                f"{row['runs'][0]}: left out, seeds {row['seeds']} are fewer than the committed "
                f"{old['seeds']}: run those, or say --replace"
            )
            return True
    return False


def text_table(rows: list[dict]) -> str:
    """Rows as aligned plain text: mean over seeds, +- its standard deviation."""
    head = ["method", "profile", "seeds", "ELBO", "IS log Z", "EUBO", "ESS", "W2", "W2 floor"]
    lines = [[*head, "modes"]]
    for row in rows:
        metrics = row["metrics"]
        names = ("elbo", "log_z_is", "eubo", "ess", "w2", "w2_floor")
        modes = "unknown"
        if metrics["modes"]:
            modes = f"{metrics['modes']['mean']:g} of {metrics['n_modes']['mean']:g}"
        values = [_cell(metrics[name]) for name in names]
        lines.append([row["method"], row["profile"], str(len(row["seeds"])), *values, modes])
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(
        "  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def _cell(summary: dict | None) -> str:
    if summary is None:
        return "unknown"
    spread = f" +- {summary['std']:.3f}" if summary["std"] is not None else ""
    return f"{summary['mean']:.3f}{spread}"
