"""What `metrics.evaluate` and `diagnosis.diagnose` share: how they look, and what they return.

They draw trajectories in batches, and see one posterior of a conditional target as a target; the
records that they return show themselves.
"""

import html
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .arguments import floats
from .combine import conditioned
from .process import time_grid
from .smc import annealed_smc
from .targets import Target

if TYPE_CHECKING:
    from .diagnosis import Evidence, Finding
    from .sampler import GFNDiffusion

__all__ = [
    "Diagnosis",
    "Evaluation",
    "batches",
    "draw",
    "at_condition",
    "has_score",
    "number",
    "pilot",
]

BATCH = 5000  # most trajectories held at a time
NUMBERS = 2**25  # most numbers T x B x d in their states; about ten such arrays exist at once


def batches(sampler: "GFNDiffusion", n: int, steps: int | None = None) -> list[int]:
    """Sizes, n in sum, of batches of trajectories that fit into memory whatever d and T are.

    Raises:
        ValueError: if `steps` is neither None (as configured) nor a positive integer.
    """
    config = sampler.config
    transitions = len(time_grid(config.steps if steps is None else steps, config.grid)) - 1
    most = max(1, min(BATCH, NUMBERS // (transitions * sampler.target.dim)))
    return [min(most, n - done) for done in range(0, n, most)]


def draw(
    sampler: "GFNDiffusion",
    n: int,
    steps: int | None = None,
    generator: torch.Generator | None = None,
    condition: Tensor | None = None,
    ends: Tensor | Callable[[int, torch.Generator | None], Tensor] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Log-weights (n,), ends (n, d) and log-rewards (n,) of n trajectories, made in `batches`.

    Args:
        sampler: what generates or destroys.
        n: number of trajectories.
        steps: transitions; None: as configured.
        generator: of all noise.
        condition: (c,), the same for all, or None.
        ends: points to destroy (n, d), or what draws a batch of them, `(size, generator) ->
            (size, d)`; None generates.

    Raises:
        ValueError: as `GFNDiffusion.trajectory`.
    """

    sizes = batches(sampler, n, steps)
    starts = ends.split(sizes) if isinstance(ends, Tensor) else [ends] * len(sizes)

    def one(size, x):
        x = x(size, generator) if callable(x) else x
        start = {"batch_size": size} if x is None else {"x": x}
        made = sampler.trajectory(steps=steps, generator=generator, condition=condition, **start)
        return made.log_weight, made.x[-1].clone(), made.log_reward  # the path itself may go

    parts = [one(*batch) for batch in zip(sizes, starts, strict=True)]
    return tuple(torch.cat(values) for values in zip(*parts, strict=True))


def at_condition(sampler: "GFNDiffusion", condition: Tensor | None) -> tuple[Target, Tensor | None]:
    """The sampler's target at one condition (c,), as one that takes none; and the condition.

    Raises:
        ValueError: if the condition is missing, unasked for, or not of shape (c,).
    """
    target = sampler.target
    if condition is None and not target.condition_dim:
        return target, None
    if not target.condition_dim:
        raise ValueError(f"condition given, but target '{target.name}' takes none")
    wanted = f"one vector of shape ({target.condition_dim},)"
    if condition is None:
        raise ValueError(f"target '{target.name}' takes a condition: pass condition=, {wanted}")
    condition = floats("condition", condition, sampler.device, torch.float32)
    if tuple(condition.shape) != (target.condition_dim,):
        raise ValueError(f"condition must be {wanted}, got shape {tuple(condition.shape)}")
    return conditioned(target, condition), condition


def pilot(target: Target, scale: float, generator: torch.Generator, particles: int = 300) -> Tensor:
    """Annealed SMC (particles, d), a third each from starts of 1, 3 and 10 times `scale`.

    They lie in the target's regions, but need not have their mass there.
    """
    options = {"keep": 0.5, "moves": 8, "generator": generator, "device": generator.device}
    runs = [annealed_smc(target, particles // 3, k * scale, **options) for k in (1.0, 3.0, 10.0)]
    return torch.cat([run.x for run in runs])


def has_score(target: Target, x: Tensor) -> bool:
    """Whether the energy has a gradient at x (B, d)."""
    try:
        target.log_reward_and_score(x)
    except (RuntimeError, TypeError, ValueError):  # NumPy refuses a tensor that needs a gradient
        return False
    return True


class Evaluation(dict):
    """What `GFNDiffusion.evaluate` returns: a dict that shows itself as a table.

    Attributes:
        intervals: 95% bootstrap interval (low, high) of each metric that has one, by key.
    """

    LABELS = {
        "elbo": "ELBO (at most log Z)",
        "log_z": "true log Z",
        "log_z_is": "importance-sampled log Z",
        "eubo": "EUBO (at least log Z)",
        "log_z_learned": "learned log Z",
        "ess": "effective sample size",
        "ess_forward": "the same, seen from the target",
        "w2": "W2 to exact samples",
        "w2_floor": "W2 of exact samples",
        "sinkhorn": "Sinkhorn to exact samples",
        "sinkhorn_floor": "Sinkhorn of exact samples",
        "mmd": "MMD² to exact samples",
        "mmd_floor": "MMD² of exact samples",
        "modes": "modes found",
        "mode_coverage": "mode coverage",
        "energy_calls": "energy calls in training",
        "n_samples": "samples used here",
    }

    def __init__(self, values: dict, intervals: dict[str, tuple[float, float]] | None = None):
        super().__init__(values)
        self.intervals = intervals or {}

    def rows(self) -> list[tuple[str, str]]:
        """Label and formatted value of each entry but the list of mode weights."""
        return [(label, self._format(key)) for key, label in self._labels()]

    def _labels(self) -> list[tuple[str, str]]:
        return [(key, label) for key, label in self.LABELS.items() if key in self]

    def _table(self) -> list[tuple[str, str, str]]:
        rows = [(label, self._format(key), self._interval(key)) for key, label in self._labels()]
        return [("", "", "95% interval"), *rows]

    def _format(self, key: str) -> str:
        value = self[key]
        if value is None:
            return "unknown"
        if key == "modes":
            return f"{value} of {len(self['mode_weights'])}"
        return f"{value:,}" if isinstance(value, int) else number(key, value)

    def _interval(self, key: str) -> str:
        bounds = self.intervals.get(key)
        return f"{number(key, bounds[0])} to {number(key, bounds[1])}" if bounds else ""

    def __repr__(self):
        rows = self._table()
        a, b, c = (max(len(row[column]) for row in rows) for column in range(3))
        return "\n".join(f"{x:<{a}}  {y:>{b}}  {z:>{c}}".rstrip() for x, y, z in rows)

    def _repr_html_(self):
        cells = (
            "<tr><th style='text-align:left'>{}</th>" + 2 * "<td style='text-align:right'>{}</td>"
        )
        body = "".join(cells.format(*row) + "</tr>" for row in self._table())
        return f"<table>{body}</table>"


def number(key: str, value: float) -> str:
    """The value of a metric, with the digits that it deserves."""
    if key.startswith("ess"):
        return f"{value:.1%}" if value >= 1e-3 or value == 0 else f"{100 * value:.1g}%"
    return f"{value:.2g}" if key.startswith("mmd") else f"{value:.3f}"


@dataclass(frozen=True)
class Diagnosis:
    """What `diagnose` found; shows itself as text, and as HTML in a notebook."""

    target: str
    evidence: "Evidence"
    findings: list["Finding"]

    @property
    def verdicts(self) -> list[str]:
        """The verdicts in order of cause, or ["fine"]."""
        return [finding.verdict for finding in self.findings] or ["fine"]

    def __repr__(self):
        e = self.evidence
        upper = "" if e.eubo is None else f", EUBO {e.eubo:.2f}"
        text = f"ELBO {e.elbo:.2f}, IS log Z {e.log_z_is:.2f}{upper}, ESS {e.ess:.1%}"
        text += f", modes {len(e.modes) - len(e.missing)} of {len(e.modes)}" if e.modes else ""
        if not e.exact:
            unmet = "no pilot run" if e.piloted else "the sampler itself never"
            text += f"; modes that {unmet} met would not be noticed"
            text += "" if e.piloted else " (no pilot, as the energy has no gradient)"
        lines = [f"{self.target}: {', '.join(self.verdicts)}", f"  {text}"]
        for f in self.findings:
            lines += [f"- {f.verdict}: {f.evidence}.", f"  To do: {f.advice}."]
        return "\n".join(lines)

    def _repr_html_(self):
        return f"<pre style='white-space:pre-wrap'>{html.escape(repr(self))}</pre>"
