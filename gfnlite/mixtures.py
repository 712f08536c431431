"""Mixtures of Gaussians, moons and rings: normalised, with exact samples and known modes."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .arguments import floats, positive, shown
from .checks import check_states, is_count
from .energy import LOG_2PI, ClosedForm

__all__ = [
    "GMM",
    "Gaussian",
    "Rings",
    "TwoMoons",
    "gmm9",
    "gmm25",
    "gmm40",
    "gmm40_in",
    "rings",
    "two_moons",
]


class Gaussian(ClosedForm):
    """R(x) = Z N(x; m, diag(s^2)): the target whose optimal kernels are known in closed form.

    Args:
        mean: m, a sequence of length d.
        std: s, a number or a sequence of length d; positive.
        log_z: log of the mass Z that the density integrates to.

    Raises:
        ValueError: if `mean` is no vector, or `std` neither a number nor a vector of that length,
            or if one of them is not finite or `std` not positive.
    """

    name = "gaussian"

    def __init__(self, mean: Sequence[float], std: float | Sequence[float] = 1.0, log_z=0.0):
        self.mean = _finite("mean", mean, "(d,)")
        self.dim, self.log_z = len(self.mean), float(log_z)
        self.std = _positive("std", std, self.dim)
        self.log_norm = self.log_z - self.std.log().sum().item() - 0.5 * self.dim * LOG_2PI

    def _closed_form(self, x):
        z = (x - self.mean) / self.std
        return self.log_norm - 0.5 * z.square().sum(-1), lambda: -z / self.std

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Exact samples (n, d)."""
        device = self.mean.device
        return self.mean + self.std * torch.randn(n, self.dim, generator=generator, device=device)


class GMM(ClosedForm):
    """Mixture sum_k w_k N(x; m_k, s_k^2 I) of K Gaussians, normalised: log Z = 0.

    With `|x - m|^2 = |x|^2 - 2 m.x + |m|^2` one matrix product serves all modes, unless they are
    so narrow or so far out that float32 would lose too many digits of the difference. `mode_mass`
    is w, to which the mass nearest each mean is equal only as far as the modes do not overlap.

    Args:
        means: m, (K, d).
        variance: s^2, a number or one for each mode (K,); positive.
        name: the target's name.
        weights: w, (K,), positive, here divided by their sum; None: equal.

    Raises:
        ValueError: if an argument has another shape or is empty, or is not finite, or `variance` or
            `weights` not positive.
    """

    log_z = 0.0

    def __init__(
        self,
        means: Tensor | Sequence,
        variance: float | Tensor | Sequence[float],
        name: str = "gmm",
        weights: Tensor | Sequence[float] | None = None,
    ):
        self.means = _finite("means", means, "(K, d)")
        k, self.dim = self.means.shape
        self.name = name
        self.variance = _positive("variance", variance, k)
        weights = _positive("weights", 1.0 if weights is None else weights, k)
        self.weights = self.mode_mass = weights / weights.sum()
        self._precision = 1 / self.variance[:, None]  # (K, 1)
        self._slope = self.means * self._precision  # (K, d)
        log_norm = self.weights.log() - 0.5 * self.dim * (LOG_2PI + self.variance.log())
        far = 0.5 * (self.means * self._slope).sum(1)  # (K,)
        self._log_norm, self._offset = log_norm, log_norm - far
        self._expands = far.max().item() < 5000  # 24 bits of it then leave an error below 1e-3

    def _closed_form(self, x):
        if self._expands:
            square = x.square().sum(-1, keepdim=True)
            logits = F.linear(x, self._slope, self._offset)
            logits = logits - F.linear(square, 0.5 * self._precision)
            log_r, p = _mix(logits)
            return log_r, lambda: p @ self._slope - x * (p @ self._precision)
        away = self.means - x[:, None]  # (B, K, d)
        precision = self._precision[:, 0]
        log_r, p = _mix(self._log_norm - 0.5 * away.square().sum(-1) * precision)
        return log_r, lambda: ((p * precision)[:, None] @ away)[:, 0]

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Exact samples (n, d), independent and in no order."""
        k = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        noise = torch.randn(n, self.dim, generator=generator, device=self.means.device)
        return self.means[k] + self.variance[k, None].sqrt() * noise

    def modes_of(self, x: Tensor) -> Tensor:
        """Nearest mean, one-hot: (B, d) -> (B, K)."""
        check_states(self, x)
        nearest = torch.cdist(x.to(self.means), self.means).argmin(-1)
        return F.one_hot(nearest, len(self.means)).float()


class TwoMoons(GMM):
    """Two interleaving half circles with Gaussian noise: the density of scikit-learn's make_moons.

    That data set is a mixture of Gaussians with means along both half circles, so its density,
    samples and log Z = 0 are exact. With 32 means a moon and noise 0.1 radius their distance is
    one standard deviation, at which no ripple is left along the moon (relative size 1e-8). Each
    moon is one mode.

    Args:
        radius: of the half circles, centred at (-r/2, -r/4) and (r/2, r/4); positive.
        noise: standard deviation of the noise; positive.
        points: number of means on each moon.
        name: the target's name.

    Raises:
        ValueError: if `radius` or `noise` is not positive and finite, or `points` is no count.
    """

    def __init__(self, radius: float, noise: float, points: int = 32, name: str = "custom"):
        radius, noise = positive("radius", radius), positive("noise", noise)
        if not is_count(points):
            raise ValueError(f"points={shown(points)} must be a positive integer")
        angle = torch.linspace(0, math.pi, points)
        upper = torch.stack((angle.cos() - 0.5, angle.sin() - 0.25), 1)
        super().__init__(radius * torch.cat((upper, -upper)), noise**2, name)
        self.mode_mass = torch.tensor([0.5, 0.5])

    def modes_of(self, x: Tensor) -> Tensor:
        """Upper or lower moon, one-hot: (B, 2) -> (B, 2)."""
        return super().modes_of(x).unflatten(-1, (2, -1)).sum(-1)


class Rings(ClosedForm):
    """Concentric rings in the plane: circles blurred by Gaussian noise, normalised, log Z = 0.

    A point on a circle of radius a plus N(0, s^2 I) has the density
    exp(-(r - a)^2 / 2 s^2) e^{-u} I_0(u) / 2 pi s^2 with `r = |x|` and u = r a / s^2. The mass of a
    ring is proportional to its radius, so that all are equally dense; `mode_mass` is exact as far
    as the rings do not overlap.

    Args:
        radii: a, (K,), positive.
        std: s, positive.
        name: the target's name.

    Raises:
        ValueError: if `radii` are none, or one of them or `std` is not positive and finite.
    """

    dim, log_z = 2, 0.0

    def __init__(self, radii: Sequence[float], std: float, name: str = "custom"):
        self.radii = _finite("radii", radii, "(K,)")
        _positive("radii", self.radii, len(self.radii))
        self.std, self.name = positive("std", std), name
        self.mode_mass = self.radii / self.radii.sum()
        self._log_weight = self.mode_mass.log() - LOG_2PI - 2 * math.log(self.std)

    def _closed_form(self, x):
        precision = self.std**-2
        r = x.square().sum(-1, keepdim=True).clamp(min=1e-12).sqrt()  # sqrt has no slope at 0
        u = r * self.radii * precision  # (B, K)
        i0 = torch.special.i0e(u)
        logits = self._log_weight - 0.5 * precision * (r - self.radii).square() + i0.log()
        log_r, p = _mix(logits)

        def score():
            outward = self.radii * torch.special.i1e(u) / (i0 * r)
            return (p * (outward - 1)).sum(-1, keepdim=True) * precision * x

        return log_r, score

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Exact samples (n, 2), independent and in no order."""
        k = torch.multinomial(self.mode_mass, n, replacement=True, generator=generator)
        noise = torch.randn(n, 4, generator=generator, device=self.radii.device)
        direction = F.normalize(noise[:, :2], dim=-1)
        return self.radii[k, None] * direction + self.std * noise[:, 2:]

    def modes_of(self, x: Tensor) -> Tensor:
        """Nearest ring, one-hot: (B, 2) -> (B, K)."""
        check_states(self, x)
        distance = (x.norm(dim=-1, keepdim=True) - self.radii).abs()
        return F.one_hot(distance.argmin(-1), len(self.radii)).float()


def gmm40_in(dim: int, seed: int = 0) -> GMM:
    """40 Gaussians with means uniform in [-40, 40]^d and standard deviation softplus(1) = 1.3133.

    In two dimensions from Midgley et al., Flow annealed importance sampling bootstrap
    (arXiv:2208.01893), whose means are drawn in the same way; in any dimension from Blessing et
    al., Beyond ELBOs (arXiv:2406.07423).

    Raises:
        ValueError: if `dim` is not a positive integer.
    """
    if not is_count(dim):
        raise ValueError(f"dim={shown(dim)} must be a positive integer")
    dim = int(dim)
    means = (torch.rand(40, dim, generator=torch.Generator().manual_seed(seed)) - 0.5) * 80
    name = "40gmm" if (dim, seed) == (2, 0) else f"40gmm-{dim}d-seed{seed}"
    return GMM(means, math.log1p(math.e) ** 2, name)


def _grid(points: Sequence[float]) -> Tensor:
    return torch.cartesian_prod(*[torch.tensor(points)] * 2)


def _mix(logits: Tensor) -> tuple[Tensor, Tensor]:
    """log sum exp (B,) and softmax (B, K) of logits (B, K)."""
    # log p_k = logit_k - log sum exp for any k. One softmax for both, and exact at the largest,
    # takes half the time of logsumexp and softmax.
    p = logits.softmax(-1)
    largest = logits.argmax(-1, keepdim=True)
    return (logits.gather(-1, largest) - p.gather(-1, largest).log())[:, 0], p


def _finite(name: str, value, axes: str) -> Tensor:
    tensor = floats(name, value, dtype=torch.float32)
    if tensor.ndim != len(axes.strip("(,)").split(",")) or not tensor.numel():
        raise ValueError(f"{name} must have shape {axes}, got {tuple(tensor.shape)}")
    if not tensor.isfinite().all():
        raise ValueError(f"{name} must be finite, got {int((~tensor.isfinite()).sum())} not so")
    return tensor


def _positive(name: str, value, k: int) -> Tensor:
    tensor = floats(name, value, dtype=torch.float32)
    if tensor.shape not in ((), (k,)):
        raise ValueError(f"{name} must be a number or of shape ({k},), got {tuple(tensor.shape)}")
    if not ((tensor > 0) & tensor.isfinite()).all():
        raise ValueError(f"{name}={shown(value)} must be positive and finite")
    return tensor.expand(k)


# Immutable, so one instance of each serves everybody (means and variance: arXiv:2402.05098).
gmm9 = GMM(_grid([-5.0, 0.0, 5.0]), 0.3, "9gmm")
gmm25 = GMM(_grid([-10.0, -5.0, 0.0, 5.0, 10.0]), 0.3, "25gmm")
gmm40 = gmm40_in(2)
two_moons = TwoMoons(3.0, 0.3, name="two_moons")
rings = Rings([2.0, 4.0, 6.0], 0.2, "rings")
