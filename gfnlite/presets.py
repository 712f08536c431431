"""Presets: the settings of each task x method x profile, each written once."""

from collections.abc import Mapping
from functools import cache
from types import MappingProxyType

from .arguments import shown
from .config import Config

__all__ = ["METHODS", "PROFILES", "SAMPLES", "TASKS", "default_preset", "preset"]

# sigma2: arXiv:2402.05098 (where it has no such task, what covers the target). exploration: what
# the quick profile adds, about what is missing between sigma2 and the target's spread; the paper's
# own value is in `full`.
TASKS = {
    "9gmm": {"sigma2": 5.0, "exploration": 4.0},
    "25gmm": {"sigma2": 5.0, "exploration": 16.0},
    "40gmm": {"sigma2": 25.0, "exploration": 500.0},
    "manywell32": {"sigma2": 1.0, "exploration": 1.0},
    "manywell64": {"sigma2": 1.0, "exploration": 1.0},
    "manywell128": {"sigma2": 1.0, "exploration": 1.0},
    "funnel": {"sigma2": 1.0, "exploration": 4.0},
    "easy_funnel": {"sigma2": 1.0, "exploration": 1.0},
    "lgcp": {"sigma2": 5.0, "exploration": 1.0},
    "vae": {"sigma2": 5.0, "exploration": 1.0, "repeats": 10},  # sigma2: the paper's code
    "vae_whitened": {"sigma2": 1.0, "exploration": 0.0, "repeats": 10},
}

# DIS (arXiv:2211.01364) and DDS (arXiv:2302.13834), implemented here. As in those papers: the
# process in equilibrium, reverse KL, a drift with a learned multiple of the target's score, and for
# DDS the exact kernels of the process. As in our other rows and not as in theirs: the network, its
# bounds, sigma2, the number of steps, batch and learning rate. Otherwise than in their own code:
# DIS has Euler-Maruyama's kernels there, a rate from 0.1 to 10 where DDPM's ends at 20, a truncated
# normal start and, by default now, the log-variance loss; DDS has a cosine (to the fourth power) of
# the length of its steps, where ours is that of the signal left.
REVERSED = {"objective": "reverse_kl", "process": "vp", "langevin": True}
BASES = {
    "DIS": REVERSED | {"schedule": "linear"},
    "DDS": REVERSED | {"schedule": "cosine"},
    "PIS": {"objective": "reverse_kl"},
    "TB": {"objective": "tb"},
    "VarGrad": {"objective": "vargrad"},
    "FL-SubTB": {"objective": "subtb", "forward_looking": True},
    # maximum likelihood of trajectories destroyed from particles of annealed SMC
    "MLE": {
        "replay_ratio": 1.0, "prefill": 20_000, "replay_objective": "mle",
        "replay_priority": "uniform",
    },
}  # fmt: skip
# Measured in reproduce/bench/few_steps.py, numbers in reproduce/results/bench/few_steps.json: of
# all choices the cheapest that ends as well as 100 steps do after as many iterations, in about 40%
# of the time. 10 steps need more iterations, 5 lose modes.
FEW = {"coarse_steps": 20, "coarse_fraction": 0.8}
EXTRAS = {
    "Expl": {},  # exploration noise: how much is the task's or the profile's
    "LP": {"langevin": True},
    "LS": {"replay_ratio": 0.5, "ls_every": 100},
    "LV": {"learn_variance": True},
    "LB": {"learn_backward": True},
    # whatever the target's place and units, sigma2 = 1 fits in the coordinates that this finds
    "Std": {"standardise": True, "sigma2": 1.0},
    "Few": FEW,
}
# The name of a method says what is in it: first the rows of the paper's tables that are trained,
# then our own.
METHODS = {
    row: row.split("+")
    for row in (
        "DIS", "DDS", "PIS", "PIS+LP", "TB", "TB+Expl", "VarGrad", "VarGrad+Expl", "FL-SubTB",
        "FL-SubTB+LP", "TB+Expl+LS", "TB+Expl+LP", "TB+Expl+LP+LS", "VarGrad+Expl+LS",
        "VarGrad+Expl+LP", "VarGrad+Expl+LP+LS",
        "TB+Expl+LV", "TB+LP+LV", "VarGrad+LP+LV", "MLE", "MLE+LV", "MLE+LP+LV",
        "MLE+LV+Std", "MLE+LV+LB+Std",
    )
}  # fmt: skip
# Any of them may end in this: it trains on few random steps first (in quick all of them do).
SUFFIX = "+Few"

# smoke: seconds, shows only that the code runs. quick: a minute or two on a laptop. full: the
# paper's setting, where 0.2 more standard deviation in each of 100 steps is a variance of 4.
PROFILES = {
    "smoke": {"steps": 10, "batch_size": 64, "iterations": 40},
    "quick": {"steps": 100, **FEW, "iterations": 4000, "lr": 5e-3},
    "full": {
        "steps": 100, "iterations": 25_000, "lr": 1e-3, "lr_decay": 0.0, "exploration": 4.0,
        "warm_log_z": False,
    },
}  # fmt: skip
# Samples that a profile's runs are judged by; below 2,000 the paper's cells have as few.
SAMPLES = {"smoke": 500, "quick": 20_000, "full": 20_000}
# quick, where an energy costs much: fewer steps, and buffers that a laptop holds.
DEAR = {"steps": 20, "coarse_steps": 10, "iterations": 1000, "lr": 2e-3, "replay_capacity": 20_000}
# What only some cells of a profile have: by profile, then by task, by part of the method's name, or
# by both.
EXCEPTIONS = {
    "smoke": {
        "LS": {"replay_capacity": 2000, "ls_steps": 20, "ls_burn_in": 10},
        "MLE": {"prefill": 200},
        "Few": {"coarse_steps": 5},  # of 10
        "manywell64": {"iterations": 20},
        "manywell128": {"iterations": 20},
        "lgcp": {"batch_size": 16, "iterations": 2},  # of dimension 1600
        "vae": {"batch_size": 20, "iterations": 4},  # a multiple of its repeats
        "vae_whitened": {"batch_size": 20, "iterations": 4},
    },
    "quick": {
        "9gmm": {"iterations": 2000},
        # 4000 end half a nat nearer at most, with the same shares, after 1.6 times as long
        **dict.fromkeys(("manywell32", "manywell64", "manywell128"), {"iterations": 2500}),
        "lgcp": DEAR,
        "vae": DEAR,
        # 20 steps are as good as more (results/bench/few_steps.json); the time is the decoder's
        "vae_whitened": {
            "steps": 20,
            "coarse_steps": 10,
            "iterations": 1200,
            "lr": 2e-3,
            "hidden": 128,
        },
        # also from few_steps.json: in the time of 4000 with 80% on few steps
        "MLE": {"lr": 6e-3, "coarse_fraction": 0.95, "iterations": 6000},
        "Std": {"iterations": 4000},  # 25 of 25 modes within a minute on one core
    },
    "full": {
        **dict.fromkeys(("LP", "DIS", "DDS"), {"iterations": 10_000}),
        # a batch is 300 images; VarGrad has ten trajectories of each, the others one
        "vae": {"repeats": None, "replay_capacity": 90_000, "ls_steps": 500, "ls_burn_in": 200},
        "vae VarGrad": {"repeats": 10, "batch_size": 3000},
        # no row of the paper's: the best that half an hour on one core gives
        "vae_whitened": {
            "steps": 50,
            "lr": 2e-3,
            "lr_decay": 0.7,
            "hidden": 128,
        },
        # no rows of the paper's either: the best that an hour on one core gives three seeds
        "Std": {
            "lr": 3e-3,
            "lr_decay": 0.7,
            "hidden": 128,
            "iterations": 20_000,
        },
    },
}


def preset(
    task: str, method: str, profile: str, settings: Mapping = MappingProxyType({}), **changes
) -> Config:
    """The settings of one cell of the paper's tables: later tables win (task, profile, method).

    `changes` are settings that win over all of these, where they are not None; those in the
    mapping `settings` win as they are, so that its None can switch off what may be None.

    DIS and DDS are implemented here, on their processes, with reverse KL and the Langevin
    parametrisation; network, steps and sigma2 are those of the other rows, not of their own code.

    `method` is one of `METHODS`, or one followed by "+Few": the same, but trained on few random
    steps first (`coarse_steps` and `coarse_fraction`, and nothing else, are other than without;
    in the quick profile, which trains so anyway, nothing is).

    Raises:
        ValueError: for an unknown task, method or profile, naming what is allowed.
    """
    row = str(method).removesuffix(SUFFIX)
    tables = {"task": (task, TASKS), "profile": (profile, PROFILES), "method": (row, METHODS)}
    given = {"task": task, "profile": profile, "method": method}
    for argument, (name, table) in tables.items():
        if name not in table:
            more = f" (each may end in {SUFFIX})" if argument == "method" else ""
            allowed = ", ".join(table) + more
            raise ValueError(f"{argument}={shown(given[argument])} is unknown; allowed: {allowed}")
    changes = {name: value for name, value in changes.items() if value is not None}
    return _cell(task, str(method), profile).replace(**changes | dict(settings))


@cache  # a grid has few cells and many changes to each; the tables are not changed once used
def _cell(task: str, method: str, profile: str) -> Config:
    """A known cell of the tables as it stands there."""
    row = method.removesuffix(SUFFIX)
    parts = METHODS[row] + ["Few"] * (row != method)
    chosen = TASKS[task] | PROFILES[profile]
    for part in parts:
        chosen |= BASES.get(part, {}) | EXTRAS.get(part, {})
    # Particles start as wide as exploration would reach, where it is not known how wide that is.
    if not {"Expl", "MLE"} & set(parts) or "Std" in parts:
        chosen["exploration"] = 0.0
    for name in (task, *parts, *(f"{task} {part}" for part in parts)):
        chosen |= EXCEPTIONS[profile].get(name, {})
    return Config(**chosen)


def default_preset(task: str, robust: bool) -> Config:
    """What `GFNDiffusion` starts from when it is given no config: quick, of the task if known.

    The robust one finds place, scale and modes by itself, for any target with a gradient and no
    condition; the other is trajectory balance, with the exploration that suits a known task.
    """
    if robust:  # Std leaves nothing of what an unknown task borrows from 25GMM
        return preset(task if task in TASKS else "25gmm", "MLE+LV+Std", "quick")
    return preset(task, "TB+Expl", "quick") if task in TASKS else Config(**PROFILES["quick"])
