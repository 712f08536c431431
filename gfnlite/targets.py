"""Targets: densities known up to their normaliser, and what is known exactly about them.

A target *is* log R(x) = -E(x). Where the truth is known it also has `log_z`, `sample`, and the
exact mass of its modes, so that every metric that needs a truth can ask for it and every metric
that cannot have one says None.
"""

import copy
import math
from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch import Tensor

__all__ = ["GMM", "Gaussian", "ManyWell", "Target", "as_target", "gmm9", "gmm25", "named_target"]

LOG_2PI = math.log(2 * math.pi)


class Target:
    """An unnormalised density R(x) = exp(-E(x)) on R^d.

    Attributes:
        name: short name, the key of its presets.
        dim: dimension d.
        log_z: log of the normaliser, or None where it is not known.
        sample: exact sampler `(n, generator=None) -> (n, d)`, or None.
        mode_mass: exact mass of each mode (K,), or None.
    """

    name: str = "custom"
    dim: int
    log_z: float | None = None
    sample: Callable[..., Tensor] | None = None
    mode_mass: Tensor | None = None

    def log_reward(self, x: Tensor) -> Tensor:
        """log R(x): (B, d) -> (B,)."""
        raise TypeError(f"{type(self).__name__} must define log_reward(x)")

    def energy(self, x: Tensor) -> Tensor:
        """E(x) = -log R(x): (B, d) -> (B,)."""
        return -self.log_reward(x)

    def score(self, x: Tensor) -> Tensor:
        """Gradient of log R: (B, d) -> (B, d), by automatic differentiation.

        Raises:
            ValueError: if log R does not depend on x differentiably.
        """
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            log_r = self.log_reward(x)
            if not log_r.requires_grad:
                raise ValueError(
                    f"energy of target '{self.name}' has no gradient with respect to x: "
                    "compute it with differentiable torch operations on x"
                )
            return torch.autograd.grad(log_r.sum(), x)[0]

    def modes_of(self, x: Tensor) -> Tensor:
        """Which mode each point belongs to: (B, d) -> membership (B, K) of zeros and ones."""
        raise TypeError(f"target '{self.name}' does not know its modes")

    def to(self, device: torch.device | str) -> "Target":
        """A copy of this target with its tensors on `device`."""
        other = copy.copy(self)
        for key, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(other, key, value.to(device))
        return other

    def __repr__(self):
        return f"{type(self).__name__}(name={self.name!r}, dim={self.dim}, log_z={self.log_z})"


class Gaussian(Target):
    """R(x) = Z N(x; m, diag(s^2)): the target whose optimal kernels are known in closed form.

    Args:
        mean: m, a sequence of length d.
        std: s, a number or a sequence of length d; positive.
        log_z: log of the mass Z that the density integrates to.
    """

    name = "gaussian"

    def __init__(self, mean: Sequence[float], std: float | Sequence[float] = 1.0, log_z=0.0):
        self.mean = torch.as_tensor(mean, dtype=torch.float32)
        if self.mean.ndim != 1:
            raise ValueError(f"mean must be one vector of length d, got shape {_shape(self.mean)}")
        self.std = torch.as_tensor(std, dtype=torch.float32).expand_as(self.mean)
        if not (self.std > 0).all():
            raise ValueError(f"std={std} must be positive")
        self.dim, self.log_z = len(self.mean), float(log_z)
        self.log_norm = self.log_z - self.std.log().sum().item() - 0.5 * self.dim * LOG_2PI

    def log_reward(self, x: Tensor) -> Tensor:
        """log R(x): (B, d) -> (B,)."""
        return self.log_norm - 0.5 * ((x - self.mean) / self.std).square().sum(-1)

    def score(self, x: Tensor) -> Tensor:
        """(m - x) / s^2: (B, d) -> (B, d)."""
        return (self.mean - x) / self.std.square()

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Exact samples (n, d)."""
        return self.mean + self.std * _normal((n, self.dim), self.mean, generator)


class GMM(Target):
    """Mixture of K Gaussians with equal weights and covariance s^2 I, normalised: log Z = 0.

    With a(x) = means x / s^2 - |means|^2 / 2 s^2 one matrix product serves all modes.

    Args:
        means: (K, d).
        variance: s^2, positive.
        name: the target's name.
    """

    log_z = 0.0

    def __init__(self, means: Tensor | Sequence, variance: float, name: str = "gmm"):
        self.means = torch.as_tensor(means, dtype=torch.float32)
        if self.means.ndim != 2:
            raise ValueError(f"means must have shape (K, d), got {_shape(self.means)}")
        if not variance > 0:
            raise ValueError(f"variance={variance} must be positive")
        self.variance, self.name = float(variance), name
        k, self.dim = self.means.shape
        self.mode_mass = torch.full((k,), 1 / k)
        self.log_norm = -math.log(k) - 0.5 * self.dim * (LOG_2PI + math.log(self.variance))
        self._slope = self.means.t() / self.variance  # (d, K)
        self._offset = -0.5 * self.means.square().sum(1) / self.variance  # (K,)

    def _logits(self, x: Tensor) -> Tensor:
        return x @ self._slope + self._offset  # (B, K)

    def log_reward(self, x: Tensor) -> Tensor:
        """log R(x): (B, d) -> (B,)."""
        quadratic = x.square().sum(-1) * (0.5 / self.variance)
        return self._logits(x).logsumexp(-1) - quadratic + self.log_norm

    def score(self, x: Tensor) -> Tensor:
        """(E[mean | x] - x) / s^2: (B, d) -> (B, d)."""
        return (self._logits(x).softmax(-1) @ self.means - x) / self.variance

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Exact samples (n, d), independent and in no order."""
        k = torch.randint(len(self.means), (n,), generator=generator, device=self.means.device)
        noise = _normal((n, self.dim), self.means, generator)
        return self.means[k] + math.sqrt(self.variance) * noise

    def modes_of(self, x: Tensor) -> Tensor:
        """Nearest mean, one-hot: (B, d) -> (B, K)."""
        return torch.nn.functional.one_hot(self._logits(x).argmax(-1), len(self.means)).float()


def _grid_means(points: Sequence[float]) -> list[tuple[float, float]]:
    return [(a, b) for a in points for b in points]


# Immutable, so one instance of each serves everybody (means and variance: arXiv:2402.05098).
gmm9 = GMM(_grid_means([-5, 0, 5]), 0.3, "9gmm")
gmm25 = GMM(_grid_means([-10, -5, 0, 5, 10]), 0.3, "25gmm")


class ManyWell(Target):
    """d/2 independent double wells: log R = sum_i -a_i^4 + 6 a_i^2 + a_i / 2 - b_i^2 / 2.

    (a_i, b_i) are coordinates (2i, 2i + 1). Each a_i has a major well on the right, with 84.4% of
    the mass, and a minor one on the left: 2^(d/2) modes in all, counted well by well (Noé et al.
    2019; Midgley et al., arXiv:2208.01893).

    Args:
        dim: d, even and positive.
    """

    def __init__(self, dim: int = 32):
        if not (isinstance(dim, int) and dim > 0 and dim % 2 == 0):
            raise ValueError(f"dim={dim!r} of ManyWell must be a positive even integer")
        self.dim, self.name = dim, f"manywell{dim}"
        grid, cdf, log_z1 = _double_well()
        self._grid, self._cdf = grid, cdf
        self.log_z = dim / 2 * (log_z1 + 0.5 * LOG_2PI)
        left = cdf[torch.searchsorted(grid, 0.0)].item()
        self.mode_mass = torch.tensor([left, 1 - left]).repeat(dim // 2)  # (left, right) a well

    def log_reward(self, x: Tensor) -> Tensor:
        """log R(x): (B, d) -> (B,)."""
        a, b = x[..., 0::2], x[..., 1::2]
        a2 = a.square()
        return (a2 * (6 - a2) + 0.5 * a - 0.5 * b.square()).sum(-1)

    def score(self, x: Tensor) -> Tensor:
        """Gradient of log R: (B, d) -> (B, d)."""
        score, a = -x, x[..., 0::2]
        score[..., 0::2] = a * (12 - 4 * a.square()) + 0.5
        return score

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Samples (n, d): wells by inverting the distribution function on a grid of step 1e-4."""
        x = _normal((n, self.dim), self.mode_mass, generator)
        u = torch.rand(
            (n, self.dim // 2), generator=generator, device=x.device, dtype=torch.float64
        )
        i = torch.searchsorted(self._cdf, u).clamp_(1, len(self._cdf) - 1)
        low, high = self._cdf[i - 1], self._cdf[i]
        step = self._grid[1] - self._grid[0]
        x[:, 0::2] = (self._grid[i - 1] + (u - low) / (high - low) * step).float()
        return x

    def modes_of(self, x: Tensor) -> Tensor:
        """Left or right in each double well: (B, d) -> (B, d), two entries a well."""
        right = x[..., 0::2] > 0
        return torch.stack((~right, right), -1).flatten(-2).float()


@cache
def _double_well() -> tuple[Tensor, Tensor, float]:
    """Grid, distribution function and log normaliser of exp(-a^4 + 6 a^2 + a / 2), in float64."""
    # The integrand is entire and below 1e-60 at both ends, so the trapezoid rule is exact to
    # rounding; dropping its half end weights loses nothing.
    grid = torch.linspace(-4, 4, 80_001, dtype=torch.float64)
    mass = torch.exp(-(grid**4) + 6 * grid**2 + 0.5 * grid)
    cdf = mass.cumsum(0) - 0.5 * mass
    total = mass.sum()
    return grid, cdf / total, math.log(total.item() * 1e-4)


class _EnergyTarget(Target):
    """A user's energy function as a target, with its output checked at every call."""

    def __init__(self, energy_fn: Callable[[Tensor], Tensor], dim: int):
        self.energy_fn, self.dim = energy_fn, dim
        self.name = getattr(energy_fn, "__name__", "custom")

    def log_reward(self, x: Tensor) -> Tensor:
        """-E(x): (B, d) -> (B,)."""
        energy = self.energy_fn(x)
        if not isinstance(energy, Tensor) or energy.shape != x.shape[:-1]:
            got = f"shape {_shape(energy)}" if isinstance(energy, Tensor) else type(energy).__name__
            raise ValueError(
                f"energy_fn '{self.name}' must return a tensor of shape (B,) = "
                f"{_shape(x[..., 0])} for x of shape {_shape(x)}, got {got}"
            )
        return -energy


def as_target(energy_fn: Target | Callable[[Tensor], Tensor], dim: int | None = None) -> Target:
    """A target as it is, or any callable E(x): (B, d) -> (B,) as a target of dimension `dim`.

    Raises:
        ValueError: if `dim` is missing, not a positive integer, or not the target's own.
        TypeError: if `energy_fn` is neither a target nor a callable.
    """
    if isinstance(energy_fn, Target):
        if dim is not None and dim != energy_fn.dim:
            raise ValueError(f"dim={dim} but target '{energy_fn.name}' has dim={energy_fn.dim}")
        return energy_fn
    if not callable(energy_fn) or isinstance(energy_fn, type):
        raise TypeError(
            f"energy_fn={energy_fn!r} must be a Target or a callable E(x): (B, d) -> (B,)"
        )
    if isinstance(dim, bool) or not isinstance(dim, int) or dim < 1:
        raise ValueError(f"dim={dim!r}: a callable energy needs dim, a positive integer")
    return _EnergyTarget(energy_fn, dim)


def named_target(name: str) -> Target:
    """The target of a task: '9gmm', '25gmm', or 'manywell<d>' such as 'manywell32'.

    Raises:
        ValueError: if no task has that name.
    """
    grids = {"9gmm": gmm9, "25gmm": gmm25}
    if name in grids:
        return grids[name]
    if isinstance(name, str) and name.startswith("manywell") and name[8:].isdigit():
        return ManyWell(int(name[8:]))
    raise ValueError(f"task={name!r} is unknown; known: 9gmm, 25gmm, manywell<d> (manywell32)")


def _normal(shape, like: Tensor, generator) -> Tensor:
    return torch.randn(shape, generator=generator, device=like.device)


def _shape(x: Tensor) -> str:
    return str(tuple(x.shape))
