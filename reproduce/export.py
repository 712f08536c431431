"""A results file as CSV, Markdown or LaTeX. Names are data: whatever is in them is escaped."""

import csv
import io
from collections.abc import Iterable

from gfnlite.forest import LABELS, interval

from .experiments import BadInput
from .verdict import PAPER_RUNS, as_printed, ours

FIELDS = (
    "task method profile seeds metric mean std low high n paper_mean paper_std difference_low "
    "difference_high p_raw p verdict reason run commit device"
).split()
MARKS = {"matches": "=", "better": "+", "worse": "-"}


def columns(result: dict) -> list[str]:
    """The paper's columns of a table, in its order; ours where the paper has no such table."""
    found = [name for row in result["rows"] for name in row["paper"] or {}]
    return list(dict.fromkeys(found)) or ["delta_log_z", "delta_log_z_rw", "w2"]


def as_csv(result: dict) -> str:
    """One line for each method, profile and metric; low and high are a 95% t interval.

    Metrics that no seed has are left out, unless the paper has them.
    """
    file = io.StringIO()
    writer = csv.DictWriter(file, FIELDS, restval="", lineterminator="\n")
    writer.writeheader()
    for row in result["rows"]:
        about = {
            "task": result["task"],
            "method": row["method"],
            "profile": row["profile"],
            "seeds": " ".join(map(str, row["seeds"])),
            "run": " ".join(row["runs"]),
            "commit": row["commit"],
            "device": row["device"],
        }
        judged = {ours(row, column)[0]: column for column in row["verdicts"]}
        measured = [name for name, cell in row["metrics"].items() if cell]
        for name in dict.fromkeys((*measured, *judged)):
            line = about | {"metric": name}
            cell = as_printed(name, row["metrics"].get(name))
            if cell:
                low, high = interval(cell) or ("", "")
                numbers = {"mean": cell["mean"], "std": cell["std"], "low": low, "high": high}
                line |= {key: _digits(value) for key, value in numbers.items()}
                line["n"] = len(cell["values"])
            if name in judged:
                paper, verdict = (row[key][judged[name]] for key in ("paper", "verdicts"))
                line |= {"paper_mean": paper["mean"], "paper_std": paper["std"]}
                line |= {"verdict": verdict["verdict"], "reason": verdict["reason"]}
                low, high = verdict["difference"] or ("", "")
                tested = {"difference_low": low, "difference_high": high}
                tested |= {"p_raw": verdict["p_raw"], "p": verdict["p"]}
                line |= {key: _digits(value) for key, value in tested.items()}
            writer.writerow(line)
    return file.getvalue()


def markdown(result: dict) -> str:
    """The table as Markdown: paper, ours with a 95% interval, verdict; then the runs."""
    names = columns(result)
    head = ["method", "run"]
    for name in names:
        head += [f"{LABELS.get(name, name)}, paper", "ours"]
    head += ["verdict", "reason"]
    lines = [head, ["---"] * len(head)]
    for row in result["rows"]:
        cells = [row["method"], _run(row)]
        for name in names:
            word = row["verdicts"].get(name, {}).get("verdict", "")
            word = f" {word}" if word in MARKS else ""
            cells += [_spread((row["paper"] or {}).get(name)), _ours(row, name) + word]
        lines.append(list(map(_plain, (*cells, row["verdict"], row["reason"]))))
    text = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    ran = [row for row in result["rows"] if row["seeds"]]
    runs = "".join(
        f"- {_plain(row['method'])}, {_plain(_run(row))}: {_plain(', '.join(row['runs']))}; "
        f"commit {_plain(row['commit'])}; {_plain(row['device'])}\n"
        for row in ran
    )
    note = f"Paper: mean ± standard deviation of {PAPER_RUNS} runs. Ours: mean [95% interval].\n"
    return f"## {_plain(result['task'])}\n\n{text}\n{note}" + (f"\n{runs}" if runs else "")


def latex(result: dict) -> str:
    """The table as LaTeX (booktabs); a mark behind ours says whether it matches (=, + or -)."""
    names = columns(result)
    tops = "".join(rf" & \multicolumn{{2}}{{c}}{{{_tex(LABELS.get(n, n))}}}" for n in names)
    rules = "".join(rf"\cmidrule(lr){{{3 + 2 * i}-{4 + 2 * i}}}" for i in range(len(names)))
    lines = [
        r"\begin{tabular}{ll" + "rr" * len(names) + "l}",
        r"\toprule",
        rf" & {tops} & \\",
        rules,
        "method & run" + " & paper & ours" * len(names) + r" & verdict \\",
        r"\midrule",
    ]
    for row in result["rows"]:
        cells = [row["method"], _run(row)]
        for name in names:
            mark = MARKS.get(row["verdicts"].get(name, {}).get("verdict"), "")
            cells += [_spread((row["paper"] or {}).get(name)), _ours(row, name) + mark]
        lines.append(" & ".join(map(_tex, (*cells, row["verdict"]))) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


FORMATS = {"csv": as_csv, "markdown": markdown, "latex": latex}


def text(results: Iterable[dict], form: str) -> str:
    """Several results in one text of a form; a CSV has its head once.

    Raises:
        BadInput: for a form that is not in `FORMATS`.
    """
    if form not in FORMATS:
        raise BadInput(f"format={form!r} is unknown; allowed: {', '.join(FORMATS)}")
    parts = [FORMATS[form](result) for result in results]
    if form == "csv":
        parts[1:] = [part.partition("\n")[2] for part in parts[1:]]
        return "".join(parts)
    return "\n".join(parts)


def _digits(value) -> str:
    return f"{value:.8g}" if isinstance(value, float) else ""


def _run(row: dict) -> str:
    many = len(row["seeds"])
    return f"{row['profile']}, {many} seed{'s' * (many != 1)}" if many else row["profile"]


def _spread(cell: dict | None) -> str:
    if not cell:
        return "–"
    return f"{cell['mean']:g}" + (f" ± {cell['std']:g}" if cell["std"] is not None else "")


def _ours(row: dict, column: str) -> str:
    _, cell = ours(row, column)
    if not cell:
        return "–"
    bounds = interval(cell)
    shown = [f"{value + 0.0:.3f}" for value in (cell["mean"], *(bounds or ()))]
    return f"{shown[0]} [{shown[1]}, {shown[2]}]" if bounds else shown[0]


def _plain(text) -> str:
    """Text that Markdown shows as it is, on one line."""
    for sign, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
        text = str(text).replace(sign, entity)
    escaped = "".join(f"\\{sign}" if sign in "\\`*_[]|$#~" else sign for sign in text)
    return " ".join(escaped.split())


def _tex(text) -> str:
    """Text that LaTeX prints as it is, on one line."""
    signs = {sign: f"\\{sign}" for sign in "&%$#_{}"} | {
        "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
        "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
        "±": r"$\pm$", "Δ": r"$\Delta$", "–": "--", "[": "{[}", "]": "{]}",
    }  # fmt: skip
    return " ".join("".join(signs.get(sign, sign) for sign in str(text)).split())
