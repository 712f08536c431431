"""Networks: drift and log-variance of both kernels, state flow, and log Z, in one `Policy`.

All see (x, t, c) through the first layer of the same small network, in which the three add up:
what depends on time alone is computed once a grid, what depends on the condition once a batch.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Context", "Policy", "StateNet", "TimeNet"]

# Bounds of arXiv:2402.05098: the drift's is far above any useful value and only stops a diverging
# run from reaching infinity; the score's tames the energies of far-off states.
DRIFT_CLIP, SCORE_CLIP = 1e4, 1e2
# A learned variance stays within e^-4 to e^4 times the reference's. In a step of length h its log
# differs from the reference's by a multiple of h, to first order: so this is what is learned, in
# units of 1/20, and what is learned on a coarse grid holds on a fine one.
LOG_VARIANCE_RANGE, LOG_VARIANCE_RATE = 4.0, 20.0


class TimeNet(nn.Module):
    """Fourier features of time with learned phases, then a small network: (T,) -> (T, outputs)."""

    def __init__(self, outputs: int, hidden: int = 64, layers: int = 1, harmonics: int = 64):
        super().__init__()
        self.register_buffer("frequency", torch.linspace(0.1, 100, harmonics))
        self.phase = nn.Parameter(torch.randn(harmonics))
        widths = [2 * harmonics, *[hidden] * layers]
        self.hidden = nn.ModuleList(map(nn.Linear, widths, widths[1:]))
        self.out = nn.Linear(hidden, outputs)

    def forward(self, t: Tensor) -> Tensor:
        """Values at the times t (T,): (T, outputs)."""
        angle = t[:, None] * self.frequency + self.phase
        h = torch.cat((angle.sin(), angle.cos()), -1)
        for layer in self.hidden:
            h = F.gelu(layer(h))
        return self.out(h)


class StateNet(nn.Module):
    """Network of the path integral sampler (Zhang & Chen, arXiv:2111.15141), with a condition.

    out(gelu(... gelu(W x + embed(t) + encode(c)))), whose last layer starts at zero, so that
    training starts from the reference process.

    Args:
        dim: dimension d of the state.
        outputs: values per state.
        hidden: width H.
        layers: number of joint hidden layers.
        condition_dim: dimension of the condition; 0 for none.
    """

    def __init__(self, dim: int, outputs: int, hidden: int, layers: int, condition_dim: int = 0):
        super().__init__()
        self.time = TimeNet(hidden, hidden)
        self.state = nn.Linear(dim, hidden)
        self.joint = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(layers))
        self.out = nn.Linear(hidden, outputs)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)
        self.encoder = _encoder(condition_dim, hidden, hidden) if condition_dim else None

    def embed(self, t: Tensor) -> Tensor:
        """Everything that depends on time alone, once for a whole grid: (T,) -> (T, H)."""
        return self.time(t) + self.state.bias

    def encode(self, condition: Tensor | None) -> Tensor | None:
        """Everything that depends on the condition alone, once for a batch: (B, c) -> (B, H)."""
        return self.encoder(condition) if self.encoder is not None else None

    def forward(self, x: Tensor, time: Tensor, code: Tensor | None = None) -> Tensor:
        """Values at states x (..., B, d), given `embed` and `encode`: (..., B, outputs)."""
        h = F.linear(x, self.state.weight) + time
        if code is not None:
            h = h + code
        for layer in self.joint:
            h = layer(F.gelu(h))
        return self.out(F.gelu(h))


def _encoder(condition_dim: int, hidden: int, outputs: int) -> nn.Module:
    return nn.Sequential(
        nn.Linear(condition_dim, hidden), nn.GELU(),
        nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, outputs),
    )  # fmt: skip


class Context(NamedTuple):
    """What a network knows of times and conditions before it sees a state."""

    time: Tensor  # (T, 1, H), or (H,) at one time
    code: Tensor | None  # (B, H)
    scale: Tensor | None  # of the Langevin drift, (T, 1, 1) or (1,)
    length: Tensor  # of the step, the reference's h or g: (T, 1, 1) or (1,)

    def at(self, where: int | slice) -> "Context":
        """The context of one time, or of a range of times."""
        scale = None if self.scale is None else self.scale[where]
        time, length = self.time[where], self.length[where]
        if isinstance(where, int):
            time, length, scale = time[0], length[0], None if scale is None else scale[0]
        return Context(time, self.code, scale, length)


class Policy(nn.Module):
    """All that is learned: the kernel P_F, optionally the kernel P_B and the state flow, and log Z.

    Args:
        dim, hidden, layers, condition_dim: as for `StateNet`.
        langevin: add a learned multiple of the score to the drift (Langevin parametrisation, LP).
        learn_variance: P_F's variance is learned, a log factor per coordinate.
        learn_backward: P_B's mean and variance are corrected (arXiv:2506.01541).
        flow: have a state flow F_theta(x, t), which DB and SubTB need.
        amp: compute the joint layers in bfloat16; times and densities stay in float32.
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
        self.dim, self.amp = dim, amp

        def net(outputs: int) -> StateNet:
            return StateNet(dim, outputs, hidden, layers, condition_dim)

        self.forward_net = net(2 * dim if learn_variance else dim)
        self.langevin = TimeNet(1, hidden, layers=3) if langevin else None
        if langevin:  # starts at 0.01 for all times
            nn.init.zeros_(self.langevin.out.weight)
            nn.init.constant_(self.langevin.out.bias, 0.01)
        self.backward_net = net(2 * dim) if learn_backward else None
        self.flow_net = net(1) if flow else None
        if condition_dim:
            self.log_z_net = _encoder(condition_dim, hidden, 1)
            nn.init.zeros_(self.log_z_net[-1].weight)
        else:
            self.log_z_value = nn.Parameter(torch.zeros(()))

    def log_z(self, condition: Tensor | None = None) -> Tensor:
        """log Z_theta, a number (), or that of each condition (B,)."""
        return self.log_z_value if condition is None else self.log_z_net(condition).squeeze(-1)

    @torch.no_grad()
    def start_log_z(self, value: Tensor) -> None:
        """Let log Z_theta be `value` (), whatever the condition."""
        start = self.log_z_net[-1].bias if hasattr(self, "log_z_net") else self.log_z_value
        start.fill_(value)

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
        self, net: StateNet, t: Tensor, length: Tensor, condition: Tensor | None
    ) -> Context:
        """Of one of the networks, for times and step lengths (T,) and conditions (B, c)."""
        scale = None
        if net is self.forward_net and self.langevin is not None:
            scale = self.langevin(t)[:, :, None]
        return Context(net.embed(t)[:, None], net.encode(condition), scale, length[:, None, None])

    def forward_kernel(self, x: Tensor, context: Context, score: Tensor | None = None):
        """Drift u and log-variance s (or None) of P_F at x (..., B, d), each (..., B, d)."""
        out = self._call(self.forward_net, x, context)
        u, s = out, None
        if out.shape[-1] > self.dim:
            u, s = out[..., : self.dim], _log_variance(out[..., self.dim :], context)
        if context.scale is not None:
            u = u + context.scale * score.clamp(-SCORE_CLIP, SCORE_CLIP)
        return u.clamp(-DRIFT_CLIP, DRIFT_CLIP), s

    def backward_kernel(self, x: Tensor, context: Context):
        """Drift and log-variance of P_B at x (..., B, d), the state that it leaves."""
        out = self._call(self.backward_net, x, context)
        u = out[..., : self.dim].clamp(-DRIFT_CLIP, DRIFT_CLIP)
        return u, _log_variance(out[..., self.dim :], context)

    def flow(self, x: Tensor, context: Context) -> Tensor:
        """The network's part of the log state flow at x (..., B, d): (..., B)."""
        return self._call(self.flow_net, x, context).squeeze(-1)

    def _call(self, net: StateNet, x: Tensor, context: Context) -> Tensor:
        if not self.amp:
            return net(x, context.time, context.code)
        with torch.autocast(x.device.type, torch.bfloat16):
            return net(x, context.time, context.code).float()


def _log_variance(raw: Tensor, context: Context) -> Tensor:
    rate = context.length * (LOG_VARIANCE_RATE / LOG_VARIANCE_RANGE)
    return LOG_VARIANCE_RANGE * torch.tanh(rate * raw)
