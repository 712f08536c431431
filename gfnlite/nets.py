"""The drift network u(x, t; theta)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["DriftNet"]

# Bound on each coordinate of the drift (arXiv:2402.05098): far above any useful value, it
# only stops a diverging run from reaching infinity.
DRIFT_CLIP = 1e4


class DriftNet(nn.Module):
    """Drift network of the path integral sampler (Zhang & Chen, arXiv:2111.15141).

    u(x, t) = out(gelu(... gelu(W x + embed(t)))): Fourier features of time with learned phases,
    two joint layers, and a last layer that starts at zero, so that training starts from the
    reference process.

    Args:
        dim: dimension d of the state.
        hidden: width H.
        layers: number of joint hidden layers.
        harmonics: number of time frequencies, from 0.1 to 100.
    """

    def __init__(self, dim: int, hidden: int = 64, layers: int = 2, harmonics: int = 64):
        super().__init__()
        self.register_buffer("frequency", torch.linspace(0.1, 100, harmonics))
        self.phase = nn.Parameter(torch.randn(harmonics))
        self.time = nn.Sequential(
            nn.Linear(2 * harmonics, hidden), nn.GELU(), nn.Linear(hidden, hidden)
        )
        self.state = nn.Linear(dim, hidden)
        self.joint = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(layers))
        self.out = nn.Linear(hidden, dim)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def embed(self, t: Tensor) -> Tensor:
        """Everything that depends on time alone, once for a whole grid: (T,) -> (T, H)."""
        angle = t[:, None] * self.frequency + self.phase
        return self.time(torch.cat((angle.sin(), angle.cos()), -1)) + self.state.bias

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Drift at states x (..., d), given the embedding of their times (..., H): (..., d)."""
        h = F.linear(x, self.state.weight).add_(embedding)
        for layer in self.joint:
            h = layer(F.gelu(h))
        return self.out(F.gelu(h)).clamp(-DRIFT_CLIP, DRIFT_CLIP)
