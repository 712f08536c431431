"""Annealing with nothing trained: AIS and SMC, measured and kept as samplers are."""

import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .arguments import shown
from .build import device as device_of
from .distances import distances_to
from .local_search import check_is_target
from .metrics import DISTANCE_SAMPLES, STATISTICS, Evaluation, bootstrap, elbo, ess, modes_found
from .presets import PROFILES, TASKS
from .record import keep_metrics
from .settings import Settings, setting
from .smc import Particles, annealed_smc
from .targets import Target

__all__ = ["METHODS", "Annealing", "anneal", "evaluate", "preset"]


@dataclass(frozen=True)
class Annealing(Settings):
    """Settings of annealed particles; `Annealing.describe()` lists them with their meaning.

    Raises:
        ValueError: for a value of the wrong type or out of range, naming setting and value.
    """

    resample: bool = setting(True, "after each level, resampling by weight (SMC) or not (AIS)")
    particles: int = setting(4000, "particles, all annealed side by side", low=2, high=10**7)
    scale: float = setting(1.0, "standard deviation of the Gaussian at the start", above=0)
    keep: float = setting(
        0.95, "effective fraction of the particles that a level leaves", low=0.01, high=0.9999
    )
    moves: int = setting(16, "MALA transitions a level", low=1, high=10_000)


METHODS = {"AIS+MALA": {"resample": False}, "SMC+MALA": {"resample": True}}
# By profile, then by task. An energy of 1,600 dimensions takes a hundred times as long as others.
SETTINGS = {
    "smoke": {"particles": 200, "keep": 0.5, "moves": 2},
    "quick": {"particles": 4000, "keep": 0.95, "moves": 16},
    "full": {"particles": 20_000, "keep": 0.98, "moves": 32},
}
EXCEPTIONS = {
    "smoke": {"lgcp": {"particles": 20, "keep": 0.1}},
    "quick": {"lgcp": {"particles": 200, "keep": 0.7, "moves": 8}},
    "full": {"lgcp": {"particles": 2000, "keep": 0.9}},
}


def preset(task: str, method: str, profile: str, **changes) -> Annealing:
    """The settings of a method on a task: the start is as wide as a sampler's exploration reaches.

    `changes` are settings that win over these, where they are not None.

    Raises:
        ValueError: for an unknown task, method or profile, naming what is allowed.
    """
    tasks = [name for name, settings in TASKS.items() if "repeats" not in settings]
    for argument, name, known in (
        ("task", task, tasks), ("method", method, METHODS), ("profile", profile, PROFILES),
    ):  # fmt: skip
        if name not in known:
            raise ValueError(f"{argument}={shown(name)} is unknown; allowed: {', '.join(known)}")
    scale = math.sqrt(TASKS[task]["sigma2"] + TASKS[task]["exploration"])
    settings = METHODS[method] | SETTINGS[profile] | EXCEPTIONS[profile].get(task, {})
    changes = {name: value for name, value in changes.items() if value is not None}
    return Annealing(scale=scale, **settings).replace(**changes)


def anneal(
    target: Target,
    config: Annealing,
    seed: int = 0,
    folder: str | Path | None = None,
    device: torch.device | str | None = None,
) -> tuple[Particles, Evaluation]:
    """Anneal particles to a target, measure them, and keep `folder`/metrics.json as `record` does.

    Args:
        target: without a condition.
        config: settings.
        seed: of all random numbers.
        folder: where to write; None: nowhere. A file that is there stays as it is.
        device: None takes a GPU if there is one.

    Raises:
        FloatingPointError: if the particles do not arrive at the target.
        TypeError, ValueError: as `annealed_smc`.
    """
    check_is_target(target)
    device = device_of(device)
    target = target.to(device)
    generator = torch.Generator(device).manual_seed(seed)
    began = time.monotonic()
    found = annealed_smc(
        target, config.particles, config.scale, keep=config.keep, moves=config.moves,
        resample=config.resample, generator=generator, device=device,
    )  # fmt: skip
    seconds = time.monotonic() - began
    if found.log_z == -math.inf:
        raise FloatingPointError(
            f"particles={config.particles}, keep={config.keep}: they did not arrive at target "
            f"'{target.name}'; its energy is infinite or too rough nearly everywhere"
        )
    evaluation = evaluate(target, found, config.resample, generator)
    if folder is not None:
        keep_metrics(folder, evaluation, evaluation, seed, seconds)
    return found, evaluation


def evaluate(
    target: Target,
    found: Particles,
    resampled: bool = False,
    generator: torch.Generator | None = None,
) -> Evaluation:
    """What `GFNDiffusion.evaluate` says of a sampler, said of particles.

    ELBO is the mean of their log-weights, which is at most log Z in expectation, up to what levels
    and step sizes that adapt to the particles cost. After resampling all weights are log Z's
    estimate: ELBO and effective sample size are None, as one population does not know them. There
    is no EUBO, which needs a run backwards from exact samples (arXiv:1511.02543); none is done.
    """
    log_w = found.log_weight
    sources = {} if resampled else {"elbo": log_w, "log_z_is": log_w, "ess": log_w}
    exact = weights = modes = None
    if target.sample is not None:
        exact = target.sample(min(len(log_w), DISTANCE_SAMPLES), generator)
    if target.mode_mass is not None:
        share = _shares(target, found)
        weights, modes = share.tolist(), modes_found(share, target.mode_mass)
    drawn = found.draw(len(log_w), generator)
    values = dict(
        elbo=None if resampled else elbo(log_w),
        eubo=None,
        log_z_is=found.log_z,
        log_z_learned=None,
        ess=None if resampled else ess(log_w),
        **distances_to(target, drawn, exact, ("w2",)),
        modes=modes,
        mode_weights=weights,
        energy_calls=found.energy_calls,
        n_samples=len(log_w),
        log_z=None if target.log_z is None else float(target.log_z),
    )
    intervals = {key: bootstrap(STATISTICS[key], source) for key, source in sources.items()}
    return Evaluation(values, intervals)


def _shares(target: Target, found: Particles) -> Tensor:
    weight = found.log_weight.softmax(0)
    return weight @ target.modes_of(found.x).double()
