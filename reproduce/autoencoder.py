"""The autoencoder that comes with gfnlite: how it was trained, and how good it is."""

import hashlib
import time
from pathlib import Path

import torch
from safetensors.torch import load_file, save

import gfnlite as gl
from gfnlite.files import read_json, write_bytes
from gfnlite.importance import Truth, adaptive_importance_sampling
from gfnlite.mnist import mnist
from gfnlite.vae import VAE, VAEPosterior, pretrained

from .experiments import ROOT, RUNS

__all__ = ["RESULT", "TRUTH", "load_truth", "prepare", "train", "truth"]

WEIGHTS = Path(gl.__file__).with_name("data") / "vae.safetensors"
RESULT = ROOT / "reproduce" / "results" / "vae" / "autoencoder.json"
TRUTH = RESULT.with_name("truth.json")
EPOCHS = 100  # the paper's
DRAWS = 16  # of the latent, for each test image


def prepare() -> None:
    """Have MNIST and the autoencoder at hand, which is trained if its weights are not there.

    Raises:
        FileNotFoundError: if MNIST cannot be had.
    """
    for split in ("train", "test"):
        mnist(split, "full")
    if not WEIGHTS.is_file():
        train(binary=False, epochs=EPOCHS)


def train(binary: bool, epochs: int) -> dict:
    """Train one on all of MNIST, ship its weights as float16, and write its test ELBO.

    Killed, the same call goes on from the last epoch.

    Raises:
        FileNotFoundError: if MNIST cannot be had.
    """
    name = "vae_binary" if binary else "vae"
    images, test = mnist("train", "full"), mnist("test", "full")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = VAE(binary=binary)
    began = time.perf_counter()
    model.fit(images.images, epochs, folder=RUNS / f".{name}-{epochs}")
    seconds = time.perf_counter() - began
    model.save(WEIGHTS.with_stem(name), half=True)
    shipped = pretrained(binary)  # as float16 left it
    generator = torch.Generator().manual_seed(0)
    elbo = torch.stack([
        shipped.elbo(shipped.as_seen(test.images, generator), generator) for _ in range(DRAWS)
    ]).mean(0)  # fmt: skip
    entry = {
        "trained_on": images.name,
        "epochs": epochs,
        "seconds": round(seconds, 1),
        "test_on": test.name,
        "test_elbo": elbo.mean().item(),
        "test_elbo_se": (elbo.std() / len(elbo) ** 0.5).item(),
    }
    known = read_json(RESULT) if RESULT.is_file() else {}
    gl.write_json(RESULT, known | {name: entry})
    return entry


def load_truth(target: VAEPosterior, split: str) -> Truth:
    """What `truth` found of a set of images, in the coordinates of the target.

    Raises:
        ValueError: if it was found with other weights than those that are shipped.
    """
    images, known = mnist(split), read_json(TRUTH)
    if known["weights_sha256"] != _digest():
        raise ValueError(f"{TRUTH} is of other weights: python -m reproduce vae --truth")
    found = known["sets"][images.name]
    samples = load_file(TRUTH.with_suffix(".safetensors"))[images.name].float()
    parts = [torch.tensor(found[name]) for name in ("log_z", "error", "ess")]
    return Truth(*parts, target.state(samples, images.images[:, None]))


def truth() -> dict:
    """log p(x) of the evaluation images, by adaptive importance sampling, written with some draws.

    For both evaluation sets, where they can be had; a few minutes each.
    """
    model = pretrained()
    target, found, draws = VAEPosterior(model), {}, {}
    for source in ("full", "small"):
        images = mnist("evaluation", source)
        generator = torch.Generator().manual_seed(0)
        known = adaptive_importance_sampling(
            target, images.images, n=50_000, rounds=12, adapted=5000, kept=50, generator=generator
        )
        encoder = torch.stack([model.elbo(images.images, generator) for _ in range(1000)])
        found[images.name] = {
            "log_z": known.log_z.tolist(),
            "error": known.error.tolist(),
            "ess": known.ess.tolist(),
            "encoder_elbo": encoder.double().mean(0).tolist(),
            "energy_calls": known.energy_calls,
        }
        draws[images.name] = known.samples.half()
    entry = {"weights_sha256": _digest(), "sets": found}
    write_bytes(TRUTH.with_suffix(".safetensors"), save(draws))
    gl.write_json(TRUTH, entry)
    return entry


def _digest() -> str:
    return hashlib.sha256(WEIGHTS.read_bytes()).hexdigest()
