"""Objectives: pure functions of a Trajectory, averaged over the batch.

At the optimum every trajectory has the same log-weight, log Z, and so has every part of one when
its ends are given their state flows. All objectives but the two likelihoods measure how far a batch
is from that, and may be used on trajectories of any origin.
"""

from functools import cache

import torch
from torch import Tensor

from .trajectory import Trajectory

__all__ = ["db", "mle", "reverse_kl", "subtb", "tb", "vargrad"]


def tb(trajectory: Trajectory) -> Tensor:
    """Trajectory balance, mean of (log Z_theta - log w)^2 / 2 (Malkin et al., arXiv:2201.13259).

    With conditions log Z_theta is that of each trajectory's own condition.
    """
    return 0.5 * (trajectory.log_z - trajectory.log_weight).square().mean()


def vargrad(trajectory: Trajectory) -> Tensor:
    """Half the variance of log w (Richter et al., arXiv:2010.10436); log Z_theta is not used.

    It is trajectory balance with the mean log-weight in the place of log Z_theta: of the batch,
    or of the `repeats` neighbours that share a condition.
    """
    log_weight = trajectory.log_weight
    size = len(log_weight) if trajectory.condition is None else trajectory.repeats
    groups = log_weight.view(-1, size)
    return 0.5 * (groups - groups.mean(1, keepdim=True)).square().mean()


def _residuals(trajectory: Trajectory) -> Tensor:
    """A_i with A_i - A_j the log-imbalance of the part from i to j (T + 1, B)."""
    tr = trajectory
    spent = (tr.ratio_pf - tr.ratio_pb).cumsum(0)
    return tr.ratio_flow - torch.cat((torch.zeros_like(spent[:1]), spent))


def db(trajectory: Trajectory) -> Tensor:
    """Detailed balance: mean over transitions of the squared log-imbalance / 2.

    Each transition asks for log F(x) + log P_F = log F(x') + log P_B, with log F(x_0) = log Z_theta
    and log F(x_1) = log R(x_1) (Bengio et al., arXiv:2111.09266).
    """
    return 0.5 * _residuals(trajectory).diff(dim=0).square().mean()


def subtb(trajectory: Trajectory, lam: float = 2.0) -> Tensor:
    """Sub-trajectory balance: mean over parts, of weight lambda^length, of the square / 2.

    lambda -> 0 is detailed balance, lambda -> infinity trajectory balance (Madan et al.,
    arXiv:2209.12782). With forward-looking flows: Pan et al., arXiv:2302.01687.
    """
    a = _residuals(trajectory)
    a = a - a.mean(0)  # the Laplacian below does not see a constant; float32 does
    # sum over i < j of w_ij (a_i - a_j)^2 is a quadratic form in a: one small matrix product.
    laplacian = _laplacian(len(a) - 1, float(lam), a.dtype, a.device)
    return 0.5 * (a * (laplacian @ a)).sum(0).mean()


@cache
def _laplacian(steps: int, lam: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Laplacian of the complete graph with weights lambda^(j - i), which sum to 1 over i < j."""
    i = torch.arange(steps + 1, dtype=torch.float64)
    length = (i[:, None] - i).abs()
    # In logarithms, since 2^100 and 0.01^100 are beyond float32 and near the ends of float64.
    log_w = length * torch.tensor(lam, dtype=torch.float64).log()
    log_w.fill_diagonal_(-torch.inf)
    w = (log_w - log_w.max()).exp()
    w /= w.sum() / 2
    return (w.sum(1).diag() - w).to(device, dtype)


def reverse_kl(trajectory: Trajectory) -> Tensor:
    """Reverse KL divergence less log Z, -mean log w: path integral sampler (arXiv:2111.15141).

    Its gradient needs a trajectory from a `differentiable` forward rollout, on-policy.
    """
    return -trajectory.log_weight.mean()


def mle(trajectory: Trajectory) -> Tensor:
    """Maximum likelihood of trajectories destroyed from samples, up to a constant: their EUBO.

    The trajectories must come from a backward rollout. P_B, which drew them, learns from them if
    that was a `differentiable` one: the mirror image of reverse KL. Else it learns nothing.
    """
    tr = trajectory
    ratio_pb = tr.ratio_pb if tr.x.requires_grad else tr.ratio_pb.detach()
    return (tr.log_terminal + ratio_pb.sum(0) - tr.ratio_pf.sum(0)).mean()
