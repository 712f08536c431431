"""Presets: the settings of each task x method x profile, each written once."""

from .config import Config

__all__ = ["METHODS", "PROFILES", "TASKS", "preset"]

# sigma2: arXiv:2402.05098 (9GMM: as 25GMM). exploration: what the quick profile adds, about
# what is missing between sigma2 and the target's spread; the paper's own value is in `full`.
TASKS = {
    "9gmm": {"sigma2": 5.0, "exploration": 4.0},
    "25gmm": {"sigma2": 5.0, "exploration": 16.0},
    "manywell32": {"sigma2": 1.0, "exploration": 1.0},
}

# Named as in the paper's tables; Expl is exploration noise.
METHODS = {
    "TB": {"objective": "tb", "exploration": 0.0},
    "TB+Expl": {"objective": "tb"},
    "VarGrad": {"objective": "vargrad", "exploration": 0.0},
    "VarGrad+Expl": {"objective": "vargrad"},
}

# smoke: seconds, shows only that the code runs. quick: a minute or two on a laptop. full: the
# paper's setting, where 0.2 more standard deviation in each of 100 steps is a variance of 4.
PROFILES = {
    "smoke": {"steps": 10, "batch_size": 64, "iterations": 40},
    "quick": {"steps": 100, "coarse_steps": 20, "iterations": 4000, "lr": 5e-3},
    "full": {"steps": 100, "iterations": 25_000, "lr": 1e-3, "lr_decay": 0.0, "exploration": 4.0},
}


def preset(task: str, method: str, profile: str) -> Config:
    """The settings of one cell of the paper's tables: later tables win (task, profile, method).

    Raises:
        ValueError: for an unknown task, method or profile, naming what is allowed.
    """
    settings = {}
    tables = {"task": (task, TASKS), "profile": (profile, PROFILES), "method": (method, METHODS)}
    for argument, (name, table) in tables.items():
        if name not in table:
            raise ValueError(f"{argument}={name!r} is unknown; allowed: {', '.join(table)}")
        settings |= table[name]
    return Config(**settings)
