"""Policy: all that is learned, as drift and log-variance of both kernels, state flow, and log Z."""

import copy
import os
import shutil
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .cpu import keep_code_private
from .nets import StateNet, TimeNet, encoder, evaluate, pull

__all__ = ["Context", "Policy", "flat"]

# Bounds of arXiv:2402.05098: the drift's is far above any useful value and only stops a diverging
# run from reaching infinity; the score's tames the energies of far-off states.
DRIFT_CLIP, SCORE_CLIP = 1e4, 1e2
# A learned variance stays within e^-4 to e^4 times the reference's. In a step of length h its log
# differs from the reference's by a multiple of h, to first order: so this is what is learned, in
# units of 1/20, and what is learned on a coarse grid holds on a fine one.
LOG_VARIANCE_RANGE, LOG_VARIANCE_RATE = 4.0, 20.0


class Context(NamedTuple):
    """What there is of a network before it sees a state."""

    layers: list  # as `nets.evaluate` takes them
    time: Tensor  # (T, S, 1, H)
    code: Tensor | None  # of the condition (S, B, H)
    scale: Tensor | None  # of the Langevin drift, (T, S, 1, 1)
    length: Tensor  # of the step, the reference's h or g: (T, 1, 1, 1)

    def at(self, where: slice) -> "Context":
        """The context of a range of times."""
        scale = None if self.scale is None else self.scale[where]
        return Context(self.layers, self.time[where], self.code, scale, self.length[where])

    def split(self) -> list["Context"]:
        """The contexts of each time."""
        scale = [None] * len(self.time) if self.scale is None else self.scale.split(1)
        parts = zip(self.time.split(1), scale, self.length.split(1), strict=True)
        return [Context(self.layers, time, self.code, *rest) for time, *rest in parts]


class Policy(nn.Module):
    """All that is learned: the kernel P_F, optionally the kernel P_B and the state flow, and log Z.

    States are (n, S B, d) at n times: of S independent runs, B trajectories each, side by side.

    Args:
        dim, hidden, layers, condition_dim, amp: as for `StateNet`.
        langevin: add a learned multiple of the score to the drift (Langevin parametrisation, LP).
        learn_variance: P_F's variance is learned, a log factor per coordinate.
        learn_backward: P_B's mean and variance are corrected (arXiv:2506.01541).
        flow: have a state flow F_theta(x, t), which DB and SubTB need.

    Attributes:
        runs: S.
        learns_variance: of P_F.
        pull: what the networks' gradient is computed by, see `use`.
    """

    def __init__(
        self,
        dim: int,
        hidden: int = 64,
        layers: int = 2,
        condition_dim: int = 0,
        langevin: bool = False,
        learn_variance: bool = False,
        learn_backward: bool = False,
        flow: bool = False,
        amp: bool = False,
    ):
        super().__init__()
        self.dim, self.runs, self.learns_variance = dim, 1, learn_variance
        self.pull = pull

        def net(outputs: int) -> StateNet:
            return StateNet(dim, outputs, hidden, layers, condition_dim, amp)

        self.forward_net = net(2 * dim if learn_variance else dim)
        self.langevin = TimeNet(1, hidden, layers=3) if langevin else None
        if langevin:  # starts at 0.01 for all times
            nn.init.zeros_(self.langevin.out.weight)
            nn.init.constant_(self.langevin.out.bias, 0.01)
        self.backward_net = net(2 * dim) if learn_backward else None
        self.flow_net = net(1) if flow else None
        if condition_dim:
            self.log_z_net = encoder(condition_dim, hidden, 1)
            nn.init.zeros_(self.log_z_net[-1].weight)
        else:
            self.log_z_value = nn.Parameter(torch.zeros(1))

    @staticmethod
    def stack(policies: Sequence["Policy"]) -> "Policy":
        """One policy of all their runs; theirs become views of its parameters, and learn with it.

        Raises:
            ValueError: if there are none.
        """
        if not policies:
            raise ValueError("policies=[] must be at least one")
        joint = copy.deepcopy(policies[0])
        joint.runs = sum(policy.runs for policy in policies)
        for parameter, *own in zip(
            joint.parameters(), *(p.parameters() for p in policies), strict=True
        ):
            parameter.data = torch.cat([part.data for part in own])
            for part, view in zip(own, parameter.data.split([len(p) for p in own]), strict=True):
                part.data = view
        return joint

    def use(self, compiled: bool) -> None:
        """Compute the networks' gradient by code compiled for this CPU, or plainly.

        All else stays as it is: a walk's steps are too short to gain, and on a GPU, where whole
        steps are captured in a graph, compiled code was as slow or slower.

        Raises:
            ValueError: if `compiled` on a CPU, and there is no C++ compiler.
        """
        on_gpu = self.forward_net.state.weight.device.type == "cuda"
        compilers = (os.environ.get("CXX", "g++"), "clang++", "cl")
        if compiled and not on_gpu and not any(map(shutil.which, compilers)):
            raise ValueError(
                "compile=True needs a C++ compiler here (g++, clang++ or cl); none found"
            )
        if compiled and not on_gpu:
            keep_code_private()
        self.pull = torch.compile(pull, dynamic=False) if compiled and not on_gpu else pull

    def log_z(self, condition: Tensor | None = None, repeats: int = 1) -> Tensor:
        """log Z_theta of each run (S,), or of each condition (S B, c) -> (S B,)."""
        if condition is None:
            return self.log_z_value
        each = condition[::repeats].unflatten(0, (self.runs, -1))
        return self.log_z_net(each).flatten().repeat_interleave(repeats)

    @torch.no_grad()
    def start_log_z(self, value: Tensor) -> None:
        """Let log Z_theta of each run be `value` (S,), whatever the condition."""
        start = self.log_z_net[-1].bias if hasattr(self, "log_z_net") else self.log_z_value
        start.copy_(value.view_as(start))

    def normaliser(self) -> list[nn.Parameter]:
        """Parameters of log Z_theta, which learn at a rate of their own."""
        return [p for name, p in self.named_parameters() if name.startswith("log_z")]

    def flows(self) -> list[nn.Parameter]:
        """Parameters of the state flow, which learn at a rate of their own."""
        return [] if self.flow_net is None else list(self.flow_net.parameters())

    def kernels(self) -> list[nn.Parameter]:
        """Parameters of P_F and P_B."""
        return [p for n, p in self.named_parameters() if not n.startswith(("log_z", "flow_net"))]

    def context(
        self, net: StateNet, t: Tensor, length: Tensor, condition: Tensor | None, repeats: int = 1
    ) -> Context:
        """Of one of the networks, for times and step lengths (T,) and conditions (S B, c).

        So many rows in a row are the same condition, which is encoded once.
        """
        scale = None
        if net is self.forward_net and self.langevin is not None:
            scale = self.langevin(t).transpose(0, 1)[..., None]
        length = length[:, None, None, None]
        return Context(net.layers(), net.embed(t), net.encode(condition, repeats), scale, length)

    def values(self, x: Tensor, context: Context) -> list[Tensor]:
        """What the context's network computes at x (n, S B, d), `nets.evaluate`: (n, S, B, .)."""
        n, first = len(x), context.time
        if context.code is not None:
            first = first + context.code
        x = x.unflatten(1, (self.runs, -1))
        parts = evaluate(context.layers, flat(x), flat(first.expand(*x.shape[:3], -1)))
        return [part.unflatten(1, (n, -1)).transpose(0, 1) for part in parts]

    def step(self, x: Tensor, context: Context, out: list[Tensor] | None = None) -> Tensor:
        """The values alone, at one time, x (1, S B, d): (1, S, B, .); all is written to `out`."""
        first = context.time[0] if context.code is None else context.time[0] + context.code
        return evaluate(context.layers, x.view(self.runs, -1, self.dim), first, out)[-1][None]

    def forward_kernel(
        self, x: Tensor, context: Context, score: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Drift u and, if learned, log-variance s of P_F at x (n, S B, d), each (n, S B, d)."""
        return self.forward_head(self.values(x, context)[-1], context, score)

    def backward_kernel(self, x: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        """Drift and log-variance of P_B at x (n, S B, d), the states that it leaves."""
        return self.backward_head(self.values(x, context)[-1], context)

    def flow(self, x: Tensor, context: Context) -> Tensor:
        """The network's part of the log state flow at x (n, S B, d): (n, S B)."""
        return self.values(x, context)[-1].flatten(1)

    def forward_head(self, values: Tensor, context: Context, score: Tensor | None = None):
        """u and s of P_F from the values (n, S, B, .) of its network."""
        values = values.to(context.length.dtype)  # of bfloat16, if amp
        u, s = values, None
        if values.shape[-1] > self.dim:
            u, s = values[..., : self.dim], _log_variance(values[..., self.dim :], context)
        if context.scale is not None:
            score = score.clamp(-SCORE_CLIP, SCORE_CLIP).view_as(u)
            u = torch.addcmul(u, context.scale, score)
        u = F.hardtanh(u, -DRIFT_CLIP, DRIFT_CLIP)  # clamp, with a faster derivative
        return (u.flatten(1, 2),) if s is None else (u.flatten(1, 2), s.flatten(1, 2))

    def backward_head(self, values: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        """u and s of P_B from the values (n, S, B, 2 d) of its network."""
        values = values.to(context.length.dtype)
        u = F.hardtanh(values[..., : self.dim], -DRIFT_CLIP, DRIFT_CLIP)
        s = _log_variance(values[..., self.dim :], context)
        return u.flatten(1, 2), s.flatten(1, 2)


def flat(x: Tensor) -> Tensor:
    """(n, S, B, k) -> (S, n B, k), as the networks take it; a copy only if n and S are above 1."""
    return x.transpose(0, 1).flatten(1, 2)


def _log_variance(raw: Tensor, context: Context) -> Tensor:
    rate = context.length * (LOG_VARIANCE_RATE / LOG_VARIANCE_RANGE)
    return LOG_VARIANCE_RANGE * torch.tanh(rate * raw)
