"""Has the code drifted? Fresh runs against the committed results, as far as seeds can tell.

Made by the same code on the same device, a seed says the same numbers: those that do are equal. All
others may differ as two sets of seeds differ, and no more.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace

from scipy.stats import t

import gfnlite as gl

from . import experiments, report
from .table import aligned
from .verdict import holm, welch

METRICS = "elbo eubo log_z_is ess delta_log_z delta_log_z_rw w2 modes".split()
LEVEL = 0.01
DRIFT, WITHIN, EQUAL, UNKNOWN = "drift", "within noise", "equal", "no spread to compare with"


@dataclass
class Finding:
    """One metric of one row, committed and fresh; `p` is adjusted over all that were tested."""

    task: str
    method: str
    profile: str
    metric: str
    committed: dict
    fresh: dict | None
    p: float | None
    verdict: str

    @property
    def interval(self) -> tuple[float, float] | None:
        """95% prediction interval of the fresh mean, from the committed seeds; None: no spread."""
        n = len(self.committed["values"])
        if self.fresh is None or n < 2:
            return None
        share = 1 / n + 1 / len(self.fresh["values"])
        half = float(t.ppf(0.975, n - 1)) * self.committed["std"] * math.sqrt(share)
        return self.committed["mean"] - half, self.committed["mean"] + half


def drift(rows: list[dict], committed: dict[str, dict], level: float = LEVEL) -> list[Finding]:
    """Each metric of the fresh rows beside the committed row of its task, method and profile.

    Two sets of seeds: Welch's test. One seed against several: is it inside their prediction
    interval? Holm's correction holds the chance of any false alarm in the list below `level`,
    for metrics that are about normal over seeds. A metric that has been lost, or that differs
    where seeds never did, is a drift. Of five fresh seeds against five, one metric that is off by 5
    standard deviations is found nine times in ten, all of them always; of one fresh seed, all of
    them three times in four.

    Args:
        rows: from `report.collect`.
        committed: from `report.read_committed`.
        level: of the whole list.
    """
    old = {
        (task, row["method"], row["profile"]): row
        for task, result in committed.items()
        for row in result["rows"]
        if row["seeds"]
    }
    findings = []
    for row in rows:
        key = row["task"], row["method"], row["profile"]
        before = old.get(key, {"metrics": {}})
        for metric in METRICS:
            was, now = before["metrics"].get(metric), row["metrics"].get(metric)
            if was:
                same = now and _same(before, was, row, now)
                p, verdict = (None, EQUAL) if same else (_p(was, now), WITHIN)
                findings.append(Finding(*key, metric, was, now, p, verdict))
    tested = [finding for finding in findings if finding.p is not None]
    for finding, p in zip(tested, holm([f.p for f in tested]), strict=True):
        finding.p = p
        finding.verdict = DRIFT if p < level else WITHIN
    for finding in findings:
        if finding.verdict != EQUAL and finding.p is None:
            finding.verdict = UNKNOWN
    return findings


def check(only: Sequence[str] = (), output: str | Path | None = None) -> tuple[str, int]:
    """What `drift` finds of this machine's runs; 1: drifted, 0: not, 2: nothing to compare.

    Args:
        only: conditions such as "task=25gmm", all of which hold.
        output: a file for the findings, {"findings": [{"task", "method", "profile", "metric",
            "committed", "fresh", "p", "verdict", "interval"}]}, each with the 95% prediction
            interval of the fresh mean.

    Raises:
        BadInput: for a condition that no finished run fulfils.
    """
    notes: list[str] = []
    rows = report.collect(notes)
    chosen = experiments.select([SimpleNamespace(**row) for row in rows], only)
    findings = drift([vars(row) for row in chosen], report.read_committed())
    if output is not None:
        told = [asdict(finding) | {"interval": finding.interval} for finding in findings]
        gl.write_json(output, {"findings": told})
    compared = [finding for finding in findings if finding.verdict != UNKNOWN]
    drifted = sum(finding.verdict == DRIFT for finding in findings)
    if not compared:
        last = "nothing to compare: no finished run here has a committed row of its profile"
        if findings:
            last = f"nothing to compare: one seed here and one committed have {UNKNOWN}"
        return "\n".join([*notes, *_lines(findings), last]), 2
    equal = sum(finding.verdict == EQUAL for finding in findings)
    last = (
        f"{drifted} of {len(compared)} metrics beyond seed noise at the {LEVEL:.0%} level, "
        f"{equal} equal"
    )
    return "\n".join([*notes, *_lines(findings), last]), int(drifted > 0)


def _same(before: dict, was: dict, row: dict, now: dict) -> bool:
    """Whether each fresh seed is a committed one, and says the same number."""
    old = dict(zip(before["seeds"], was["values"], strict=True))
    new = dict(zip(row["seeds"], now["values"], strict=True))
    shared = old.keys() & new.keys()
    return shared == new.keys() and all(old[seed] == new[seed] for seed in shared)


def _p(was: dict, now: dict | None) -> float | None:
    """p-value of no drift; None: two single values have no spread."""
    if now is None:
        return 0.0
    few, many = sorted((was, now), key=lambda cell: len(cell["values"]))
    n = len(many["values"])
    if n < 2:
        return None
    if len(few["values"]) > 1:
        return welch(now, was, len(was["values"]))[0]
    away = abs(few["mean"] - many["mean"])
    if many["std"] == 0:
        return float(away == 0)
    return 2 * float(t.sf(away / (many["std"] * math.sqrt(1 + 1 / n)), n - 1))


def _lines(findings: list[Finding]) -> list[str]:
    if not findings:
        return []
    lines = [["task", "method", "profile", "metric", "committed", "fresh", "p", "verdict"]]
    for f in findings:
        p = "" if f.p is None else f"{f.p:.2g}"
        cells = [f.task, f.method, f.profile, f.metric]
        lines.append([*cells, _cell(f.committed), _cell(f.fresh), p, f.verdict])
    return aligned(lines)


def _cell(summary: dict | None) -> str:
    if summary is None:
        return "lost"
    spread = "" if summary["std"] is None else f" +- {summary['std']:.3f}"
    return f"{summary['mean']:.3f}{spread} ({len(summary['values'])})"
