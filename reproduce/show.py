"""`show`: what matters of one run."""

from pathlib import Path

from gfnlite.files import write_bytes

from . import experiments, runner
from .experiments import BadInput
from .reading import leads_out, printable, read_history, read_mapping

__all__ = ["describe", "find", "page"]

BARS = "▁▂▃▄▅▆▇█"
WIDTH = 48
# Of a browser: run no script, load nothing from elsewhere.
NO_SCRIPTS = (
    '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
    "style-src 'unsafe-inline'; img-src data:; font-src data:\">"
)
METRICS = ("elbo", "eubo", "log_z_is", "ess", "w2", "modes", "energy_calls", "seconds")


def find(name: str) -> Path:
    """The one run folder whose name is this, or begins with it.

    Raises:
        BadInput: if there is none, or more than one, or a symbolic link leads out of it.
    """
    folders = sorted(f for f in experiments.RUNS.glob("[!.]*/") if f.name.startswith(name))
    exact = [folder for folder in folders if folder.name == name]
    found = exact or folders
    if len(found) != 1:
        which = "several: " + ", ".join(f.name for f in found) if found else "no such run"
        raise BadInput(f"show {name}: {which}; `list` and `status` name them")
    if link := leads_out(found[0]):
        raise BadInput(f"show {name}: {link} is a symbolic link that leads out of the run's folder")
    return found[0]


def describe(folder: Path) -> list[str]:
    """Lines about a run: state, settings, provenance, curves and metrics of each seed."""
    record, about = runner.record_of(folder), read_mapping(folder / "config.json")
    said = [folder.name, f"state      {runner.folder_status(folder)}"]
    if record.get("cause"):
        said.append(f"cause      {record['cause']}")
    overrides, config = _mapping(about.get("overrides")), _mapping(about.get("config"))
    changes = ", ".join(f"{k}={v}" for k, v in overrides.items()) or "as the preset has them"
    said.append(f"settings   {changes}")
    for name in ("steps", "iterations", "batch_size", "objective", "exploration", "sigma2", "lr"):
        said.append(f"  {name:<14}{config.get(name)}")
    said.append(f"commits    {_commits(record)}")
    for name in ("device", "host", "started", "finished", "wall_seconds", "peak_memory", "slurm"):
        if record.get(name) is not None:
            said.append(f"{name:<12} {record[name]}")
    seeds = [path for path in folder.glob("seed-*") if path.name[5:].isdecimal()]
    for seed in sorted(seeds, key=lambda path: int(path.name[5:])):
        said.append(seed.name)
        said += _curves(seed)
        metrics = read_mapping(seed / "metrics.json")
        said += [f"  {name:<14}{metrics[name]:.6g}" for name in METRICS
                 if isinstance(metrics.get(name), int | float)]  # fmt: skip
    if record.get("traceback"):
        said += ["traceback", *str(record["traceback"]).rstrip().splitlines()[-15:]]
    said += [f"file       {folder / name}" for name in ("notebook.ipynb", "log.txt")
             if (folder / name).exists()]  # fmt: skip
    return [printable(line) for line in said]


def page(folder: Path) -> Path:
    """The executed notebook as an HTML page beside it, made anew, in which no script runs.

    Who runs a notebook is one person, who opens what it left may be another; so equations stay TeX.

    Raises:
        BadInput: if the run has no notebook yet.
    """
    from nbconvert import HTMLExporter

    source = folder / "notebook.ipynb"
    if not source.exists():
        raise BadInput(f"show {folder.name} --open: it has no notebook yet")
    made, _ = HTMLExporter().from_filename(str(source))
    made = made.replace("<head>", f"<head>{NO_SCRIPTS}", 1)
    write_bytes(source.with_suffix(".html"), made.encode())
    return source.with_suffix(".html")


def _curves(seed: Path) -> list[str]:
    path, drawn = seed / "history.jsonl", []
    history = read_history(path)
    if path.exists() and len(path.read_bytes().splitlines()) > len(history):
        drawn.append(f"  history.jsonl is damaged after {len(history)} entries")
    for name in ("elbo", "eubo"):
        values = [e[name] for e in history if isinstance(e.get(name), int | float)]
        if values:
            curve = f"{values[0]:9.2f} {_sparkline(values)} {values[-1]:.2f}"
            drawn.append(f"  {name.upper()} {curve}")
    return drawn


def _sparkline(values: list[float]) -> str:
    """Heights by rank, since a curve that starts at minus a million would show nothing else."""
    step = max(1, len(values) // WIDTH)
    kept = values[::step]
    order = sorted(kept)
    top = max(len(kept) - 1, 1)
    return "".join(BARS[order.index(v) * (len(BARS) - 1) // top] for v in kept)


def _commits(record: dict) -> str:
    made = [group for group in _mapping(record.get("commits")).values() if isinstance(group, list)]
    commits = [str(commit) for group in made for commit in group]
    return ", ".join(dict.fromkeys(c[:10] + c[40:] for c in commits)) or "unknown"


def _mapping(value) -> dict:
    return value if isinstance(value, dict) else {}
