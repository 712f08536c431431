"""Posteriors given real data: a Gaussian field behind a forest, and logistic regression."""

import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .checks import is_count
from .energy import LOG_2PI, ClosedForm
from .extras import need

__all__ = ["LogGaussianCox", "LogisticRegression", "breast_cancer", "finnish_pines"]


class LogGaussianCox(ClosedForm):
    """Log-Gaussian Cox process: the posterior of the log intensity x of points in the unit square.

    On a grid of m x m cells of area a = 1/m^2, with y_i points in cell i:

        `R(x) = N(x; mu, K) prod_i exp(x_i y_i - a exp(x_i)), K_ij = s^2 exp(-|i - j| / (m beta))`,

    s^2 = 1.91, beta = 1/33, mu = log N - s^2 / 2 for N points (Møller, Syversveen & Waagepetersen,
    Log Gaussian Cox processes, 1998; with the pines and m = 40 as in arXiv:2402.05098, d = 1600).
    The factor 1 / y_i! is left out, as it is there. log Z is not known.

    Args:
        points: (N, 2) in [0, 1]^2; None: the 126 Finnish pines.
        grid: m, positive.
        whitened: take z with x = mu + L z, K = L L^T, as the variable: `R(z) = R(x) |L|` has the
            same normaliser and the prior N(0, I).

    Raises:
        ValueError: if `points` are none, or not (N, 2) in the unit square, or `grid` is no count.
    """

    def __init__(self, points: Tensor | None = None, grid: int = 40, whitened: bool = False):
        known = points is None and grid == 40
        points = finnish_pines() if points is None else torch.as_tensor(points)
        fits = points.ndim == 2 and points.shape[1] == 2 and len(points) > 0
        if not (fits and ((points >= 0) & (points <= 1)).all()):
            raise ValueError(
                f"points must be (N, 2) in [0, 1]^2, N at least 1, got {tuple(points.shape)}"
            )
        if not is_count(grid):
            raise ValueError(f"grid={grid!r} must be a positive integer")
        grid = int(grid)
        self.dim, self.whitened = grid**2, whitened
        if known:
            self.name = "lgcp_whitened" if whitened else "lgcp"
        variance, beta = 1.91, 1 / 33
        self.mean = math.log(len(points)) - variance / 2
        row, column = (points * grid).long().clamp(max=grid - 1).T  # 1 itself is in the last cell
        self.counts = torch.bincount(row * grid + column, minlength=self.dim).float()

        # In place, and gone as soon as it can be: of the 1600 cells 20 MB a copy.
        cells = torch.cartesian_prod(*[torch.arange(grid, dtype=torch.float64)] * 2)
        covariance = torch.cdist(cells, cells).div_(-grid * beta).exp_().mul_(variance)
        factor = torch.linalg.cholesky(covariance)
        del covariance
        self.log_norm = -0.5 * self.dim * LOG_2PI
        if whitened:
            self.matrix = factor.float()  # L
        else:
            self.matrix = torch.cholesky_inverse(factor).float()  # K^-1
            self.log_norm -= factor.diagonal().log().sum().item()

    def field(self, x: Tensor) -> Tensor:
        """Log intensity of each cell, row by row: (B, d) -> (B, m^2)."""
        return self.mean + F.linear(x, self.matrix) if self.whitened else x

    def _closed_form(self, x):
        field = self.field(x)
        intensity = field.exp() / self.dim
        away = x if self.whitened else x - self.mean
        back = -away if self.whitened else -away @ self.matrix  # score of the prior
        log_likelihood = (field * self.counts - intensity).sum(-1)
        log_r = self.log_norm + 0.5 * (away * back).sum(-1) + log_likelihood

        def score():
            slope = self.counts - intensity
            return back + (slope @ self.matrix if self.whitened else slope)

        return log_r, score


class LogisticRegression(ClosedForm):
    """Posterior of logistic regression: R(w) = N(w; 0, v I) prod_i 1 / (1 + exp(-y_i w.x_i)).

    Features are standardised here and led by a constant 1, so d = features + 1 and w_1 is the
    intercept; labels y are taken as -1 and 1. log Z, the evidence of the model, is not known.

    Args:
        features: (N, f), none of them constant.
        labels: (N,), of 0 and 1.
        variance: v of the prior, positive.
        name: the target's name.

    Raises:
        ValueError: if the shapes do not fit, a feature is constant or not finite, a label is other
            than 0 or 1, or `variance` is not positive and finite.
    """

    def __init__(
        self, features: Tensor, labels: Tensor, variance: float = 1.0, name: str = "custom"
    ):
        x = torch.as_tensor(features, dtype=torch.float64)
        labels = torch.as_tensor(labels)
        if x.ndim != 2 or labels.shape != x.shape[:1]:
            raise ValueError(
                "features and labels must be (N, f) and (N,), got "
                f"{tuple(x.shape)} and {tuple(labels.shape)}"
            )
        if not ((labels == 0) | (labels == 1)).all():
            raise ValueError(f"labels must be 0 or 1, got {labels.unique().tolist()}")
        if not 0 < variance < math.inf:
            raise ValueError(f"variance={variance} must be positive and finite")
        if not x.isfinite().all():
            raise ValueError(f"features must be finite, got {int((~x.isfinite()).sum())} not so")
        spread = x.std(0, correction=0)
        if not (spread > 0).all():
            raise ValueError(f"features must vary, got a constant one: {spread.argmin().item()}")
        x = torch.cat((torch.ones_like(x[:, :1]), (x - x.mean(0)) / spread), 1)
        self.signed = ((2.0 * labels - 1)[:, None] * x).float()  # y_i x_i, all that R depends on
        self.dim, self.variance, self.name = x.shape[1], float(variance), name
        self.log_norm = -0.5 * self.dim * (LOG_2PI + math.log(variance))

    def _closed_form(self, w):
        margin = F.linear(w, self.signed)  # (B, N)
        log_prior = self.log_norm - 0.5 * w.square().sum(-1) / self.variance
        log_r = log_prior + F.logsigmoid(margin).sum(-1)
        return log_r, lambda: torch.sigmoid(-margin) @ self.signed - w / self.variance


def finnish_pines() -> Tensor:
    """126 pine saplings (data/finpines.csv), their window scaled to the unit square: (126, 2)."""
    path = Path(__file__).parent / "data" / "finpines.csv"
    metres = torch.from_numpy(np.loadtxt(path, delimiter=",", skiprows=5))
    return (metres - torch.tensor([-5.0, -8.0])) / 10


def breast_cancer() -> LogisticRegression:
    """Logistic regression on the Wisconsin breast cancer data, 569 tumours, d = 31.

    Wolberg, Mangasarian, Street & Street (1995), UCI Machine Learning Repository, in the copy that
    comes with scikit-learn; prior N(0, I).

    Raises:
        ImportError: without scikit-learn (`pip install 'gfnlite[data]'`).
    """
    features, labels = need("sklearn.datasets", "data").load_breast_cancer(return_X_y=True)
    return LogisticRegression(features, labels, name="logistic")
