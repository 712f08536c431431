"""The baseline for the posterior of an autoencoder, written the usual way as `plain` is.

The encoder of the condition is a part of the drift network, and sees each row's image at each step.
The energy is the decoder's forward pass, its gradient autograd's.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gfnlite.vae import pretrained

from . import plain

__all__ = ["ConditionalNet", "Trainer"]


class ConditionalNet(plain.StateNet):
    """The same with a condition, its attribute `image` (B, pixels)."""

    def __init__(self, dim: int, outputs: int, hidden: int, pixels: int = 784):
        super().__init__(dim, outputs, hidden)
        self.encoder = nn.Sequential(
            nn.Linear(pixels, hidden), nn.GELU(),
            nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, hidden),
        )  # fmt: skip
        self.image = torch.zeros(0)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Values at the states x (B, d) and times t (B,)."""
        h = self.state(x) + self.time(t) + self.encoder(self.image)
        for layer in self.joint:
            h = layer(F.gelu(h))
        return self.out(F.gelu(h))


class Trainer(plain.Trainer):
    """A sampler of p(z | x) by VarGrad, of some trajectories for each image.

    It replays the latents that it is given, each with its image.
    """

    def __init__(
        self, images: Tensor, repeats: int, langevin: bool = False, steps: int = 100,
        batch_size: int = 300, hidden: int = 64, sigma2: float = 5.0,
    ):  # fmt: skip
        super().__init__("manywell20", "vargrad", langevin, steps, batch_size, hidden, sigma2)
        self.decoder = pretrained().decoder
        self.images, self.repeats = images, repeats
        self.policy.forward_net = ConditionalNet(self.dim, self.dim, hidden)
        self.optimiser = torch.optim.Adam(self.policy.parameters(), lr=1e-3)
        self.log_reward = self._log_reward
        self.kept: tuple[Tensor, Tensor, Tensor] | None = None  # z, log R, image

    def forward_step(self, exploration: float = 0.0) -> float:
        """One optimiser step on a batch of images drawn anew; its loss."""
        chosen = torch.randint(len(self.images), (self.batch_size // self.repeats,))
        self.see(self.images[chosen].repeat_interleave(self.repeats, dim=0))
        return super().forward_step(exploration)

    def replay_step(self) -> float:
        """One optimiser step on the latents that are kept; its loss."""
        z, log_reward, image = self.kept
        self.see(image)
        return self._update(self.destroy(z, log_reward))

    def see(self, image: Tensor) -> None:
        """From now on the condition is this image for each row (B, pixels)."""
        self.policy.forward_net.image = image

    def loss(self, path: plain.Path) -> Tensor:
        """The variance of log w among the trajectories of each image, halved."""
        groups = path.log_weight.view(-1, self.repeats)
        return 0.5 * ((groups.mean(dim=1, keepdim=True).detach() - groups) ** 2).mean()

    def _log_reward(self, z: Tensor) -> Tensor:
        p = torch.clamp(torch.sigmoid(self.decoder(z)), 1e-5, 1 - 1e-5)
        image = self.policy.forward_net.image
        log_likelihood = -F.binary_cross_entropy(p, image, reduction="none").sum(dim=1)
        return log_likelihood + torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(dim=1)
