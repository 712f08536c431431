"""Metrics: reductions of log-weights, and distances between samples.

With log w = log R(x_1) + sum log_pb - sum log_pf, E[w] over P_F is Z. So the mean of log w over
generated trajectories is a lower bound of log Z (ELBO), and over trajectories destroyed from exact
samples an upper bound (EUBO). The second sees modes that the sampler misses; the first cannot.
"""

import math
import warnings
from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .targets import Target

if TYPE_CHECKING:
    from .sampler import GFNDiffusion

__all__ = ["Evaluation", "elbo", "ess", "eubo", "evaluate", "log_z_is", "modes_found", "w2"]

W2_SAMPLES = 2000  # exact transport grows with the cube; also the paper's number
BATCH = 5000  # trajectories held at a time


def elbo(log_weight: Tensor) -> float:
    """Mean log-weight of trajectories from P_F (B,): at most log Z in expectation."""
    return log_weight.mean().item()


def eubo(log_weight: Tensor) -> float:
    """Mean log-weight of trajectories from P_B, ends from the target (B,): at least log Z."""
    return log_weight.mean().item()


def log_z_is(log_weight: Tensor) -> float:
    """Importance-sampling estimate of log Z, log mean exp of log-weights from P_F (B,)."""
    return (log_weight.double().logsumexp(0) - math.log(len(log_weight))).item()


def ess(log_weight: Tensor) -> float:
    """Effective sample size as a fraction, (sum w)^2 / (n sum w^2): in (0, 1]."""
    w = (log_weight.double() - log_weight.max()).exp()
    return (w.sum().square() / (len(w) * w.square().sum())).item()


def modes_found(weights: Tensor, mass: Tensor) -> int:
    """Number of modes whose sampled weight (K,) is at least 20% of their exact mass (K,)."""
    return int((weights >= 0.2 * mass).sum())


def w2(x: Tensor, y: Tensor) -> float:
    """Exact 2-Wasserstein distance (not squared) between two samples (n, d), (m, d).

    Raises:
        ImportError: without the package POT (`pip install 'gfnlite[transport]'`).
        ValueError: if the samples' dimensions differ.
    """
    try:
        import ot
    except ImportError as error:
        raise ImportError("w2 needs the package POT: pip install 'gfnlite[transport]'") from error

    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise ValueError(f"x and y must be (n, d) and (m, d), got {x.shape} and {y.shape}")
    cost = torch.cdist(x.double(), y.double(), compute_mode="donot_use_mm_for_euclid_dist")
    # Uniform weights; the default of 1e5 network-simplex steps is too few for 2000 points.
    return math.sqrt(ot.emd2([], [], cost.square().cpu().numpy(), numItermax=10_000_000))


@lru_cache(maxsize=64)
def w2_floor(target: Target, n: int, repeats: int = 3, seed: int = 0) -> float:
    """Mean W2 between two exact samples of size n: what a perfect sampler would score."""
    generator = torch.Generator().manual_seed(seed)
    exact = target.to("cpu").sample
    pairs = [(exact(n, generator), exact(n, generator)) for _ in range(repeats)]
    return sum(w2(x, y) for x, y in pairs) / repeats


def evaluate(sampler: "GFNDiffusion", n_samples: int, steps: int | None, seed: int) -> "Evaluation":
    """All metrics of a sampler: see `GFNDiffusion.evaluate`."""
    if isinstance(n_samples, bool) or not isinstance(n_samples, int) or n_samples < 2:
        raise ValueError(f"n_samples={n_samples!r} must be an integer of at least 2")
    target = sampler.target
    generator = torch.Generator(sampler.device).manual_seed(seed)
    sizes = [min(BATCH, n_samples - done) for done in range(0, n_samples, BATCH)]

    def trajectories(**start):
        trajectory = sampler.trajectory(steps=steps, generator=generator, **start)
        return trajectory.log_weight, trajectory.x[-1].clone()  # the path itself may go

    generated = [trajectories(batch_size=n) for n in sizes]
    log_weight, x = (torch.cat(parts) for parts in zip(*generated, strict=True))
    upper = distance = floor = weights = found = None
    if target.sample is not None:
        destroyed = [trajectories(x=target.sample(n, generator))[0] for n in sizes]
        upper = eubo(torch.cat(destroyed))
        n = min(n_samples, W2_SAMPLES)
        try:
            distance, floor = w2(x[:n], target.sample(n, generator)), w2_floor(target, n)
        except ImportError as error:  # an extra: everything else is still worth knowing
            warnings.warn(f"w2 left out: {error}", stacklevel=3)
    if target.mode_mass is not None:
        share = target.modes_of(x).mean(0)
        weights, found = share.tolist(), modes_found(share, target.mode_mass)
    return Evaluation(
        elbo=elbo(log_weight),
        eubo=upper,
        log_z_is=log_z_is(log_weight),
        log_z_learned=sampler.log_z.item() if sampler.config.objective == "tb" else None,
        ess=ess(log_weight),
        w2=distance,
        w2_floor=floor,
        modes=found,
        mode_weights=weights,
        energy_calls=sampler.energy_calls,
        n_samples=n_samples,
    )


class Evaluation(dict):
    """What `GFNDiffusion.evaluate` returns: a dict that shows itself as a table."""

    LABELS = {
        "elbo": "ELBO (at most log Z)",
        "log_z_is": "importance-sampled log Z",
        "eubo": "EUBO (at least log Z)",
        "log_z_learned": "learned log Z",
        "ess": "effective sample size",
        "w2": "W2 to exact samples",
        "w2_floor": "W2 of exact samples",
        "modes": "modes found",
        "energy_calls": "energy calls in training",
        "n_samples": "samples used here",
    }

    def rows(self) -> list[tuple[str, str]]:
        """Label and formatted value of each entry but the list of mode weights."""
        return [(label, self._format(key)) for key, label in self.LABELS.items()]

    def _format(self, key: str) -> str:
        value = self[key]
        if value is None:
            return "unknown"
        if key == "modes":
            return f"{value} of {len(self['mode_weights'])}"
        if key == "ess":
            return f"{value:.1%}"
        return f"{value:,}" if isinstance(value, int) else f"{value:.3f}"

    def __repr__(self):
        width = max(len(label) for label in self.LABELS.values())
        return "\n".join(f"{label:<{width}}  {value:>12}" for label, value in self.rows())

    def _repr_html_(self):
        body = "".join(
            f"<tr><th style='text-align:left'>{label}</th>"
            f"<td style='text-align:right'>{value}</td></tr>"
            for label, value in self.rows()
        )
        return f"<table>{body}</table>"
