"""Every setting of a training run, in one validated record."""

import operator
from dataclasses import dataclass

from .arguments import shown
from .settings import Settings, setting

__all__ = ["Config", "integer"]


@dataclass(frozen=True)
class Config(Settings):
    """Settings of a sampler and its training; `Config.describe()` lists them with their meaning.

    Raises:
        ValueError: for a value of the wrong type or out of range, naming setting and value.
    """

    # what is optimised
    objective: str = setting(
        "tb", "loss of a trajectory", choices=("tb", "vargrad", "db", "subtb", "reverse_kl")
    )
    subtb_lambda: float = setting(2.0, "weight of a part by its length, for subtb", above=0)
    forward_looking: bool = setting(False, "state flows start from partial energies (db, subtb)")
    repeats: int | None = setting(
        None, "trajectories per condition in a batch, if there are conditions; None: 1", low=1
    )
    # the process and its kernels
    process: str = setting("pinned", "reference process", choices=("pinned", "vp"))
    schedule: str = setting("linear", "noise schedule of vp", choices=("linear", "cosine"))
    sigma2: float = setting(
        1.0, "variance of the reference process per unit time", above=0, low=1e-12, high=1e12
    )
    standardise: bool = setting(
        False, "train in uncorrelated coordinates of mean 0, found by a pilot"
    )
    steps: int = setting(100, "transitions T of a trajectory", low=1, high=10_000)
    grid: str = setting("uniform", "times of the transitions", choices=("uniform", "cosine"))
    coarse_steps: int | None = setting(
        None, "train first on random grids of this many steps; None: never", low=1, high=10_000
    )
    coarse_fraction: float = setting(
        0.8, "fraction of the training that is coarse, if coarse_steps is set", low=0, high=1
    )
    langevin: bool = setting(False, "the drift has a learned multiple of the score (LP)")
    detach_score: bool = setting(
        False, "reverse KL takes that score for a constant, as the paper's code does"
    )
    learn_variance: bool = setting(False, "P_F's variance is learned")
    learn_backward: bool = setting(False, "P_B's mean and variance are learned")
    hidden: int = setting(64, "width of the networks", low=1, high=65_536)
    layers: int = setting(2, "joint hidden layers of the networks", low=1, high=100)
    # training
    batch_size: int = setting(300, "trajectories B in a training batch", low=1, high=10**7)
    iterations: int = setting(4000, "training steps", low=1, high=10**12)
    exploration: float = setting(
        0.0,
        "variance per unit time added to the sampling noise at first (vp: per unit of its own)",
        low=0,
        high=1e12,
    )
    exploration_decay: float = setting(
        0.5, "fraction of training in which its standard deviation falls linearly to 0",
        above=0, high=1,
    )  # fmt: skip
    lr: float = setting(3e-3, "Adam's learning rate of the kernels", above=0, high=10)
    lr_log_z: float = setting(0.1, "Adam's learning rate of log Z_theta", above=0, high=1000)
    warm_log_z: bool = setting(True, "log Z_theta starts at the first batch's mean log w, not 0")
    lr_flow: float = setting(1e-2, "Adam's learning rate of the state flow", above=0, high=10)
    lr_decay: float = setting(
        0.5, "last fraction of training in which the rates fall linearly to 0", low=0, high=1
    )
    grad_clip: float | None = setting(None, "largest norm of the kernels' gradient", above=0)
    amp: bool = setting(False, "networks in bfloat16 where that is safe")
    # off-policy
    replay_ratio: float = setting(
        0.0, "fraction of the training steps on replayed samples", low=0, high=1
    )
    prefill: int | None = setting(
        None, "replay this many particles of annealed SMC, found before training", low=2
    )
    replay_capacity: int = setting(600_000, "samples that each buffer holds", low=1, high=10**9)
    replay_priority: str = setting(
        "rank", "which samples are replayed", choices=("uniform", "rank", "reward", "weight")
    )
    replay_objective: str | None = setting(
        None, "loss of replayed samples; None: the objective",
        choices=("tb", "vargrad", "db", "subtb", "mle"),
    )  # fmt: skip
    rank_weight: float = setting(0.01, "k in the rank priority 1 / (k N + rank)", above=0)
    replay_ess: float = setting(
        0.1, "priorities by reward or weight are tempered to this ESS", above=0, high=1
    )
    ls_every: int | None = setting(None, "iterations between local searches; None: never", low=1)
    ls_steps: int = setting(200, "MALA steps of a local search", low=1)
    ls_burn_in: int = setting(100, "of which not kept, while the step size adapts", low=0)
    ls_step_size: float = setting(0.01, "first step size of MALA", above=0)
    ls_temperature: float = setting(1.0, "MALA samples R^(1 / temperature)", above=0)

    @property
    def learns_log_z(self) -> bool:
        """Whether any loss that is used has log Z_theta in it."""
        used = {self.replay_objective or self.objective}
        if self.replay_ratio < 1:
            used.add(self.objective)
        return used & {"tb", "db", "subtb"} != set()

    @property
    def has_flow(self) -> bool:
        """Whether the objective needs a state flow."""
        return {self.objective, self.replay_objective} & {"db", "subtb"} != set()

    def _conflicts(self) -> list[tuple[bool, str]]:
        replay, group = self.replay_ratio > 0, self.repeats or self.batch_size
        losses = {self.objective, self.replay_objective}
        return [
            (
                "vargrad" in losses and group < 2,
                f"{'repeats' if self.repeats else 'batch_size'}={group} with objective='vargrad': "
                "a variance needs at least 2 trajectories",
            ),
            (
                self.forward_looking and not self.has_flow,
                f"forward_looking=True with objective={self.objective!r}: only db and subtb have "
                "the state flow that looks forward",
            ),
            (
                self.objective == "reverse_kl" and (replay or self.exploration > 0),
                f"objective='reverse_kl' with replay_ratio={self.replay_ratio:g}, exploration="
                f"{self.exploration:g}: it can only learn on-policy, set both to 0",
            ),
            (
                self.detach_score and not (self.langevin and self.objective == "reverse_kl"),
                f"detach_score=True with objective={self.objective!r}, langevin={self.langevin}: "
                "only reverse_kl can hold the score fixed, and only with langevin there is one",
            ),
            (
                not replay and (self.replay_objective or self.ls_every or self.prefill) is not None,
                "replay_objective, ls_every and prefill need replayed samples: set replay_ratio "
                f"above 0, not {self.replay_ratio:g}",
            ),
            (
                self.replay_ratio == 1 and not self.prefill,
                f"replay_ratio={self.replay_ratio:g} needs prefill: nothing else would be replayed",
            ),
            (
                self.replay_ratio == 1 and self.ls_every is not None,
                f"ls_every={self.ls_every} with replay_ratio=1: nothing is generated for the "
                "search to start from",
            ),
            (
                self.ls_every is not None and self.ls_burn_in >= self.ls_steps,
                f"ls_burn_in={self.ls_burn_in} must be below ls_steps={self.ls_steps}",
            ),
            (
                self.batch_size % (self.repeats or 1) != 0,
                f"batch_size={self.batch_size} must be a multiple of repeats={self.repeats}",
            ),
        ]


def integer(name: str, value, least: int, most: int | None = None) -> int:
    """`value` as a Python integer; NumPy's are taken too.

    Raises:
        ValueError: if it is no integer, or not from `least` to `most`.
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    fits = number is not None and number >= least and (most is None or number <= most)
    if isinstance(value, bool) or not fits:
        limit = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise ValueError(f"{name}={shown(value)} must be an integer {limit}")
    return number
