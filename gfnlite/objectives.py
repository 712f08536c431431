"""Objectives: pure functions of a Trajectory, averaged over the batch.

At the optimum every trajectory has the same log-weight, log Z; both objectives here measure how
far the batch is from that.
"""

from torch import Tensor

from .rollout import Trajectory

__all__ = ["tb", "vargrad"]


def tb(trajectory: Trajectory, log_z: Tensor) -> Tensor:
    """Trajectory balance, mean of (log Z_theta - log w)^2 / 2 (Malkin et al., arXiv:2201.13259)."""
    return 0.5 * (log_z - trajectory.log_weight).square().mean()


def vargrad(trajectory: Trajectory, log_z: Tensor | None = None) -> Tensor:
    """Half the batch variance of log w (Richter et al., arXiv:2010.10436); log Z_theta unused.

    It is trajectory balance with the batch's mean log-weight in the place of log Z_theta.
    """
    log_weight = trajectory.log_weight
    return 0.5 * (log_weight - log_weight.mean()).square().mean()
