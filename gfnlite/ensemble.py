"""Ensemble: one sampler from several seeds, trained as one program, so that results have bars."""

import copy
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from . import checkpoint
from .arguments import shown
from .config import Config, integer
from .evaluation import Evaluation, number
from .sampler import GFNDiffusion
from .targets import Target
from .train import check_fit, train

__all__ = ["Ensemble", "Summary", "half_width"]


class Ensemble(Sequence):
    """S samplers that differ in their seed alone: a sequence of `GFNDiffusion`, trained together.

    Each step equals that of S single samplers up to rounding, and costs less than S steps.

    Args:
        seeds: S of them, or the number S for 0 to S - 1.
        energy_fn, dim, config, device, conditions, overrides: as for `GFNDiffusion`.

    Raises:
        ValueError: for seeds that are not distinct and allowed, or as `GFNDiffusion`.
    """

    def __init__(
        self,
        energy_fn: Target | Callable[..., Tensor],
        dim: int | None = None,
        seeds: int | Sequence[int] = 5,
        config: Config | None = None,
        device: torch.device | str | None = None,
        conditions: Tensor | None = None,
        **overrides,
    ):
        if not isinstance(seeds, Sequence):
            seeds = range(integer("seeds", seeds, 1, 1000))
        seeds = [integer("seeds", seed, 0, 2**32 - 1) for seed in seeds]
        if not seeds or len(set(seeds)) < len(seeds):
            raise ValueError(f"seeds={shown(seeds)} must be at least one, and all different")
        first = GFNDiffusion(energy_fn, dim, config, seeds[0], device, conditions, **overrides)
        self.samplers = [first, *(_another(first, seed) for seed in seeds[1:])]

    def __len__(self):
        return len(self.samplers)

    def __getitem__(self, index):
        return self.samplers[index]

    def __repr__(self):
        return f"Ensemble({self[0]!r}, seeds={[sampler.seed for sampler in self]})"

    def fit(
        self,
        iterations: int | None = None,
        folder: str | Path | None = None,
        **options,
    ) -> "Ensemble":
        """Train all, as `GFNDiffusion.fit`; each keeps its files in `folder`/seed-<its seed>.

        `options` are progress, callbacks, compile and data.

        Raises:
            ValueError, FloatingPointError: as `GFNDiffusion.fit`.
        """
        options["callbacks"] = check_fit(iterations, options.get("callbacks", ()))
        folders = None
        if folder is not None:
            folders = [Path(folder) / f"seed-{sampler.seed}" for sampler in self]
            for sampler, own in zip(self, folders, strict=True):
                if state := checkpoint.find(sampler, own):
                    checkpoint.restore(sampler, state, own)
        least = min(sampler.iteration for sampler in self)
        until = least + iterations if iterations is not None else self[0].config.iterations
        with torch.enable_grad():
            train(self.samplers, until, folders, **options)
        return self

    def evaluate(self, n_samples: int = 20_000, seed: int = 0, **options) -> "Summary":
        """What `GFNDiffusion.evaluate` says of each, with mean and interval over the seeds."""
        return Summary(
            sampler.evaluate(n_samples, seed=seed + s, **options) for s, sampler in enumerate(self)
        )


def _another(sampler: GFNDiffusion, seed: int) -> GFNDiffusion:
    """An untrained one of the same target, seen in the same coordinates, with another seed."""
    other = copy.copy(sampler)
    other._start(seed)
    return other


class Summary(dict):
    """By metric, a dict of mean, std (over seeds) and values; shows itself as a table.

    Attributes:
        evaluations: of each sampler.
    """

    def __init__(self, evaluations: Iterable[Evaluation]):
        self.evaluations = list(evaluations)
        super().__init__()
        for key, first in self.evaluations[0].items():
            values = [evaluation[key] for evaluation in self.evaluations]
            if isinstance(first, int | float) and None not in values:
                numbers = torch.tensor(values, dtype=torch.float64)
                std = numbers.std().item() if len(values) > 1 else math.nan
                self[key] = {"mean": numbers.mean().item(), "std": std, "values": values}

    def rows(self) -> list[tuple[str, str, str]]:
        """Label, mean with the half-width of its 95% interval, and the values, of each metric."""
        rows = []
        for key, label in Evaluation.LABELS.items():
            if key in self:
                values, half = self[key]["values"], half_width(self[key]["values"])
                shown = [f"{v:,}" if isinstance(v, int) else number(key, v) for v in values]
                if len(set(values)) == 1:
                    rows.append((label, shown[0], ""))
                else:
                    mean = f"{number(key, self[key]['mean'])} ± {number(key, half)}"
                    rows.append((label, mean, ", ".join(shown)))
        return rows

    def __repr__(self):
        rows = [("", "mean, 95% interval", "seeds"), *self.rows()]
        a, b = (max(len(row[column]) for row in rows) for column in range(2))
        return "\n".join(f"{x:<{a}}  {y:>{b}}  {z}".rstrip() for x, y, z in rows)

    def _repr_html_(self):
        rows = [("", "mean, 95% interval", "seeds"), *self.rows()]
        cell = "<td style='text-align:right;padding-left:1em'>{}</td>"
        line = f"<tr><th style='text-align:left'>{{}}</th>{2 * cell}</tr>"
        return "<table>" + "".join(line.format(*row) for row in rows) + "</table>"


def half_width(values: Sequence[float], level: float = 0.95) -> float:
    """Half-width of Student's confidence interval for the mean of independent values; NaN of one.

    Raises:
        ValueError: unless `level` is between 0 and 1.
    """
    if not 0 < level < 1:
        raise ValueError(f"level={level} must be between 0 and 1")
    n = len(values)
    if n < 2:
        return math.nan
    # Student's t with n - 1 degrees of freedom is sqrt(n - 1) tan(a), a with density cos^(n - 2).
    angle = torch.linspace(0, math.pi / 2, 100_001, dtype=torch.float64)
    mass = torch.cumulative_trapezoid(angle.cos() ** (n - 2), angle)
    quantile = math.sqrt(n - 1) * angle[1:][mass >= level * mass[-1]][0].tan().item()
    return quantile * torch.tensor(values, dtype=torch.float64).std().item() / math.sqrt(n)
