"""Metrics: reductions of log-weights, and distances between samples.

With log w = log R(x_1) + sum log_pb - sum log_pf, E[w] over P_F is Z. So the mean of log w over
generated trajectories is a lower bound of log Z (ELBO), and over trajectories destroyed from exact
samples an upper bound (EUBO). The second sees modes that the sampler misses; the first cannot.
"""

import math

import torch
from torch import Tensor

from .targets import Target

__all__ = ["Evaluation", "elbo", "ess", "eubo", "log_z_is", "modes_found", "w2"]


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
    import ot

    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise ValueError(f"x and y must be (n, d) and (m, d), got {x.shape} and {y.shape}")
    cost = torch.cdist(x.double(), y.double(), compute_mode="donot_use_mm_for_euclid_dist")
    # Uniform weights; the default of 1e5 network-simplex steps is too few for 2000 points.
    return math.sqrt(ot.emd2([], [], cost.square().cpu().numpy(), numItermax=10_000_000))


def w2_floor(target: Target, n: int, repeats: int = 3, seed: int = 0) -> float:
    """Mean W2 between two exact samples of size n: what a perfect sampler would score."""
    generator = torch.Generator().manual_seed(seed)
    exact = target.to("cpu").sample
    pairs = [(exact(n, generator), exact(n, generator)) for _ in range(repeats)]
    return sum(w2(x, y) for x, y in pairs) / repeats


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
