"""Part `vae`: training steps for the posterior of an autoencoder, plain and ours."""

from collections.abc import Iterator

import torch

import gfnlite as gl
from gfnlite.local_search import mala

from . import plain, plain_vae
from .measure import Progress, interleaved
from .sizes import Sizes
from .steps import compared
from .tasks import PAPER_EXPLORATION, ours

__all__ = ["measure"]

REPEATS = 10  # trajectories for each image, as in arXiv:2402.05098


def measure(sizes: Sizes, progress: Progress) -> Iterator[dict]:
    """An entry for each step; the images are noise, which costs the same as digits."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(1000, 784, generator=generator)
    target = gl.VAEPosterior(images=images)
    for langevin in (False, True):
        name = "VarGrad+Expl" + "+LP" * langevin
        for replay in (False, True):
            step = f"{name} {'replay' if replay else 'forward'}"
            progress.start(f"vae, {step}")
            mine, usual = _pair(target, images, langevin, replay, sizes)
            rounds = max(2, sizes.repeats // 3)
            times = interleaved({"ours": mine, "plain": usual}, rounds, progress=progress.round)
            yield {"task": "vae", "step": step} | compared(times)
    progress.start("vae, MALA")
    yield _search(target, images, sizes, progress)


def _pair(target, images, langevin, replay, sizes):
    """A call for one step of ours, and one of plain."""
    settings = {"replay_ratio": 0.5, "replay_capacity": sizes.batch} if replay else {}
    config = gl.Config(
        objective="vargrad", repeats=REPEATS, langevin=langevin, sigma2=5.0,
        exploration=PAPER_EXPLORATION, steps=sizes.steps, batch_size=sizes.batch,
        hidden=sizes.hidden, lr=1e-3, lr_decay=0.0, iterations=10**6, **settings,
    )  # fmt: skip
    mine = gl.GFNDiffusion(target, config=config, device="cpu")
    trainer = plain_vae.Trainer(
        images, REPEATS, langevin, sizes.steps, sizes.batch, sizes.hidden
    )  # fmt: skip
    if not replay:
        return ours([mine]), lambda: trainer.forward_step(PAPER_EXPLORATION)
    z, image = _points(images, sizes)
    log_reward = target.log_reward(z, image)
    mine.buffers["policy"].add(z, log_reward, torch.zeros_like(log_reward), image)
    trainer.kept = z, log_reward, image
    step = ours([mine])

    def replayed():
        mine.iteration = 1  # at odd ones it replays
        return step()

    return replayed, trainer.replay_step


def _points(images, sizes):
    """Latents, and the image of each."""
    z = torch.randn(sizes.batch, 20, generator=torch.Generator().manual_seed(1))
    return z, images[: sizes.batch // REPEATS].repeat_interleave(REPEATS, 0)


def _search(target, images, sizes, progress) -> dict:
    """One local search alone: MALA from a batch."""
    z, image = _points(images, sizes)
    trainer = plain_vae.Trainer(images, REPEATS)
    trainer.see(image)
    settings = {"steps": sizes.search, "burn_in": sizes.search // 2, "step_size": 1e-3}
    times = interleaved(
        {
            "ours": lambda: mala(target, z, condition=image, **settings),
            "plain": lambda: plain.mala(trainer.log_reward, z, **settings),
        },
        max(2, sizes.repeats // 10),
        1,
        progress.round,
    )
    name = f"MALA {sizes.search} x {sizes.batch}"
    return {"task": "vae", "step": name} | compared(times)
