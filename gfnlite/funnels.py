"""The funnel: one mode, whose width varies by orders of magnitude."""

import math

import torch
from torch import Tensor

from .arguments import shown
from .checks import is_count
from .energy import LOG_2PI, ClosedForm

__all__ = ["Funnel", "easy_funnel", "funnel"]


class Funnel(ClosedForm):
    """N(x_1; 0, v) prod_i N(x_i; 0, exp(x_1)), i = 2 ... d, normalised: log Z = 0.

    From Neal, Slice sampling (2003), there with d = 10 and v = 9; v = 1 is the easy one.

    Args:
        dim: dimension d, at least 2.
        variance: v, positive.
        name: the target's name.

    Raises:
        ValueError: if `dim` is not an integer of at least 2, or `variance` not positive and finite.
    """

    log_z = 0.0

    def __init__(self, dim: int = 10, variance: float = 9.0, name: str = "custom"):
        if not is_count(dim) or dim < 2:
            raise ValueError(f"dim={shown(dim)} of Funnel must be an integer of at least 2")
        if not 0 < variance < math.inf:
            raise ValueError(f"variance={variance} must be positive and finite")
        self.dim, self.name = int(dim), name
        self.variance = torch.tensor(float(variance))
        self.log_norm = -0.5 * (dim * LOG_2PI + math.log(variance))

    def _closed_form(self, x):
        first, rest = x[:, :1], x[:, 1:]
        pull = first / self.variance, rest * (-first).exp()  # minus the score of each Gaussian
        square = (rest * pull[1]).sum(-1, keepdim=True)
        log_r = self.log_norm - 0.5 * (first * pull[0] + square + (self.dim - 1) * first)[:, 0]
        widen = 0.5 * (square - (self.dim - 1))  # d log N(rest; 0, exp(x_1)) / d x_1
        return log_r, lambda: torch.cat((widen - pull[0], -pull[1]), -1)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Exact samples (n, d)."""
        x = torch.randn(n, self.dim, generator=generator, device=self.variance.device)
        x[:, 0] *= self.variance.sqrt()
        x[:, 1:] *= (0.5 * x[:, :1]).exp()
        return x


# As in arXiv:2402.05098, whose "Funnel" is the hard one.
funnel = Funnel(10, 9.0, "funnel")
easy_funnel = Funnel(10, 1.0, "easy_funnel")
