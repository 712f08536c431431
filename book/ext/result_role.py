"""The role `result`: a number in the text that is read from the committed results.

{result}`25gmm TB+Expl elbo` becomes the mean over seeds and the half-width of its 95% interval. It
says on hovering which run it is from, and leads to the results page.
"""

import json
import math
from pathlib import Path

from docutils import nodes
from scipy.stats import t as student
from sphinx import addnodes
from sphinx.util.docutils import SphinxRole

LEDGER = "notebooks/15_results"


def written(mean: float, half: float | None) -> str:
    """A mean with the digits that its interval's half-width lets it have: two of its own.

    Without an interval, or where all seeds agree, it has three significant digits.
    """
    if not half:
        size = math.floor(math.log10(abs(mean))) if mean else 0
        text = f"{mean:,.{max(0, 2 - size)}f}"
        text = text.rstrip("0").rstrip(".") if "." in text else text
    else:
        digits = max(0, 1 - math.floor(math.log10(half)))
        text = f"{mean:,.{digits}f} ± {half:,.{digits}f}"
    return text.replace("-", "−")


def look_up(folder: Path, text: str) -> tuple[str, str]:
    """What the role shows, and what it says of its source.

    Raises:
        ValueError: if it names no result; one line says what there is.
    """
    task, method, metric, *rest = text.split() + [""] * (3 - len(text.split()))
    profile = rest[0] if rest else "full"
    path = folder / f"{task}.json"
    if not path.exists():
        raise ValueError(f"result {text!r}: no results of a task {task!r}")
    rows = [r for r in json.loads(path.read_text())["rows"] if r["seeds"]]
    named = [r for r in rows if (r["method"], r["profile"]) == (method, profile)]
    if not named:
        there = ", ".join(f"{r['method']} {r['profile']}" for r in rows)
        raise ValueError(f"result {text!r}: no run {method!r} {profile!r}; there are: {there}")
    cell = named[0]["metrics"].get(metric)
    if cell is None:
        there = ", ".join(name for name, c in named[0]["metrics"].items() if c)
        raise ValueError(f"result {text!r}: no metric {metric!r}; there are: {there}")
    n, half = len(cell["values"]), None
    if n > 1:
        half = student.ppf(0.975, n - 1) * cell["std"] / math.sqrt(n)
    seeds = "one seed, no interval" if n == 1 else f"{n} seeds, ± half of the 95% interval"
    source = f"{metric}, {method}, {profile}: {seeds}; run {', '.join(named[0]['runs'])}"
    return written(cell["mean"], half), source


class Result(SphinxRole):
    """The role itself."""

    def run(self):
        """A link to the ledger, or one clear warning."""
        folder = Path(self.env.srcdir) / "reproduce" / "results"
        self.env.note_dependency(str(folder / f"{self.text.split()[0]}.json"))
        try:
            text, source = look_up(folder, self.text)
        except ValueError as error:
            message = self.inliner.reporter.warning(str(error), line=self.lineno)
            return [nodes.problematic(self.rawtext, self.rawtext)], [message]
        link = addnodes.pending_xref(
            "", nodes.abbreviation("", text, explanation=source, classes=["result"]),
            refdomain="std", reftype="doc", reftarget=f"/{LEDGER}", refexplicit=True, refwarn=True,
        )  # fmt: skip
        link["refdoc"] = self.env.docname
        return [link], []
