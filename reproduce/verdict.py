"""Does a cell of the paper's table match ours? Welch's test, corrected over the table."""

import math
from collections.abc import Sequence

from scipy.stats import ttest_ind_from_stats

PAPER_RUNS = 5
LEVEL = 0.05
# The paper's columns; the smaller value is the better one in each of them.
COLUMNS = ("delta_log_z", "delta_log_z_rw", "w2")


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values, in the order given (Holm 1979)."""
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted, running = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = running
    return adjusted


def welch(ours: dict, paper: dict) -> float:
    """p-value of equal means, from {"mean", "std", "values"} against the paper's mean and std."""
    if ours["std"] == paper["std"] == 0:
        return float(ours["mean"] == paper["mean"])
    n = len(ours["values"])
    moments = (ours["mean"], ours["std"], n, paper["mean"], paper["std"], PAPER_RUNS)
    p = float(ttest_ind_from_stats(*moments, equal_var=False).pvalue)
    return 1.0 if math.isnan(p) else p


def judge(rows: list[dict]) -> None:
    """Give each row of a table its "verdict", "reason" and, by column, its "verdicts".

    Only full-profile rows with at least two seeds are compared. A cell matches if the adjusted
    p-value, over all cells compared in the table, is above 5%; otherwise it is better or worse. A
    row is worse if any cell is, else better if any cell is, else it matches. A difference that
    nobody has explained yet has the reason "open".
    """
    cells = []
    for row in rows:
        row["verdicts"] = {}
        if row["verdict"] != "compare":
            continue
        for column in COLUMNS:
            ours, paper = row["metrics"].get(column), (row["paper"] or {}).get(column)
            if ours and paper and paper["std"] is not None:
                cells.append((row, column, ours, paper))
    adjusted = holm([welch(ours, paper) for _, _, ours, paper in cells])
    for p, (row, column, ours, paper) in zip(adjusted, cells, strict=True):
        closer = "better" if ours["mean"] < paper["mean"] else "worse"
        row["verdicts"][column] = "matches" if p > LEVEL else closer
    for row in rows:
        if row["verdict"] == "compare":
            found = row["verdicts"].values()
            order = ("worse", "better", "matches")
            row["verdict"] = next((word for word in order if word in found), "not comparable")
            row["reason"] = "open" if row["verdict"] in ("worse", "better") else "none"
