"""Does a cell of the paper's table match ours? Welch's test, corrected over the table."""

import math
from collections.abc import Sequence

PAPER_RUNS = 5
LEVEL = 0.05
# The paper's columns: which of our metrics stands there (the first there is), and which is better.
COLUMNS = {
    "delta_log_z": (("delta_log_z",), "smaller"),
    "delta_log_z_rw": (("delta_log_z_rw",), "smaller"),
    "w2": (("w2",), "smaller"),
    "log_z": (("paper_elbo", "elbo"), "larger"),
    "log_z_rw": (("paper_log_z_is", "log_z_is"), "larger"),
}
DIFFERS = ("better", "worse")


def ours(row: dict, column: str) -> tuple[str, dict | None]:
    """Name and summary of the metric of a row that stands in a column; None: not measured."""
    names, _ = COLUMNS.get(column, ((column,), ""))
    found = [name for name in names if row["metrics"].get(name)]
    name = (found or names)[0]
    return name, row["metrics"].get(name)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values, in the order given (Holm 1979)."""
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted, running = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = running
    return adjusted


def welch(ours: dict, paper: dict, runs: int = PAPER_RUNS) -> float:
    """p-value of equal means, from {"mean", "std", "values"} against a mean and std of `runs`."""
    if ours["std"] == paper["std"] == 0:
        return float(ours["mean"] == paper["mean"])
    n = len(ours["values"])
    from scipy.stats import ttest_ind_from_stats  # a second to import

    moments = (ours["mean"], ours["std"], n, paper["mean"], paper["std"], runs)
    p = float(ttest_ind_from_stats(*moments, equal_var=False).pvalue)
    return 1.0 if math.isnan(p) else p


def judge(rows: list[dict], apart: dict[str, str] | None = None) -> None:
    """Give each row of a table its "verdict" and "reason", and each published cell its own.

    A row's "verdicts" are {column: {"metric", "verdict", "p", "reason"}}, the metric being ours
    that stands there. Only rows whose verdict is still
    "compare" are compared; what the others have, their cells have too. A cell matches if its p,
    adjusted over all cells compared in the table, is above 5%; otherwise it is better or worse,
    which is "open" until reasons.yaml explains it. A row is worse if any cell is, else better if
    any cell is, else it matches.

    Args:
        rows: with "verdict", "reason", "metrics" and "paper".
        apart: columns that compare with nothing, and why.
    """
    cells = []
    for row in rows:
        row["verdicts"] = {}
        for column, paper in (row["paper"] or {}).items():
            if paper is None:  # the paper has no such cell
                continue
            name, mine = ours(row, column)
            cell = {"metric": name, "verdict": row["verdict"], "p": None, "reason": row["reason"]}
            row["verdicts"][column] = cell
            if row["verdict"] != "compare":
                continue
            why = _incomparable(column, mine, paper, apart or {})
            if why:
                cell.update(verdict="not comparable", reason=f"explained: {why}")
            else:
                cells.append((cell, column, mine, paper))
    adjusted = holm([welch(mine, paper) for _, _, mine, paper in cells])
    for p, (cell, column, mine, paper) in zip(adjusted, cells, strict=True):
        smaller = mine["mean"] < paper["mean"]
        closer = "better" if smaller == (COLUMNS[column][1] == "smaller") else "worse"
        cell.update(verdict="matches" if p > LEVEL else closer, p=p)
        cell["reason"] = "none" if p > LEVEL else "open"
    for row in rows:
        if row["verdict"] == "compare":
            settle(row)


def settle(row: dict) -> None:
    """The verdict and the reason of a compared row, from those of its cells."""
    cells = list(row["verdicts"].values())
    found = {cell["verdict"] for cell in cells}
    order = ("worse", "better", "matches")
    row["verdict"] = next((word for word in order if word in found), "not comparable")
    kept = [cell for cell in cells if cell["verdict"] == row["verdict"] != "matches"]
    if row["verdict"] in DIFFERS:  # one that is open leaves the row open
        kept = [cell for cell in cells if cell["verdict"] in DIFFERS]
        kept = [cell for cell in kept if cell["reason"].startswith("open")] or kept
    row["reason"] = "; ".join(dict.fromkeys(cell["reason"] for cell in kept)) or "none"


def _incomparable(column: str, mine: dict | None, paper: dict, apart: dict) -> str | None:
    if column in apart:
        return apart[column]
    if column not in COLUMNS or mine is None:
        return "not measured here"
    return "the paper gives no spread" if paper["std"] is None else None
