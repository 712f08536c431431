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
# Its mean over runs is of signed errors: of their sizes, no five could vary as the paper's do.
SIGNED = "delta_log_z_rw"


def ours(row: dict, column: str) -> tuple[str, dict | None]:
    """Name and summary of the metric of a row that stands in a column; None: not measured."""
    names, _ = COLUMNS.get(column, ((column,), ""))
    found = [name for name in names if row["metrics"].get(name)]
    name = (found or names)[0]
    return name, as_printed(name, row["metrics"].get(name))


def as_printed(name: str, cell: dict | None) -> dict | None:
    """A summary as the paper has it, which prints the size of the mean of this signed error."""
    if name != SIGNED or not cell or cell["mean"] >= 0:
        return cell
    return cell | {"mean": -cell["mean"], "values": [-value for value in cell["values"]]}


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values, in the order given (Holm 1979)."""
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted, running = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = running
    return adjusted


def welch(
    ours: dict, paper: dict, runs: int = PAPER_RUNS
) -> tuple[float, tuple[float, float] | None]:
    """Welch's test of a {"mean", "std", "values"} against a mean and std of `runs`.

    Returns:
        p-value of equal means, and the 95% interval of ours - paper; None if neither varies.
    """
    difference = ours["mean"] - paper["mean"]
    if ours["std"] == paper["std"] == 0:
        return float(difference == 0), None
    n = len(ours["values"])
    from scipy.special import stdtr, stdtrit  # of Student's t; scipy.stats takes long to import

    parts = ours["std"] ** 2 / n, paper["std"] ** 2 / runs
    freedom = sum(parts) ** 2 / (parts[0] ** 2 / (n - 1) + parts[1] ** 2 / (runs - 1))
    error = math.sqrt(sum(parts))
    half = float(stdtrit(freedom, 1 - LEVEL / 2)) * error
    p = 2 * float(stdtr(freedom, -abs(difference) / error))
    return p, (difference - half, difference + half)


def spread_test(ours: dict, paper: dict, runs: int = PAPER_RUNS) -> float | None:
    """p-value of equal variances over runs, an F test of both sides; None if either is 0."""
    if not ours["std"] or not paper["std"]:
        return None
    from scipy.special import fdtr, fdtrc

    freedom = len(ours["values"]) - 1, runs - 1
    ratio = (ours["std"] / paper["std"]) ** 2
    return min(1.0, 2 * float(min(fdtrc(*freedom, ratio), fdtr(*freedom, ratio))))


def compatible_with_much(cell: dict, paper: dict) -> bool:
    """Whether less than half of the published value could differ without being found."""
    low, high = cell["difference"] or (0, 0)
    return high - low > abs(paper["mean"])


def judge(rows: list[dict], apart: dict[str, str] | None = None) -> None:
    """Give each row of a table its "verdict" and "reason", and each published cell its own.

    A row's "verdicts" are {column: {"metric", "verdict", "p", "p_raw", "difference", "reason",
    "wider"}}: the metric of ours that stands there, p adjusted and not, the 95% interval of ours -
    paper, and whether our seeds spread more than the paper's runs (`spread_test`, adjusted
    likewise).
    Only rows whose verdict is still "compare" are compared; what the others have, their cells have
    too. A cell matches if its p, adjusted over all cells compared in the table, is above 5%, and
    our seeds do not spread more than the paper's runs: one seed that diverges would make any mean
    match. A wider cell of like mean is worse, and any other is better or worse by its mean, which
    is "open" until reasons.yaml explains it. A row is worse if any cell is, else better if any cell
    is, else it matches.

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
            cell = {"metric": name, "verdict": row["verdict"], "p": None, "p_raw": None}
            cell |= {"difference": None, "reason": row["reason"], "wider": False}
            row["verdicts"][column] = cell
            if row["verdict"] != "compare":
                continue
            why = _incomparable(column, row, paper, apart or {})
            if why:
                cell.update(verdict="not comparable", reason=f"explained: {why}")
            else:
                cells.append((cell, column, mine, paper))
    _mark_wider(cells)
    tests = [welch(mine, paper) for _, _, mine, paper in cells]
    adjusted = holm([p for p, _ in tests])
    for p, test, (cell, column, mine, paper) in zip(adjusted, tests, cells, strict=True):
        smaller = mine["mean"] < paper["mean"]
        closer = "better" if smaller == (COLUMNS[column][1] == "smaller") else "worse"
        same = "worse" if cell["wider"] else "matches"
        cell.update(verdict=same if p > LEVEL else closer, p=p)
        cell.update(p_raw=test[0], difference=test[1] and list(test[1]))
        cell["reason"] = "none" if cell["verdict"] == "matches" else "open"
    for row in rows:
        if row["verdict"] == "compare":
            settle(row)


def _mark_wider(cells: list[tuple[dict, str, dict, dict]]) -> None:
    spreads = [(*one, spread_test(one[2], one[3])) for one in cells]
    spreads = [one for one in spreads if one[-1] is not None]
    adjusted = holm([p for *_, p in spreads])
    for p, (cell, _, mine, paper, _) in zip(adjusted, spreads, strict=True):
        cell["wider"] = p <= LEVEL and mine["std"] > paper["std"]


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


def _incomparable(column: str, row: dict, paper: dict, apart: dict) -> str | None:
    if column in apart:
        return apart[column]
    name, mine = ours(row, column)
    if column not in COLUMNS or mine is None:
        return "not measured here"
    if name == SIGNED and not row["metrics"].get("paper_log_z_is"):
        return "its runs kept only the size of the error, and not its sign"
    return "the paper gives no spread" if paper["std"] is None else None
