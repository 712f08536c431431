"""From run folders to tables: `collect` reads the metrics, `report` writes what is committed.

Results of a task are {"task", "true_log_z", "floor": {"delta_log_z", "steps", "sigma2"}, "notes":
{column: text}, "rows"}, floor and notes only where there are any, and a row is {"method",
"profile", "seeds", "metrics": {name: {"mean", "std", "values"}}, "paper", "verdict", "reason",
"runs", "commit", "device", "verdicts": {column: as in `verdict.judge`}}. Beside it lie the same as
<task>.csv, and the forest plots of the paper's columns as <task>.svg.
"""

import math
import os
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import gfnlite as gl
from gfnlite.arguments import shown
from gfnlite.files import as_json, read_json, write_bytes

from . import experiments, export, investigations, reasons
from .experiments import BadInput, Run
from .reading import leads_out
from .runner import is_stale
from .table import aligned, published, table

FOLDER = experiments.ROOT / "reproduce" / "results"
METRICS = (
    "elbo eubo log_z_is log_z_learned delta_log_z delta_log_z_rw ess w2 w2_floor modes n_modes "
    "energy_calls seconds"
).split()
# The first two stand in the paper's columns where no truth is known; the others need modes with
# known masses, or are of conditional targets.
SOME_HAVE = (
    "paper_elbo", "paper_log_z_is", "mode_error", "bound_100", "encoder_elbo", "log_z_rw_pooled"
)  # fmt: skip
# The run whose pictures stand for the project, in the README and on the first page.
PICTURE = ("25gmm", "TB+Expl", "quick")
PICTURES = {"samples.png": "25gmm.png"} | {n: n for n in ("emblem.svg", "emblem-still.svg")}


def collect(notes: list[str]) -> list[dict]:
    """A row for each finished run under reproduce/runs; what is left out is said in `notes`."""
    rows = []
    for folder in sorted(experiments.RUNS.glob("[!.]*/")):  # ".bench" is no run
        if not (folder / "config.json").exists():  # nothing ran there: perhaps steps were profiled
            continue
        try:
            rows.append(_row(folder))
        except BadInput as reason:
            notes.append(f"{folder.name}: {reason}")
        except (OSError, ValueError, KeyError, TypeError) as error:
            notes.append(f"{folder.name}: left out, cannot be read ({error})")
    return rows


def _row(folder: Path) -> dict:
    _check_links(folder, ("config.json", "run.json"))
    about, record = read_json(folder / "config.json"), read_json(folder / "run.json")
    if record["status"] != "done":
        raise BadInput(f"left out, its status is {record['status']}")
    seeds = _seeds(folder, record)
    _check_links(folder, (f"seed-{seed}{name}" for seed in seeds for name in ("", "/metrics.json")))
    run = Run(
        about["task"], about["method"], about["profile"], tuple(seeds), about["notebook"],
        about["overrides"],
    )  # fmt: skip
    if is_stale(about):
        raise BadInput("left out, made with settings that have changed since")
    # Results are kept in a file of the task's name.
    for name, known in (("task", gl.TASKS), ("profile", gl.PROFILES)):
        if about[name] not in known:
            raise BadInput(f"left out, {name}={about[name]!r} is unknown")
    per_seed = [_metrics(run, f"{folder}/seed-{seed}/metrics.json") for seed in seeds]
    changed = ", ".join(f"{name}={value}" for name, value in run.overrides.items())
    metrics = {name: summary([seed[name] for seed in per_seed]) for name in METRICS}
    for name in SOME_HAVE:
        if any(name in seed for seed in per_seed):
            metrics[name] = summary([seed.get(name) for seed in per_seed])
    return {
        "task": run.task,
        "true_log_z": per_seed[0]["true_log_z"],
        "method": run.method + (f" ({changed})" if changed else ""),
        "changed": bool(changed),
        "profile": run.profile,
        "seeds": seeds,
        "metrics": metrics,
        "runs": [folder.name],
        "commit": ", ".join(_commits(record, seeds)),
        "device": str(record["device"]),
    }


def _check_links(folder: Path, names: Iterable[str]) -> None:
    """Raise BadInput if one of these is a link by which something else would be read."""
    if link := leads_out(folder, names):
        raise BadInput(f"left out, {link} is a symbolic link that leads out of it")


def _seeds(folder: Path, record: dict) -> list[int]:
    """Those that it was last run with, which must have their metrics, and earlier ones that do."""
    # The record tells what a folder of a network, or of thousands, is slow to list.
    earlier = record.get("commits") or [
        name[5:] for name in os.listdir(folder) if name.startswith("seed-")
    ]
    kept = {int(seed) for seed in earlier if os.path.exists(f"{folder}/seed-{seed}/metrics.json")}
    last = record.get("seeds", ())
    if wrong := [seed for seed in last if type(seed) is not int or seed < 0]:
        raise BadInput(f"left out, {shown(wrong[0])} is no seed")  # but perhaps a path
    return sorted(kept | set(last))


def _metrics(run: Run, path: str) -> dict:
    """Metrics of a seed; files once had the size of this error only, and later both its parts."""
    metrics = read_json(path)
    truth, estimate = metrics["true_log_z"], metrics.get("paper_log_z_is")
    if truth is not None and estimate is not None:
        metrics["delta_log_z_rw"] = truth - estimate
    if weights := metrics.get("mode_weights"):
        exact = _mode_mass(run.task)
        known = exact is not None and len(exact) == len(weights)
        metrics["mode_error"] = _mode_error(weights, exact) if known else None
    return metrics


@cache
def _mode_mass(task: str) -> tuple[float, ...] | None:
    exact = gl.named_target(task).mode_mass
    return None if exact is None else tuple(exact.tolist())


def _mode_error(weights: list[float], exact: tuple[float, ...]) -> float:
    """Total variation between mode weights and the exact ones; of wells, its mean over them."""
    away = sum(abs(w - m) for w, m in zip(weights, exact, strict=True))
    return away / (2 * sum(exact))


def _commits(record: dict, seeds: list[int]) -> list[str]:
    """The code that made these seeds, each commit once."""
    by_seed = record.get("commits", {})
    made = [commit for seed in seeds for commit in by_seed.get(str(seed), ["unknown"])]
    return list(dict.fromkeys(made))


def summary(values: list) -> dict | None:
    """Mean, spread (None: of one) and values of a metric over seeds; None if a seed has none."""
    if any(value is None for value in values):
        return None
    mean, spread = math.fsum(values) / len(values), None
    if len(values) > 1:  # as statistics.stdev, whose exact fractions take twenty times as long
        square = math.fsum((value - mean) ** 2 for value in values)
        spread = math.sqrt(square / (len(values) - 1))
    return {"mean": mean, "std": spread, "values": values}


def write_local(rows: list[dict]) -> None:
    """Write this machine's rows, by task, where the results page finds them (not committed)."""
    local = FOLDER / "local"
    try:
        committed = read_committed()
    except BadInput:  # a damaged file is `report`'s to tell
        committed = {}
    for path in local.glob("*.json"):
        path.unlink()
    for task in {row["task"] for row in rows}:
        mine = [row for row in rows if row["task"] == task]
        result = table(task, mine, before=committed.get(task))
        result["rows"] = [row for row in result["rows"] if row["seeds"]]
        write_bytes(local / f"{task}.json", as_json(result, indent=None))


def write_committed(
    rows: list[dict], notes: list[str], allow_dirty: bool = False, replace: bool = False
) -> list[Path]:
    """Merge finished preset runs into reproduce/results/<task>.*; returns the files that changed.

    A new run replaces the committed row of its method and profile, and its picture, unless it has
    fewer seeds: then the committed one stays and `notes` says so (with `replace`, it goes too).
    A run of uncommitted or unknown code is left out and noted, unless `allow_dirty`. Smoke runs
    stay out, and runs with changed settings unless investigations.yaml or beyond.yaml asks for
    them; what these know is written beside the tables, and small pictures of the full rows'
    samples. All tables are judged anew, with the reasons of reasons.yaml as it is now.

    Raises:
        BadInput: for a reason that no cell of the tables needs. Then nothing is written.
    """
    committed, asked = read_committed(), {}
    for name in investigations.FILES:
        asked[name] = investigations.read(FOLDER.parent / f"{name}.yaml")
    if not allow_dirty:
        rows = [row for row in rows if not _dirty(row, notes)]
    named = {row["run"].name for entries in asked.values() for e in entries for row in e["rows"]}
    changed = [row for row in rows if row["changed"] and row["runs"][0] in named]
    rows = [row for row in rows if row["profile"] != "smoke" and not row["changed"]]
    if not replace:
        rows = [row for row in rows if not _poorer(row, committed, notes)]
    entries = reasons.read(FOLDER.parent / "reasons.yaml")
    results = {}
    for task in sorted({row["task"] for row in rows} | set(committed) | _planned()):
        before = committed.get(task, {"rows": []})
        kept = [row | {"true_log_z": before["true_log_z"]} for row in before["rows"]]
        new = [row for row in rows if row["task"] == task]
        replaced = {(row["method"], row["profile"]) for row in new}
        kept = [r for r in kept if r["seeds"] and (r["method"], r["profile"]) not in replaced]
        results[task] = table(task, kept + new, entries.get(task), before)
    reasons.check_tasks(entries, results)
    written = [path for result in results.values() for path in _write(result)]
    told = [row for result in results.values() for row in result["rows"] if row["seeds"]]
    full = [row for row in told if row["profile"] == "full"]
    written += _write_pictures([row["runs"][0] for row in full], notes)
    for name, entries in asked.items():
        path = FOLDER / f"{name}.json"
        if entries:
            written += _changed(path, as_json(investigations.tell(entries, told + changed, path)))
    for row in rows:
        if (row["task"], row["method"], row["profile"]) == PICTURE:
            folder = experiments.RUNS / row["runs"][0]
            for made, name in PICTURES.items():
                # A run does not need it to be done.
                if (folder / made).exists() and not leads_out(folder, [made]):
                    written += _copy(folder / made, FOLDER / name, notes)
    return written


def read_committed() -> dict[str, dict]:
    """The committed results of every task."""
    try:
        found = {path.stem: read_json(path) for path in sorted(FOLDER.glob("*.json"))}
    except ValueError as error:
        raise BadInput(
            f'{error}. Take it from git; or, if it was changed by hand or a merge, its "sha256" '
            "out: `report` writes it anew"
        ) from error
    return {task: result for task, result in found.items() if "rows" in result}


def _planned() -> set[str]:
    """Tasks of the experiments that the paper has a table of, which is shown before any run."""
    tasks = {run.task for run in experiments.load("full")}
    return {task for task in tasks if published(task)["rows"]}


def _write(result: dict) -> list[Path]:
    """Results as JSON, CSV and figure; returns what has changed."""
    path = FOLDER / f"{result['task']}.json"
    written = _changed(path, as_json(result))
    written += _changed(path.with_suffix(".csv"), export.as_csv(result).encode())
    if written or not path.with_suffix(".svg").exists():
        from . import forest  # which takes a second to import, and another to draw

        written += _changed(path.with_suffix(".svg"), forest.svg(result))
    return written


def _write_pictures(runs: list[str], notes: list[str]) -> list[Path]:
    """Small pictures of these runs' samples, where they are here; those of other runs go."""
    from . import pictures  # opens images, which only this needs

    folder, written = FOLDER / "pictures", []
    for path in folder.glob("*.webp"):
        if path.stem not in runs:
            path.unlink()
    here = set(os.listdir(experiments.RUNS)) if experiments.RUNS.exists() else set()
    for name in runs:
        run = experiments.RUNS / name
        # Made elsewhere: what is committed may say anything.
        if name not in here or name.startswith(".") or not run.is_dir() or leads_out(run):
            continue
        try:
            made = pictures.small(run / "samples.png")
            written += _changed(folder / f"{name}.webp", made)
        except FileNotFoundError:  # a run without one
            continue
        except (OSError, SyntaxError, ValueError, pictures.TooLarge) as error:
            notes.append(f"{name}: its samples.png cannot be read ({error})")
    return written


def _copy(made: Path, path: Path, notes: list[str]) -> list[Path]:
    """As `_changed`, of a run's picture; a film that is more than that is left out, and noted."""
    from . import pictures

    data = made.read_bytes()
    try:
        if path.suffix == ".svg":
            pictures.check_film(data)
    except ValueError as error:
        notes.append(f"{made.parent.name}: its {made.name} is left out: {error}")
        return []
    return _changed(path, data)


def _changed(path: Path, data: bytes) -> list[Path]:
    """Write a file unless it says the same already; [path] if it did not."""
    if path.exists() and path.read_bytes() == data:
        return []
    write_bytes(path, data)
    return [path]


def _dirty(row: dict, notes: list[str]) -> bool:
    """Whether nobody could say which code made the row; if so, say it."""
    dirty = "+changes" in row["commit"] or "unknown" in row["commit"]
    if dirty:
        notes.append(
            f"{row['runs'][0]}: left out, made from uncommitted or unknown code: run it again from "
            "a commit, or say --allow-dirty"
        )
    return dirty


def _poorer(row: dict, committed: dict, notes: list[str]) -> bool:
    """Whether the committed row of this method and profile has more seeds; if so, say it."""
    for old in committed.get(row["task"], {"rows": []})["rows"]:
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
    head = ["task", "method", "profile", "seeds", "ELBO", "IS log Z", "EUBO", "ESS", "W2", "floor"]
    lines = [[*head, "modes"]]
    for row in rows:
        metrics = row["metrics"]
        names = ("elbo", "log_z_is", "eubo", "ess", "w2", "w2_floor")
        modes = "unknown"
        if metrics["modes"]:
            modes = f"{metrics['modes']['mean']:g} of {metrics['n_modes']['mean']:g}"
        values = [_cell(metrics[name]) for name in names]
        what = [row["task"], row["method"], row["profile"], str(len(row["seeds"]))]
        lines.append([*what, *values, modes])
    return "\n".join(aligned(lines))


def _cell(summary: dict | None) -> str:
    if summary is None:
        return "unknown"
    spread = f" +- {summary['std']:.3f}" if summary["std"] is not None else ""
    return f"{summary['mean']:.3f}{spread}"
