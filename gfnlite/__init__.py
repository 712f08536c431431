"""gfnlite: diffusion samplers trained as generative flow networks.

import gfnlite as gl
sampler = gl.GFNDiffusion(energy_fn=gl.gmm25)  # a Target, or any callable E(x) with dim=...
sampler.fit()
x = sampler.sample(batch_size=256, steps=100)
sampler.evaluate()

What most people need is here; the rest is in the modules: `gl.targets`, `gl.objectives`,
`gl.metrics`, `gl.distances`, `gl.process`, `gl.rollout`, `gl.callbacks`, `gl.plots`; models of data
and their guidance are in `gl.diffusion`, `gl.data_loss`, `gl.denoiser`,
`gl.guidance` and `gl.relative`.
"""

from importlib.metadata import version

from . import (
    annealing,
    callbacks,
    data_loss,
    denoiser,
    diffusion,
    distances,
    guidance,
    metrics,
    objectives,
    plots,
    process,
    relative,
    rollout,
    targets,
)
from .config import Config
from .diagnosis import diagnose
from .distances import w2
from .ensemble import Ensemble
from .files import write_json
from .interactive import explore, watch
from .local_search import mala
from .metrics import Evaluation, elbo, ess, eubo, log_z_is, modes_found
from .pilot import suggest_scale
from .posterior import PosteriorEvaluation, evaluate_posteriors
from .presets import METHODS, PROFILES, TASKS, preset
from .process import time_grid
from .record import record
from .replay import ReplayBuffer
from .sampler import GFNDiffusion
from .targets import (
    GMM,
    Gaussian,
    ManyWell,
    Target,
    gmm9,
    gmm25,
    gmm40,
    named_target,
    tempered,
    weighted_sum,
)
from .trajectory import Trajectory
from .vae import VAEPosterior, vae_energy

__version__ = version("gfnlite")

__all__ = [
    "Config",
    "Ensemble",
    "Evaluation",
    "GFNDiffusion",
    "GMM",
    "Gaussian",
    "METHODS",
    "ManyWell",
    "PROFILES",
    "ReplayBuffer",
    "TASKS",
    "Target",
    "PosteriorEvaluation",
    "Trajectory",
    "VAEPosterior",
    "annealing",
    "callbacks",
    "data_loss",
    "denoiser",
    "diagnose",
    "diffusion",
    "distances",
    "elbo",
    "ess",
    "eubo",
    "evaluate_posteriors",
    "explore",
    "gmm25",
    "gmm40",
    "gmm9",
    "guidance",
    "log_z_is",
    "mala",
    "metrics",
    "modes_found",
    "named_target",
    "objectives",
    "plots",
    "preset",
    "process",
    "record",
    "relative",
    "rollout",
    "suggest_scale",
    "targets",
    "tempered",
    "time_grid",
    "vae_energy",
    "w2",
    "watch",
    "weighted_sum",
    "write_json",
]
