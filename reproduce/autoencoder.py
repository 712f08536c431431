"""The autoencoder that comes with gfnlite: how it was trained, and how good it is."""

import json
import time
from pathlib import Path

import torch

import gfnlite as gl
from gfnlite.mnist import mnist
from gfnlite.vae import VAE, pretrained

from .experiments import ROOT, RUNS

__all__ = ["RESULT", "train"]

RESULT = ROOT / "reproduce" / "results" / "vae" / "autoencoder.json"
DRAWS = 16  # of the latent, for each test image


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
    model.save(Path(gl.__file__).with_name("data") / f"{name}.safetensors", half=True)
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
    known = json.loads(RESULT.read_text()) if RESULT.is_file() else {}
    gl.write_json(RESULT, known | {name: entry})
    return entry
