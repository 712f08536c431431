"""A forest plot: means with their 95% intervals, ours under a published value, a line for each."""

import math
from collections.abc import Sequence

from .extras import need
from .plots import BLUE, GREEN, GREY, ORANGE, _axes

__all__ = ["LABELS", "forest", "interval"]

# How the columns of the paper's tables are headed.
LABELS = {
    "delta_log_z": "Δ log Z",
    "delta_log_z_rw": "Δ log Z (IS)",
    "w2": "W2",
    "log_z": "log Z (ELBO)",
    "log_z_rw": "log Z (IS)",
    "log_z_rw_pooled": "log Z (IS, pooled)",
}


FAR = 20.0  # see `_zoom`


def interval(cell: dict | None, runs: int | None = None) -> tuple[float, float] | None:
    """95% t interval of the mean over runs; None without a spread.

    Args:
        cell: {"mean", "std", "values"}, as in the results files, or None.
        runs: how many it is the mean of; None: as many as there are values.
    """
    n = len(cell.get("values", ())) if cell and runs is None else runs
    if not cell or cell["std"] is None or not n or n < 2:
        return None
    half = float(need("scipy.special", "plots").stdtrit(n - 1, 0.975)) * cell["std"] / math.sqrt(n)
    return cell["mean"] - half, cell["mean"] + half


def forest(
    lines: Sequence[tuple[str, dict | None, dict | None]],
    truth: float | None = None,
    floor: float | Sequence[float | None] | None = None,
    runs: int = 5,
    ax=None,
):
    """Published values (open) above ours (filled, each seed a dot), with 95% t intervals.

    A mean far off all others, of a training that diverged, would squeeze these into one line: it is
    an arrow at the edge, with its value.

    Args:
        lines: (label, published, ours), the first on top; {"mean", "std"} and {"mean", "std",
            "values"}, or None.
        truth: a line where no error would be.
        floor: a dashed line that nothing is better than, except by chance; or one for each line.
        runs: how many runs a published mean is of.
        ax: axes to draw into.
    """
    ax = _axes(ax, (7, 1.2 + 0.5 * len(lines)))
    last = len(lines) - 1
    papers = [(last - i + 0.14, paper, runs) for i, (_, paper, _) in enumerate(lines) if paper]
    mine = [(last - i - 0.12, ours, None) for i, (*_, ours) in enumerate(lines) if ours]
    _points(ax, papers, ORANGE, "white", "paper")
    _points(ax, mine, BLUE, BLUE, "ours")
    _zoom(ax, papers, mine)
    # Equal values would hide each other: each seed has its own height.
    seeds = [
        (value, y - 0.12 - 0.2 * k / max(4, len(cell["values"])))
        for y, cell, _ in mine
        for k, value in enumerate(cell["values"])
    ]
    if seeds:
        ax.scatter(*zip(*seeds, strict=True), s=6, color=BLUE, linewidths=0)
    if truth is not None:
        ax.axvline(truth, color="black", linewidth=0.8, label="truth")
    floors = floor if isinstance(floor, Sequence) else [floor] * len(lines)
    bound = [(last - i, value) for i, value in enumerate(floors) if value is not None]
    if bound:
        heights, values = zip(*bound, strict=True)
        ends = [y - 0.5 for y in heights], [y + 0.5 for y in heights]
        ax.vlines(values, *ends, GREEN, linewidth=0.9, linestyle="--", label="floor")
    ax.hlines([y + 0.5 for y in range(last)], 0, 1, GREY, linewidths=0.2, zorder=0,
              transform=ax.get_yaxis_transform())  # fmt: skip
    # A dollar in a name is a dollar, not mathematics.
    ax.set_yticks(range(len(lines)), [name.replace("$", r"\$") for name, *_ in reversed(lines)])
    ax.tick_params(axis="y", length=0)
    ax.set_ylim(-0.6, last + 0.5)
    return ax


def _zoom(ax, papers: list, mine: list) -> None:
    """Leave means outside that are further from the middle half of all than FAR times its width."""
    cells = papers + mine
    means = sorted(cell["mean"] for _, cell, _ in cells)
    if not means:
        return
    first, third = (means[round(q * (len(means) - 1))] for q in (0.25, 0.75))
    reach = FAR * max(third - first, 1e-3 * abs(third), 1e-6)
    near = [cell for cell in cells if first - reach <= cell[1]["mean"] <= third + reach]
    if len(near) == len(cells):
        return
    inside = [cell["mean"] for _, cell, _ in near]
    ends = [end for _, cell, runs in near for end in interval(cell, runs) or (cell["mean"],) * 2]
    low, high = min(inside), max(inside)
    margin = max((high - low) / 2, reach / FAR)
    low, high = max(low - margin, min(ends)), min(high + margin, max(ends))
    ax.set_xlim(low - 0.05 * (high - low), high + 0.05 * (high - low))
    for y, cell, _ in cells:
        if not low <= (mean := cell["mean"]) <= high:
            right, value = mean > high, f"{mean:,.{0 if abs(mean) >= 10 else 1}f}"
            ax.annotate(
                f"{value} →" if right else f"← {value}", (0.99 if right else 0.01, y),
                xycoords=ax.get_yaxis_transform(), ha="right" if right else "left", va="center",
                color=ORANGE if (y, cell) in [part[:2] for part in papers] else BLUE,
                fontsize="small", bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
            )  # fmt: skip


def _points(ax, cells: list, colour: str, face: str, label: str) -> None:
    """Means at their heights, with what interval they have."""
    heights, means, spread = [], [], ([], [])
    for y, cell, runs in cells:
        low, high = interval(cell, runs) or (cell["mean"],) * 2
        heights.append(y)
        means.append(cell["mean"])
        spread[0].append(cell["mean"] - low)
        spread[1].append(high - cell["mean"])
    ax.errorbar(
        means, heights, xerr=spread, fmt="o", color=colour, markerfacecolor=face, markersize=5,
        elinewidth=1.2, label=label,
    )  # fmt: skip
