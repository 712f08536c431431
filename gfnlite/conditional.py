"""Conditional targets whose posteriors, samples and normalisers are all known."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .arguments import floats, positive
from .energy import LOG_2PI, ClosedForm
from .mixtures import GMM

__all__ = ["LinearGaussian", "ObservedMixture"]


class LinearGaussian(ClosedForm):
    """Posterior of x ~ N(0, I) given c = A x + N(0, s^2 I): the linear inverse problem.

    log R(x; c) = log N(x; 0, I) + log N(c; A x, s^2 I). So Z(c) = N(c; 0, A A^T + s^2 I), and the
    posterior is N(S A^T c / s^2, S) with S = (I + A^T A / s^2)^-1: its covariance is the same for
    all c, its mean linear (e.g. Bishop, Pattern Recognition and Machine Learning, section 2.3).

    Args:
        matrix: A, (c, d).
        noise: s, positive.

    Raises:
        ValueError: if `matrix` is no finite matrix, or `noise` not positive and finite.
    """

    name = "linear_gaussian"

    def __init__(self, matrix: Tensor | Sequence, noise: float = 0.5):
        self.matrix = floats("matrix", matrix, dtype=torch.float32)
        if self.matrix.ndim != 2 or not self.matrix.numel() or not self.matrix.isfinite().all():
            raise ValueError(
                f"matrix must be finite, of shape (c, d), got {tuple(self.matrix.shape)}"
            )
        self.noise = positive("noise", noise)
        self.condition_dim, self.dim = self.matrix.shape
        a, s2 = self.matrix.double(), self.noise**2
        covariance = torch.linalg.inv(torch.eye(self.dim).double() + a.T @ a / s2)
        self.factor = torch.linalg.cholesky(covariance).float()
        self.gain = (covariance @ a.T / s2).float()
        evidence = a @ a.T + s2 * torch.eye(self.condition_dim).double()
        self.evidence_factor = torch.linalg.cholesky(evidence).float()
        self._log_norm = -0.5 * (self.dim + self.condition_dim) * LOG_2PI
        self._log_norm -= self.condition_dim * torch.tensor(self.noise).log().item()

    def _closed_form(self, x, condition):
        residual = (condition - x @ self.matrix.T) / self.noise
        log_r = self._log_norm - 0.5 * (x.square().sum(-1) + residual.square().sum(-1))
        return log_r, lambda: residual @ self.matrix / self.noise - x

    def log_z(self, condition: Tensor) -> Tensor:
        """log N(c; 0, A A^T + s^2 I): (B, c) -> (B,)."""
        zero = condition.new_zeros(self.condition_dim)
        evidence = torch.distributions.MultivariateNormal(zero, scale_tril=self.evidence_factor)
        return evidence.log_prob(condition)

    def sample(
        self, n: int, generator: torch.Generator | None = None, condition: Tensor | None = None
    ) -> Tensor:
        """One exact posterior sample for each condition (n, c): (n, d)."""
        noise = torch.randn(n, self.dim, generator=generator, device=self.gain.device)
        return self.mean(condition) + noise @ self.factor.T

    def mean(self, condition: Tensor) -> Tensor:
        """Posterior mean: (B, c) -> (B, d)."""
        return condition @ self.gain.T

    def sample_condition(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Observations (n, c) of as many x: what c is distributed as."""
        shape = (n, self.condition_dim)
        noise = torch.randn(shape, generator=generator, device=self.gain.device)
        return noise @ self.evidence_factor.T


class ObservedMixture(ClosedForm):
    """Posterior of x from a mixture of Gaussians, seen with noise: c = x + N(0, s^2 I).

    log R(x; c) = log sum_k w_k N(x; m_k, v I) + log N(c; x, s^2 I). The posterior is again a
    mixture, with weights in proportion to w_k N(c; m_k, (v + s^2) I), means
    (s^2 m_k + v c) / (v + s^2) and variance v s^2 / (v + s^2); Z(c) is the sum of those weights.
    As c moves, modes come and go.

    Args:
        means: m, (K, d).
        variance: v, positive.
        noise: s, positive.
        weights: w (K,), as in `GMM`.

    Raises:
        ValueError: as `GMM`, or if `noise` is not positive and finite.
    """

    name = "observed_mixture"

    def __init__(self, means: Tensor | Sequence, variance: float, noise: float, weights=None):
        self.noise, self.variance = positive("noise", noise), positive("variance", variance)
        self.prior = GMM(means, self.variance, weights=weights)
        self.dim = self.condition_dim = self.prior.dim
        total = self.variance + self.noise**2
        self.evidence = GMM(means, total, weights=weights)
        self._shrink = self.variance / total  # of what is observed towards each mean

    def _closed_form(self, x, condition):
        log_prior, score = self.prior._closed_form(x)
        residual = (condition - x) / self.noise
        log_norm = -self.dim * (0.5 * LOG_2PI + torch.tensor(self.noise).log().item())
        log_r = log_prior + log_norm - 0.5 * residual.square().sum(-1)
        return log_r, lambda: score() + residual / self.noise

    def log_z(self, condition: Tensor) -> Tensor:
        """log sum_k w_k N(c; m_k, (v + s^2) I): (B, c) -> (B,)."""
        return self.evidence.log_reward(condition)

    def weights(self, condition: Tensor) -> Tensor:
        """Of the posterior's K components: (B, c) -> (B, K)."""
        square = torch.cdist(condition, self.prior.means).square()
        total = self.variance + self.noise**2
        return torch.softmax(self.prior.weights.log() - 0.5 * square / total, -1)

    def sample(
        self, n: int, generator: torch.Generator | None = None, condition: Tensor | None = None
    ) -> Tensor:
        """One exact posterior sample for each condition (n, c): (n, d)."""
        k = torch.multinomial(self.weights(condition), 1, generator=generator)[:, 0]
        mean = torch.lerp(self.prior.means[k], condition, self._shrink)
        noise = torch.randn(mean.shape, generator=generator, device=mean.device)
        return mean + self.noise * self._shrink**0.5 * noise

    def sample_condition(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Observations (n, c) of as many x: what c is distributed as."""
        return self.evidence.sample(n, generator)

    def modes_of(self, x: Tensor) -> Tensor:
        """Nearest of the prior's means, one-hot: (B, d) -> (B, K)."""
        return F.one_hot(torch.cdist(x, self.prior.means).argmin(-1), len(self.prior.means)).float()
