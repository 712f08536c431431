"""gfnlite: diffusion samplers trained as generative flow networks.

import gfnlite as gl
sampler = gl.GFNDiffusion(energy_fn=gl.gmm25)  # a Target, or any callable E(x) with dim=...
sampler.fit()
x = sampler.sample(batch_size=256, steps=100)
sampler.evaluate()
"""

from importlib.metadata import version

from . import plots
from .config import Config
from .files import write_json
from .metrics import Evaluation, elbo, ess, eubo, log_z_is, modes_found, w2
from .nets import DriftNet
from .objectives import tb, vargrad
from .presets import METHODS, PROFILES, TASKS, preset
from .process import PinnedBrownian, time_grid
from .rollout import Trajectory
from .sampler import GFNDiffusion
from .targets import GMM, Gaussian, ManyWell, Target, gmm9, gmm25, named_target

__version__ = version("gfnlite")

__all__ = [
    "GMM",
    "METHODS",
    "PROFILES",
    "TASKS",
    "Config",
    "DriftNet",
    "Evaluation",
    "GFNDiffusion",
    "Gaussian",
    "ManyWell",
    "PinnedBrownian",
    "Target",
    "Trajectory",
    "elbo",
    "ess",
    "eubo",
    "gmm9",
    "gmm25",
    "log_z_is",
    "modes_found",
    "named_target",
    "plots",
    "preset",
    "tb",
    "time_grid",
    "vargrad",
    "w2",
    "write_json",
]
