"""L_simple: the loss of a diffusion model, as a loss of a sampler's drift.

With the drift u of P_F in the variance-preserving process, a step of generation has the mean
sqrt(a_k) x + b_k u(x, t). That is the ancestral step of a diffusion model that predicts the noise

    eps = sqrt(1 - alpha_bar_k) (x - sqrt(a_k) u(x, t)) / sigma,    t = 1 - k / K.

So what one has learned from data the other can go on with from an energy.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .config import integer
from .diffusion import Noising
from .policy import Policy
from .process import normal

if TYPE_CHECKING:
    from .sampler import GFNDiffusion

__all__ = ["DataLoss", "noise_of", "one_hot"]

LEVELS = 16  # of noise in a batch; each of its data is seen at all of them


class DataLoss:
    """L_simple of a sampler's drift, from data: `E |eps - eps_theta(x_k, k)|^2 / d`, or of x_0.

    The weight that the noise at each k has is what makes it simple (arXiv:2006.11239, eq. 14):
    the log-likelihood of destroyed trajectories is the same sum with other weights.

    Args:
        data: (N, d).
        noising: the steps; those of the sampler's own grid and variance.
        labels: (N,) integers from 0, or None.
        classes: how many there are; 0 for none.
        batch_size: data in a batch, each at `LEVELS` levels of noise.
        dropout: share of the data whose label is withheld, which teaches the same network to do
            without (arXiv:2207.12598).
        predict: "noise" or "x0", whose squared error is the loss.
        gfn: lambda_GFN, the weight of a GFlowNet's objective beside this loss: see
            `GFNDiffusion.fit`.

    Raises:
        ValueError: for data or labels of a wrong shape, NaN, or a setting that is not allowed.
    """

    def __init__(
        self, data: Tensor, noising: Noising, labels: Tensor | None = None, classes: int = 0,
        batch_size: int = 64, dropout: float = 0.1, predict: str = "noise", gfn: float = 1.0,
    ):  # fmt: skip
        self.data = torch.as_tensor(data, dtype=torch.float32)
        if self.data.ndim != 2 or not self.data.numel():
            raise ValueError(f"data must have shape (N, d), got {tuple(self.data.shape)}")
        if bad := int((~self.data.isfinite()).any(1).sum()):
            raise ValueError(f"data are not finite in {bad} of {len(self.data)} rows")
        if not 0 <= dropout <= 1:
            raise ValueError(f"dropout={dropout} must be from 0 to 1")
        if predict not in ("noise", "x0"):
            raise ValueError(f"predict={predict!r} is unknown; allowed: noise, x0")
        if not 0 <= gfn < torch.inf:
            raise ValueError(f"gfn={gfn} must be finite and at least 0")
        self.batch_size = integer("batch_size", batch_size, 1)
        self.noising, self.dropout, self.predict, self.gfn = noising, dropout, predict, gfn
        self.codes, classes = None, integer("classes", classes, 0)
        if (labels is None) != (classes == 0):
            raise ValueError(f"labels and classes={classes!r} must be given together")
        if classes:
            labels = torch.as_tensor(labels)
            if labels.shape != self.data.shape[:1]:
                raise ValueError(f"labels must be {len(self.data)}, got {tuple(labels.shape)}")
            self.codes = one_hot(labels, classes)

    def check(self, sampler: "GFNDiffusion") -> None:
        """Refuse to be the loss of a sampler whose steps are other ones.

        Raises:
            ValueError: for another dimension, process, grid, schedule or variance.
        """
        noising, config = self.noising, sampler.config
        mine = (
            "vp",
            "uniform",
            noising.schedule,
            noising.sigma2,
            noising.steps,
            False,
            *self.data.shape[1:],
        )
        its = (
            config.process, config.grid, config.schedule, config.sigma2, config.steps,
            config.standardise, sampler.target.dim,
        )  # fmt: skip
        names = ("process", "grid", "schedule", "sigma2", "steps", "standardise", "dim")
        for name, one, other in zip(names, mine, its, strict=True):
            if not (type(one) is type(other) and one == other):
                raise ValueError(f"data are for a sampler with {name}={one}, this has {other}")

    def __call__(
        self, policy: Policy, generators: Sequence[torch.Generator],
        levels: Sequence[torch.Generator] | None = None,
    ) -> Tensor:  # fmt: skip
        """The loss of each of the policy's S runs, from a batch of each: (S,).

        The runs see the same levels of noise, by `levels`, which must then be in the same state.
        """
        noising, steps, place = self.noising, self.noising.steps, generators[0].device
        count = min(LEVELS, steps)  # one in each of so many equal ranges
        streams = levels or generators
        offset = [torch.rand(count, generator=g, device=g.device).cpu() for g in streams][0]
        k = ((torch.arange(count) + offset) * (steps / count)).long() + 1
        k = k.clamp(max=steps)  # 15.99999999 is 16 in float32
        size = (self.batch_size,)
        chosen = torch.cat([
            torch.randint(len(self.data), size, generator=g, device=place) for g in generators
        ])  # fmt: skip
        x0, code = self.data.to(place)[chosen], None
        if self.codes is not None:
            kept = torch.cat([torch.rand(size, generator=g, device=place) for g in generators])
            code = self.codes.to(place)[chosen] * (kept >= self.dropout)[:, None]
        eps = normal((count, *x0.shape), place, list(generators))
        signal, noise = (part[k, None, None].to(place) for part in (noising.signal, noising.noise))
        error = noise_of(policy, noising, signal * x0 + noise * eps, k, code) - eps
        if self.predict == "x0":  # an error in eps is one in x_0, times the noise-to-signal ratio
            error = error * noise / signal
        return error.square().unflatten(1, (policy.runs, -1)).mean((0, 2, 3))


def one_hot(labels: Tensor, classes: int) -> Tensor:
    """Labels (N,) as conditions (N, classes); all zero means no label.

    Raises:
        ValueError: if a label is no integer from 0 to `classes` - 1.
    """
    whole = not (labels.is_floating_point() or labels.dtype == torch.bool)
    if not whole:
        raise ValueError(
            f"labels must be integers from 0 to {classes - 1}, got them as {labels.dtype}"
        )
    if len(labels) and not (0 <= labels.min() and labels.max() < classes):
        raise ValueError(
            f"labels must be integers from 0 to {classes - 1}, got from {labels.min()} to "
            f"{labels.max()}"
        )
    return torch.nn.functional.one_hot(labels.long(), classes).float()


def noise_of(
    policy: Policy, noising: Noising, x: Tensor, k: Tensor, condition: Tensor | None = None
) -> Tensor:
    """The noise that a policy's drift stands for, at states x (n, S B, d) of the levels k (n,)."""
    t = (1 - k / noising.steps).to(x)
    length = noising.beta[k].to(x)
    u = policy.forward_kernel(x, policy.context(policy.forward_net, t, length, condition))[0]
    scale = (noising.left[k] / noising.sigma2).sqrt().to(x)[:, None, None]
    return scale * (x - noising.alpha[k].sqrt().to(x)[:, None, None] * u)
