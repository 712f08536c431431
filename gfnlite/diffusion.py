"""Classical diffusion: how data turn into noise step by step, and how predicting it leads back.

Noise is counted by k = 0 (data) to K (noise), and t = 1 - k / K. A *predictor* is any function
(x (B, d), k) -> (B, d) that estimates the noise in x_k: a trained network, an exact formula, or one
that is guided. Samplers know nothing else of it.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from .config import integer
from .mixtures import GMM
from .process import VariancePreserving

__all__ = ["Noising", "Predictor", "ancestral", "ddim", "exact_predictor", "heun", "step_mean"]

Predictor = Callable[[Tensor, int], Tensor]


class Noising:
    """K steps from data to N(0, sigma^2 I): q(x_k | x_{k-1}) = N(sqrt(a_k) x_{k-1}, sigma^2 b_k I).

    b_k = 1 - a_k, and alpha_bar_k is the product of the first k factors a: the share of the
    variance of x_k that is data (Ho et al., Denoising diffusion probabilistic models,
    arXiv:2006.11239).

    Args:
        steps: K.
        schedule: "linear" or "cosine", as of `VariancePreserving`; or alpha_bar_1 to alpha_bar_K.
        sigma2: variance of the noise at the end; about that of the data.

    Attributes:
        alpha_bar: (K + 1,), where alpha_bar_0 = 1.
        alpha: a (K + 1,), where a_0 = 1 has no meaning.
        beta, left: 1 - alpha and 1 - alpha_bar (K + 1,), with all their digits.
        signal, noise: x_k is signal_k x_0 plus noise_k times a standard normal, (K + 1,) each.

    Raises:
        ValueError: for an unknown schedule, one that does not fall within (0, 1), or numbers that
            are not positive.
    """

    def __init__(self, steps: int = 100, schedule: str | Tensor = "cosine", sigma2: float = 1.0):
        self.steps, self.schedule, self.sigma2 = integer("steps", steps, 1), schedule, float(sigma2)
        if not 0 < self.sigma2 < torch.inf:
            raise ValueError(f"sigma2={sigma2} must be positive and finite")
        if isinstance(schedule, str):
            t = 1 - torch.arange(1, steps + 1, dtype=torch.float64) / steps
            alpha_bar = VariancePreserving(self.sigma2, schedule).log_alpha_bar(t).exp()
        else:
            try:
                alpha_bar = torch.as_tensor(schedule, dtype=torch.float64)
            except (TypeError, ValueError, RuntimeError):
                alpha_bar = torch.empty(0)
            inside = alpha_bar.shape == (steps,) and ((alpha_bar > 0) & (alpha_bar < 1)).all()
            if not (inside and (alpha_bar.diff() < 0).all()):
                raise ValueError(
                    f"schedule must be {steps} values of alpha_bar that fall and lie within (0, 1)"
                )
        alpha_bar = torch.cat((torch.ones(1, dtype=torch.float64), alpha_bar))
        alpha = alpha_bar.clone()
        alpha[1:] /= alpha_bar[:-1]
        self.alpha_bar, self.alpha = alpha_bar.float(), alpha.float()
        self.beta, self.left = (1 - alpha).float(), (1 - alpha_bar).float()
        self.signal, self.noise = self.alpha_bar.sqrt(), (self.sigma2 * self.left).sqrt()

    def marginal(self, x0: Tensor, k: int | Tensor) -> tuple[Tensor, Tensor]:
        """Mean (B, d) and standard deviation of q(x_k | x_0), at one k or one for each row."""
        return self._at(self.signal, x0, k) * x0, self._at(self.noise, x0, k)

    def noised(self, x0: Tensor, k: int | Tensor, eps: Tensor) -> Tensor:
        """x_k of x_0 (B, d) by the standard normal eps (B, d)."""
        mean, std = self.marginal(x0, k)
        return mean + std * eps

    def step(self, x: Tensor, k: int | Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of q(x_k | x_{k-1}) at x_{k-1} (B, d)."""
        std = (self.sigma2 * self._at(self.beta, x, k)).sqrt()
        return self._at(self.alpha, x, k).sqrt() * x, std

    def posterior(self, x: Tensor, x0: Tensor, k: int | Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of q(x_{k-1} | x_k, x_0), by Bayes' rule."""
        before = k - 1
        beta, left = self._at(self.beta, x, k), self._at(self.left, x, k)
        left_before = self._at(self.left, x, before)
        mean = self._at(self.signal, x, before) * beta * x0
        mean = (mean + self._at(self.alpha, x, k).sqrt() * left_before * x) / left
        return mean, (self.sigma2 * beta * left_before / left).sqrt()

    def x0(self, x: Tensor, eps: Tensor, k: int | Tensor) -> Tensor:
        """The data x_0 that, by this noise, became x_k (B, d)."""
        return (x - self._at(self.noise, x, k) * eps) / self._at(self.signal, x, k)

    def eps(self, x: Tensor, x0: Tensor, k: int | Tensor) -> Tensor:
        """The noise that made x_k (B, d) of x_0: the inverse of `x0`, for k > 0."""
        return (x - self._at(self.signal, x, k) * x0) / self._at(self.noise, x, k)

    def score(self, eps: Tensor, k: int | Tensor) -> Tensor:
        """Gradient of log q(x_k) (B, d) where the mean of the noise in x_k is eps, for k > 0."""
        return -eps / self._at(self.noise, eps, k)

    def start(self, n: int, dim: int, generator: torch.Generator | None = None) -> Tensor:
        """Pure noise x_K (n, d)."""
        return self.sigma2**0.5 * torch.randn(n, dim, generator=generator)

    def _at(self, values: Tensor, x: Tensor, k: int | Tensor) -> Tensor:
        least, most = (int(k.min()), int(k.max())) if isinstance(k, Tensor) else (k, k)
        if not 0 <= least <= most <= self.steps:
            raise ValueError(f"k from {least} to {most} must be within 0 and steps={self.steps}")
        values = values.to(x.dtype)
        return values[k, None].to(x.device) if isinstance(k, Tensor) else values[k]


def exact_predictor(data: GMM, noising: Noising) -> Predictor:
    """The best prediction of the noise, E[eps | x_k], where the data are a mixture of Gaussians."""

    def predict(x: Tensor, k: int) -> Tensor:
        signal, left = noising.alpha_bar[k].item(), noising.left[k].item()
        variance = signal * data.variance + noising.sigma2 * left
        noised = GMM(signal**0.5 * data.means, variance, weights=data.weights)
        return -((noising.sigma2 * left) ** 0.5) * noised.score(x)

    return predict


def step_mean(predict: Predictor, noising: Noising, x: Tensor, k: int) -> Tensor:
    """Mean of x_{k-1} in ancestral generation, given x_k (B, d)."""
    share = noising.beta[k] * (noising.sigma2 / noising.left[k]).sqrt()
    return (x - share * predict(x, k)) / noising.alpha[k].sqrt()


@torch.no_grad()
def ancestral(
    predict: Predictor, noising: Noising, x: Tensor, generator: torch.Generator | None = None
) -> Tensor:
    """Generation as noising undone, from x_K (B, d) to x_0 (arXiv:2006.11239, algorithm 2).

    x_{k-1} is drawn from N((x_k - b_k s_k eps) / sqrt(a_k), sigma^2 b_k I) with s_k the noise's
    scale over 1 - alpha_bar_k; the last mean is the sample: a step of P_F, but for the last noise.
    """
    for k in range(noising.steps, 0, -1):
        x = step_mean(predict, noising, x, k)
        if k > 1:
            std = (noising.sigma2 * noising.beta[k]).sqrt().item()
            x = x + std * torch.randn(x.shape, generator=generator, device=x.device)
    return x


@torch.no_grad()
def ddim(
    predict: Predictor,
    noising: Noising,
    x: Tensor,
    steps: int | None = None,
    eta: float = 0.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Generation through the predicted data, from x_K (B, d) to x_0 (arXiv:2010.02502, eq. 12).

    With eta = 0 nothing is random: Euler's method for the flow whose marginals are those of the
    noising. With eta = 1 and all steps it draws from q(x_{k-1} | x_k, x_0) at the predicted x_0.

    Raises:
        ValueError: if `steps` is not from 1 to K, or `eta` not from 0 to 1.
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta={eta} must be from 0 to 1")
    for k, after in _pairs(noising, steps):
        eps = predict(x, k)
        x0 = noising.x0(x, eps, k)
        left, left_after = noising.left[k], noising.left[after]
        share = noising.alpha_bar[k] / noising.alpha_bar[after]
        fresh = eta**2 * noising.sigma2 * (1 - share) * left_after / left
        kept = (noising.sigma2 * left_after - fresh).clamp(min=0).sqrt()
        x = noising.signal[after] * x0 + kept * eps
        if eta and after:
            x = x + fresh.sqrt() * torch.randn(x.shape, generator=generator, device=x.device)
    return x


@torch.no_grad()
def heun(predict: Predictor, noising: Noising, x: Tensor, steps: int | None = None) -> Tensor:
    """The probability flow from x_K (B, d) to x_0 (arXiv:2011.13456), by Heun's method.

    In y = x / sqrt(alpha_bar) and the noise-to-signal ratio s = sigma sqrt(1 / alpha_bar - 1) the
    flow is dy / ds = eps, so that DDIM is Euler's method; this is of second order but for the last
    step, where there is no noise left to predict (Karras et al., arXiv:2206.00364, algorithm 1).

    Raises:
        ValueError: if `steps` is not from 1 to K.
    """
    for k, after in _pairs(noising, steps):
        length = _ratio(noising, after) - _ratio(noising, k)
        y, eps = x / noising.signal[k], predict(x, k)
        x = noising.signal[after] * (y + length * eps)
        if after:
            mean = 0.5 * (eps + predict(x, after))
            x = noising.signal[after] * (y + length * mean)
    return x


def _ratio(noising: Noising, k: int) -> Tensor:
    return noising.noise[k] / noising.signal[k]


def _pairs(noising: Noising, steps: int | None) -> list[tuple[int, int]]:
    """Levels of noise from K down to 0, evenly spread, each with the next."""
    steps = noising.steps if steps is None else integer("steps", steps, 1, noising.steps)
    levels = torch.linspace(noising.steps, 0, steps + 1).round().int().tolist()
    return list(zip(levels, levels[1:], strict=False))
