"""A variational autoencoder of images, and the posterior of its latent variable as a target."""

import hashlib
import io
import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .cpu import large_matmuls
from .energy import LOG_2PI, ClosedForm
from .extras import need
from .files import load_state, write_bytes
from .mnist import mnist
from .progress import counted

__all__ = ["VAE", "VAEPosterior", "pretrained", "vae_energy"]

# Pixel probabilities stay within [1e-5, 1 - 1e-5], as in the code of arXiv:2402.05098.
LOGIT_LIMIT = math.log((1 - 1e-5) / 1e-5)


class VAE(nn.Module):
    """Variational autoencoder (Kingma & Welling, arXiv:1312.6114), as in arXiv:2402.05098.

    One hidden layer of ReLU each way; q(z | x) = N(m(x), diag(s(x)^2)), p(z) = N(0, I), and pixels
    independent with log p(x | z) = sum_i x_i log p_i + (1 - x_i) log(1 - p_i). For `binary` pixels
    that is a distribution of x; for grey values in [0, 1] it is not normalised over x.

    Args:
        pixels, hidden, latent: 784, 400 and 20 for the paper's.
        binary: pixels are 0 or 1; grey images are made so by drawing each with its probability.
    """

    def __init__(
        self, pixels: int = 784, hidden: int = 400, latent: int = 20, binary: bool = False
    ):
        super().__init__()
        self.sizes = {"pixels": pixels, "hidden": hidden, "latent": latent, "binary": binary}
        self.pixels, self.latent, self.binary = pixels, latent, binary
        self.encoder = nn.Sequential(
            nn.Linear(pixels, hidden), nn.ReLU(), nn.Linear(hidden, 2 * latent)
        )
        self.decoder = nn.Sequential(
            nn.Linear(latent, hidden), nn.ReLU(), nn.Linear(hidden, pixels)
        )

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of q(z | x): (..., pixels) -> twice (..., latent)."""
        mean, log_variance = self.encoder(x).chunk(2, -1)
        return mean, (0.5 * log_variance).exp()

    def decode(self, z: Tensor) -> Tensor:
        """Probability of each pixel: (..., latent) -> (..., pixels)."""
        return self.logits(z).sigmoid()

    def logits(self, z: Tensor) -> Tensor:
        """Of the pixels' probabilities: (..., latent) -> (..., pixels)."""
        return self.decoder(z).clamp(-LOGIT_LIMIT, LOGIT_LIMIT)

    def elbo(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """E_q[log p(x | z)] - KL(q | p) of each image by one draw from q: (B, pixels) -> (B,)."""
        mean, std = self.encode(x)
        noise = torch.randn(mean.shape, generator=generator, device=x.device)
        kl = 0.5 * (mean.square() + std.square() - 1).sum(-1) - std.log().sum(-1)
        return log_likelihood(self.logits(mean + std * noise), x) - kl

    def as_seen(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Images of grey values (N, pixels) as this model takes them: drawn anew if binary."""
        return torch.bernoulli(images, generator=generator) if self.binary else images

    def save(self, path: str | Path, half: bool = False) -> None:
        """Write the weights (as float16 if `half`), sizes and a digest, as safetensors."""
        save = need("safetensors.torch", "data").save
        tensors = {k: v.half() if half else v for k, v in self.state_dict().items()}
        about = {"sizes": json.dumps(self.sizes)}
        write_bytes(path, save(tensors, about | {"sha256": _digest(about["sizes"], tensors)}))

    @classmethod
    def load(cls, path: str | Path) -> "VAE":
        """The model saved at `path`, in float32.

        Raises:
            FileNotFoundError: if there is none.
            ValueError: if it is not a whole file of this format, or the weights of another model.
        """
        from safetensors import SafetensorError, safe_open

        if not Path(path).is_file():
            raise FileNotFoundError(f"no weights at {path}")
        try:
            with safe_open(str(path), "pt") as file:
                about = file.metadata() or {}
                sizes = json.loads(about.get("sizes", "null"))
                weights = {name: file.get_tensor(name) for name in file.keys()}
        except (SafetensorError, json.JSONDecodeError) as error:
            raise ValueError(f"{path} is no whole file of safetensors: {error}") from error
        if about.get("sha256", digest := _digest(about.get("sizes", ""), weights)) != digest:
            raise ValueError(f"{path} is damaged: its weights are not what its sha256 is of")
        try:
            model = cls(**sizes)
            model.load_state_dict(weights)
        except (TypeError, RuntimeError) as error:
            reason = str(error).split("\n\t")[-1]
            raise ValueError(
                f"{path} has no weights of a VAE with sizes {sizes}: {reason}"
            ) from error
        return model.requires_grad_(False)

    def fit(
        self, images: Tensor, epochs: int = 100, batch_size: int = 128, lr: float = 1e-3,
        seed: int = 0, folder: str | Path | None = None, progress: bool = True,
    ) -> "VAE":  # fmt: skip
        """Train by Adam on the mean ELBO of `images` (N, pixels): the paper's recipe by default.

        After each epoch all there is goes to `folder`/vae.pt, from where the same call goes on.

        Raises:
            ValueError: for images of a wrong shape or with values outside [0, 1], numbers that are
                not positive, or a checkpoint of another model.
        """
        check_images(images, self.pixels)
        for name, value in (("epochs", epochs), ("batch_size", batch_size), ("lr", lr)):
            if not value > 0:
                raise ValueError(f"{name}={value!r} must be positive")
        optimiser = torch.optim.Adam(self.parameters(), lr=lr, fused=True)
        generator, done = torch.Generator().manual_seed(seed), 0
        path = None if folder is None else Path(folder) / "vae.pt"
        if path and path.is_file():
            state = load_state(path, "checkpoint of a VAE: remove it, and the training starts anew")
            if state.get("sizes") != self.sizes:
                raise ValueError(f"{path} is of sizes {state.get('sizes')}, not {self.sizes}")
            self.load_state_dict(state["model"])
            optimiser.load_state_dict(state["optimiser"])
            generator.set_state(state["generator"])
            done = state["epochs"]
        for epoch in counted(range(done, epochs), progress, "VAE", "epoch"):
            for chosen in torch.randperm(len(images), generator=generator).split(batch_size):
                loss = -self.elbo(self.as_seen(images[chosen], generator), generator).mean()
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
            if path:
                state = {"model": self.state_dict(), "optimiser": optimiser.state_dict()}
                state |= {"generator": generator.get_state(), "epochs": epoch + 1}
                torch.save(state | {"sizes": self.sizes}, buffer := io.BytesIO())
                write_bytes(path, buffer.getvalue())
        return self.requires_grad_(False)


def _digest(sizes: str, weights: dict[str, Tensor]) -> str:
    digest = hashlib.sha256(sizes.encode())
    for name in sorted(weights):
        weight = weights[name].cpu()
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        digest.update(weight.numpy().tobytes())
    return digest.hexdigest()


def pretrained(binary: bool = False) -> VAE:
    """The autoencoder that comes with this package, trained on all of MNIST's training set."""
    name = "vae_binary" if binary else "vae"
    return VAE.load(Path(__file__).with_name("data") / f"{name}.safetensors")


def log_likelihood(logits: Tensor, x: Tensor) -> Tensor:
    """sum_i x_i log p_i + (1 - x_i) log(1 - p_i): (..., pixels), (..., pixels) -> (...)."""
    return (x * logits - F.softplus(logits)).sum(-1)


def vae_energy(z: Tensor, x: Tensor, decoder: Callable[[Tensor], Tensor], prior=None) -> Tensor:
    """E(z; x) = -log p(z) - sum_i x_i log p_i - (1 - x_i) log(1 - p_i), p = decoder(z).

    z (..., d) and x (..., pixels) broadcast: K samples of each of n images are z (K, n, d) and
    x (n, pixels). Probabilities are clamped to [1e-5, 1 - 1e-5].

    Args:
        z: latents.
        x: images.
        decoder: probabilities of the pixels, (..., d) -> (..., pixels).
        prior: a distribution whose `log_prob(z)` is (...), or (..., d) to be added up; None:
            N(0, I).
    """
    if prior is None:
        prior = torch.distributions.Normal(0.0, 1.0)
    log_prior = prior.log_prob(z)
    if log_prior.ndim == z.ndim:
        log_prior = log_prior.sum(-1)
    logits = torch.logit(decoder(z), eps=1e-5)
    return -log_prior - log_likelihood(logits, x)


class VAEPosterior(ClosedForm):
    """Posterior of an autoencoder's latent z given an image x.

    log R(z; x) = log p(z) + log p(x | z), so that log Z(x) is the model's log p(x).

    `whitened` takes e, with z = m(x) + s(x) e, as the variable. R(e; x) = R(z; x) prod s(x) has the
    same normaliser, and where the encoder is right it is N(0, I): a sampler with sigma2 = 1 starts
    as good as the encoder, and learns what the encoder misses.

    Args:
        vae: the model; None: the one that comes with this package.
        images: (N, pixels) to draw training conditions from; None: MNIST's training set.
        whitened: see above.

    Raises:
        ValueError: for images of a wrong shape or with values outside [0, 1].
    """

    condition_range = (0.0, 1.0)

    def __init__(
        self, vae: VAE | None = None, images: Tensor | None = None, whitened: bool = False
    ):
        self.whitened, self.name = whitened, "vae" if vae is None else "custom vae"
        self.vae = pretrained() if vae is None else vae
        self.name += "_whitened" if whitened else ""
        self.dim, self.condition_dim = self.vae.latent, self.vae.pixels
        if images is not None:
            check_images(images, self.vae.pixels)
        self._images = images
        self._encoded: tuple | None = None

    def sample_condition(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Images (n, pixels) drawn from the training set, with replacement."""
        if self._images is None:
            self._images = mnist("train").images
        place = self._images.device
        chosen = torch.randint(len(self._images), (n,), generator=generator, device=place)
        return self.vae.as_seen(self._images[chosen], generator)

    def latent(self, x: Tensor, condition: Tensor) -> Tensor:
        """z for states x (B, d) given images (B, pixels): x itself unless `whitened`."""
        return self._frame(x, condition)[0]

    def state(self, z: Tensor, condition: Tensor) -> Tensor:
        """The states x that `latent` makes z (B, d) of: its inverse."""
        if not self.whitened:
            return z
        mean, std = self.vae.encode(condition)
        return (z - mean) / std

    def _frame(self, x: Tensor, condition: Tensor) -> tuple[Tensor, Tensor | float, Tensor | float]:
        """z, its slope in x, and the log volume of that."""
        if not self.whitened:
            return x, 1.0, 0.0
        mean, std = self._encode(condition)
        return mean + std * x, std, std.log().sum(-1)

    def _encode(self, condition: Tensor) -> tuple[Tensor, Tensor]:
        """m(x) and s(x), computed once for all steps of a trajectory or a chain."""
        if condition.requires_grad or condition.is_inference():  # whose writes are not counted
            return self.vae.encode(condition)
        kept = self._encoded
        if kept is None or kept[0] is not condition or kept[1] != condition._version:
            with torch.no_grad():
                kept = condition, condition._version, *self.vae.encode(condition)
            self._encoded = kept
        return kept[2:]

    def _closed_form(self, x, condition):
        first, _, last = self.vae.decoder
        # a row of these products is as much work as many rows of a sampler's
        products = partial(large_matmuls, len(x) * first.out_features // 64, x.device)
        with products():
            z, slope, log_volume = self._frame(x, condition)
            h = first(z).relu()
            raw = last(h)
        logits = raw.clamp(-LOGIT_LIMIT, LOGIT_LIMIT)
        log_prior = -0.5 * (z.square().sum(-1) + self.dim * LOG_2PI)
        log_r = log_prior + log_likelihood(logits, condition) + log_volume

        def score():
            g = condition - logits.sigmoid()
            g = torch.ops.aten.hardtanh_backward(g, raw, -LOGIT_LIMIT, LOGIT_LIMIT)
            with products():
                g = torch.ops.aten.threshold_backward(g @ last.weight, h, 0)
                return (g @ first.weight - z) * slope

        return log_r, score


def check_images(images: Tensor, pixels: int) -> None:
    """Refuse images that a model of so many pixels does not take.

    Raises:
        ValueError: unless they are (N, pixels), N at least 1, with values in [0, 1].
    """
    if images.ndim != 2 or images.shape[1] != pixels or not len(images):
        raise ValueError(f"images must have shape (N, {pixels}), got {tuple(images.shape)}")
    low, high = images.min().item(), images.max().item()
    if not (0 <= low and high <= 1):
        raise ValueError(f"images must have values in [0, 1], got from {low:g} to {high:g}")
