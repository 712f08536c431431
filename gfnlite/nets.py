"""The small network that every learned function of (x, t, c) is, and its gradient.

x, t and c add up in its first layer: what depends on time alone is computed once a grid, what
depends on the condition once a batch.

Every parameter has a leading axis S: of independent runs that are trained together each has its own
slice. A single sampler is S = 1.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Linear", "StateNet", "TimeNet", "encoder", "evaluate", "pull"]


class Linear(nn.Module):
    """An affine map for each of S runs: (S, n, inputs) -> (S, n, outputs)."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        bound = inputs**-0.5
        self.weight = nn.Parameter(torch.empty(1, outputs, inputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(1, 1, outputs).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        """Values at x."""
        return torch.baddbmm(self.bias, x, self.weight.mT)


class TimeNet(nn.Module):
    """Fourier features of time, of learned phase, and a small network: (T,) -> (S, T, outputs)."""

    def __init__(self, outputs: int, hidden: int = 64, layers: int = 1, harmonics: int = 64):
        super().__init__()
        self.register_buffer("frequency", torch.linspace(0.1, 100, harmonics))
        self.phase = nn.Parameter(torch.randn(1, 1, harmonics))
        widths = [2 * harmonics, *[hidden] * layers]
        self.hidden = nn.ModuleList(map(Linear, widths, widths[1:]))
        self.out = Linear(hidden, outputs)

    def forward(self, t: Tensor) -> Tensor:
        """Values at the times t (T,): (S, T, outputs)."""
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
        amp: compute in bfloat16; parameters, their gradients and the results are float32.
    """

    def __init__(
        self, dim: int, outputs: int, hidden: int, layers: int, condition_dim: int = 0,
        amp: bool = False,
    ):  # fmt: skip
        super().__init__()
        self.time = TimeNet(hidden, hidden)
        self.state = Linear(dim, hidden)
        self.joint = nn.ModuleList(Linear(hidden, hidden) for _ in range(layers))
        self.out = Linear(hidden, outputs)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)
        self.encoder = encoder(condition_dim, hidden, hidden) if condition_dim else None
        self.amp, self.widths = amp, [hidden] * (layers + 1) + [outputs]

    def dtype(self, x: Tensor) -> torch.dtype:
        """What it computes in."""
        return torch.bfloat16 if self.amp else x.dtype

    def embed(self, t: Tensor) -> Tensor:
        """What depends on time alone, once for a whole grid: (T,) -> (T, S, 1, H)."""
        return (self.time(t) + self.state.bias).transpose(0, 1)[:, :, None]

    def encode(self, condition: Tensor | None, repeats: int = 1) -> Tensor | None:
        """What depends on the condition alone, once for each: (S B, c) -> (S, B, H).

        So many rows in a row are the same condition.
        """
        if self.encoder is None:
            return None
        each = condition[::repeats].unflatten(0, (len(self.state.weight), -1))
        return self.encoder(each).repeat_interleave(repeats, 1)

    def layers(self) -> list[tuple[Tensor, Tensor | None]]:
        """Factor (S, inputs, outputs) and bias of each layer; the first has its bias in `embed`."""
        dtype = self.dtype(self.state.weight)
        biased = [(layer.weight, layer.bias.to(dtype)) for layer in (*self.joint, self.out)]
        parts = [(self.state.weight, None), *biased]
        return [(weight.mT.to(dtype), bias) for weight, bias in parts]

    def forward(self, x: Tensor, first: Tensor) -> Tensor:
        """Values at states x (S, N, d), given `embed` and `encode` (S, N or 1, H): (S, N, .)."""
        return evaluate(self.layers(), x, first)[-1]

    @torch.no_grad()
    def pull(
        self, run: int, x: Tensor, hidden: Sequence[Tensor], cotangent: Tensor, function=None
    ) -> Tensor:
        """Add to the gradients of one run's parameters; the cotangent of its `first` (N, H).

        `hidden` are the pre-activations that `evaluate` gave at x (N, d), each (N, H); the
        cotangent is that of its values (N, .); `function` is `pull`, or that compiled.
        """
        dtype = hidden[0].dtype
        layers = (self.state, *self.joint, self.out)
        factors = [layer.weight[run].to(dtype) for layer in layers]
        g, gradients = (function or pull)(factors, x.to(dtype), hidden, cotangent.to(dtype))
        for layer, (weight, bias) in zip(layers, gradients, strict=True):
            _add_gradient(layer.weight, run, weight)
            if bias is not None:
                _add_gradient(layer.bias, run, bias)
        return g


def evaluate(
    layers: Sequence[tuple[Tensor, Tensor | None]],
    x: Tensor,
    first: Tensor,
    out: Sequence[Tensor | None] | None = None,
) -> list[Tensor]:
    """Pre-activations of all `StateNet.layers`, then the values, at x (S, N, d): each (S, N, .).

    `first` (S, N or 1, H) is `embed` plus, if any, `encode`. Results go to `out`, if it is given.
    """
    weight, _ = layers[0]
    out = out or [None] * len(layers)
    parts = [torch.baddbmm(first.to(weight.dtype), x.to(weight.dtype), weight, out=out[0])]
    for (weight, bias), room in zip(layers[1:], out[1:], strict=True):
        parts.append(torch.baddbmm(bias, F.gelu(parts[-1]), weight, out=room))
    return parts


def pull(
    factors: Sequence[Tensor], x: Tensor, hidden: Sequence[Tensor], g: Tensor
) -> tuple[Tensor, list[tuple[Tensor, Tensor | None]]]:
    """The derivative of `evaluate`, of one run, with no graph and nothing computed twice.

    Args:
        factors: of its layers (outputs, inputs).
        x: states (N, d).
        hidden: its pre-activations there, each (N, H).
        g: the cotangent of its values (N, .).

    Returns that of `first` (N, H), and the gradients of each layer's factor and bias.
    """
    gradients = []
    for weight, z in zip(factors[:0:-1], hidden[::-1], strict=True):
        gradients.insert(0, (g.mT @ F.gelu(z), g.sum(0, keepdim=True)))
        g = torch.ops.aten.gelu_backward(g @ weight, z)
    return g, [(g.mT @ x, None), *gradients]


def _add_gradient(parameter: Tensor, run: int, gradient: Tensor) -> None:
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    parameter.grad[run] += gradient


def encoder(condition_dim: int, hidden: int, outputs: int) -> nn.Module:
    """Network of the condition alone: (S, B, c) -> (S, B, outputs)."""
    return nn.Sequential(
        Linear(condition_dim, hidden), nn.GELU(),
        Linear(hidden, hidden), nn.GELU(), Linear(hidden, outputs),
    )  # fmt: skip
