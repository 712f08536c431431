"""The two-phase step: simulate trajectories without gradient, then differentiate all at once.

Trajectory balance does not differentiate through the simulated states. So phase 1 walks T small
steps with no graph, and phase 2 passes all T x B transitions through the network in a few large
batches, with the gradient that the objective sends back to each trajectory's log-weight.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from .cpu import large_matmuls
from .nets import DriftNet
from .process import PinnedBrownian
from .targets import Target

__all__ = ["Trajectory", "backward_rollout", "forward_rollout", "pull_back"]

# Time steps in one chunk of phase 2 on a CPU: its activations then stay in cache.
CPU_CHUNK = 20


@dataclass
class Trajectory:
    """A batch of B trajectories on one time grid.

    Attributes:
        t: times (T + 1,).
        x: states (T + 1, B, d); `x[-1]` are the samples.
        drift: u(x_i, t_i) without gradient (T, B, d).
        log_reward: log R(x_1) (B,).
        log_weight: log w = log R(x_1) + sum log_pb - sum log_pf (B,).
        process: the reference process that the kernels belong to.
    """

    t: Tensor
    x: Tensor
    drift: Tensor
    log_reward: Tensor
    log_weight: Tensor
    process: PinnedBrownian

    @property
    def log_pf(self) -> Tensor:
        """log P_F of each transition (T, B)."""
        return self.process.log_pf(self.x, self.drift, self.t)

    @property
    def log_pb(self) -> Tensor:
        """log P_B of each transition (T, B)."""
        return self.process.log_pb(self.x, self.t)


def _trajectory(process, target, t, x, drift) -> Trajectory:
    log_reward = target.log_reward(x[-1])
    log_weight = log_reward - process.log_ratio(x, drift, t)
    return Trajectory(t, x, drift, log_reward, log_weight, process)


@torch.no_grad()
def forward_rollout(
    net: DriftNet,
    process: PinnedBrownian,
    target: Target,
    t: Tensor,
    batch_size: int,
    exploration: float = 0.0,
    generator: torch.Generator | None = None,
) -> Trajectory:
    """Generate `batch_size` trajectories from the origin by P_F.

    `exploration` is variance per unit time added to the sampling noise alone: the densities in
    log w stay those of P_F itself, which is what makes the trajectories off-policy.
    """
    steps, device = len(t) - 1, t.device
    dt = t.diff()
    std = ((process.sigma2 + exploration) * dt).sqrt()[:, None, None]
    x = torch.zeros((steps + 1, batch_size, net.out.out_features), device=device)
    x[1:].normal_(generator=generator).mul_(std)  # the noise; each row becomes a state below
    drift = torch.empty_like(x[1:])
    rows = zip(x, x[1:], drift, net.embed(t[:-1]), dt, strict=False)
    for x_now, x_next, u, embedding, step in rows:
        u.copy_(net(x_now, embedding))
        x_next.add_(x_now).addcmul_(u, step)
    return _trajectory(process, target, t, x, drift)


@torch.no_grad()
def backward_rollout(
    net: DriftNet,
    process: PinnedBrownian,
    target: Target,
    t: Tensor,
    x1: Tensor,
    generator: torch.Generator | None = None,
) -> Trajectory:
    """Destroy the points `x1` (B, d) by P_B, and weigh the trajectories as if P_F had made them."""
    x = process.bridge(x1, t, generator)
    embedding = net.embed(t[:-1])[:, None]
    chunks = zip(x[:-1].split(_chunk(t)), embedding.split(_chunk(t)), strict=True)
    with large_matmuls():
        drift = torch.cat([net(*chunk) for chunk in chunks])
    return _trajectory(process, target, t, x, drift)


def pull_back(net: DriftNet, trajectory: Trajectory, cotangent: Tensor) -> None:
    """Phase 2: add to the network's gradients that of sum_b cotangent_b log w_b.

    The states are constants, so log w depends on theta through the drift alone, and
    d log w / d u_i = -(dx_i - dt_i u_i) / sigma^2. `cotangent` is (B,), dL / d log w.
    """
    tr = trajectory
    dt, moved = tr.t.diff()[:, None, None], tr.x.diff(dim=0)
    scale = cotangent[:, None] / tr.process.sigma2
    embedding = net.embed(tr.t[:-1])[:, None]  # one graph for the grid; chunks meet at this leaf
    leaf = embedding.detach().requires_grad_()
    size = _chunk(tr.t)
    chunks = (values.split(size) for values in (tr.x[:-1], moved, dt, leaf))
    with large_matmuls():
        for x, dx, step, embedded in zip(*chunks, strict=True):
            u = net(x, embedded)
            u.backward(torch.addcmul(dx, u.detach(), step, value=-1).mul_(-scale))
    embedding.backward(leaf.grad)


def _chunk(t: Tensor) -> int:
    return CPU_CHUNK if t.device.type == "cpu" else len(t)
