"""The forest plots of a results file: one panel for each of the paper's columns."""

import io
import statistics

import matplotlib
from matplotlib.figure import Figure

import gfnlite as gl
from gfnlite.forest import LABELS, forest

from .export import columns
from .table import bound_by_floor
from .verdict import PAPER_RUNS, ours


def svg(result: dict) -> bytes:
    """A figure of a task's results, the same bytes for the same results; text stays text."""
    # Everything that matplotlib would make different each time is set; nothing set stays so.
    with matplotlib.rc_context():
        gl.plots.style()
        matplotlib.rcParams.update({"svg.hashsalt": result["task"], "svg.fonttype": "none"})
        rows = result["rows"]
        names = [name for name in columns(result) if any(_cells(row, name) for row in rows)]
        size = (2.0 + 2.1 * len(names), 1.5 + 0.42 * len(rows))
        figure = Figure(figsize=size, layout="constrained")
        panels = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
        for ax, column in zip(panels, names, strict=True):
            panel(result, column, rows, ax)
            ax.set_xlabel(LABELS.get(column, column))
        signs = {}
        for ax in panels:
            signs |= dict(zip(*ax.get_legend_handles_labels()[::-1], strict=True))
        figure.legend(signs.values(), signs, loc="outside lower center", ncols=len(signs))
        title = f"{result['task']}: the paper and ours, 95% intervals of the mean"
        figure.suptitle(title, fontsize=11, fontweight="bold")
        file = io.BytesIO()
        figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()


def panel(result: dict, column: str, rows: list[dict], ax):
    """One column of some rows, with its truth and its floor where they are known."""
    lines = []
    for row in rows:
        label = row["method"] + ("" if row["profile"] == "full" else f" ({row['profile']})")
        lines.append((label, *(_cells(row, column) or (None, None))))
    truth = 0.0 if column.startswith("delta") else None
    if column in ("log_z", "log_z_rw"):
        truth = result["true_log_z"]
    floors = [_floor(result, column, row) for row in rows]
    return forest(lines, truth, floors, PAPER_RUNS, ax)


def _cells(row: dict, column: str) -> tuple[dict | None, dict | None] | None:
    """The paper's value, which stands once, with the run that is compared with it; and ours."""
    paper = (row["paper"] or {}).get(column) if row["profile"] == "full" else None
    _, mine = ours(row, column)
    return (paper, mine) if paper or mine else None


def _floor(result: dict, column: str, row: dict) -> float | None:
    """Below this no value is of a row, except by chance; W2's is the mean over all rows."""
    if column == "w2":
        found = [row["metrics"].get("w2_floor") for row in result["rows"]]
        means = [cell["mean"] for cell in found if cell]
        return statistics.fmean(means) if means else None
    bound = bound_by_floor(result["task"], row)
    return result.get("floor", {}).get(column) if bound else None
