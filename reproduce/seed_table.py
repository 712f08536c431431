"""What the flags, YAML keys and variables of the code before this project mean here: one table.

They are those of the repository that this project grew from, and of the paper's code.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import gfnlite as gl

ENERGIES = {name: name for name in gl.TASKS} | {
    "many_well": "manywell32", "manywell": "manywell32", "hard_funnel": "funnel",
    "log_cox": "lgcp", "cox": "lgcp",
}  # fmt: skip
OBJECTIVES = {
    "tb": "TB", "tb-avg": "VarGrad", "cond-tb-avg": "VarGrad", "subtb": "FL-SubTB", "pis": "PIS",
}  # fmt: skip
EXPLORATIONS = {"none": set(), "noise": {"Expl"}, "local_search": {"Expl", "LS"}}
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
SWITCH = dict.fromkeys(("1", "true", "yes", "on"), True) | dict.fromkeys(
    ("", "0", "false", "no", "off"), False
)


def _number(value) -> float:
    if isinstance(value, str) and NUMBER.fullmatch(value):
        value = float(value)
    if type(value) not in (int, float) or not abs(value) < math.inf or abs(value) > 1e300:
        raise ValueError("must be a finite number, such as 0.2")
    return float(value)


def _whole(value) -> int:
    if isinstance(value, str) and re.fullmatch(r"[+-]?\d{1,18}", value, re.ASCII):
        value = int(value)
    if type(value) is not int or abs(value) >= 10**18:
        raise ValueError("must be a whole number of at most 18 digits, such as 100")
    return value


def _seed(value) -> int:
    if _whole(value) < 0:
        raise ValueError("must not be negative")
    return _whole(value)


def _switch(value) -> bool:
    found = SWITCH.get(value.lower()) if isinstance(value, str) else value
    if not isinstance(found, bool):
        raise ValueError("must be true or false (a flag without a value is true)")
    return found


def _one_of(known: Mapping) -> Callable:
    def read(value):
        if not (isinstance(value, str) and value in known):
            raise ValueError(f"is unknown; allowed: {', '.join(known)}")
        return known[value]

    return read


def _adds(*parts: str) -> Callable:
    return lambda value: set(parts) if _switch(value) else set()


def _always(read: Callable, fixed) -> Callable:
    def check(value):
        if read(value) != fixed:
            raise ValueError(f"must be {fixed}: it is always so here")

    return check


def _off(value) -> None:
    if not _switch(value):
        raise ValueError("must be true: nothing is logged anywhere else unless use_wandb is said")


@dataclass(frozen=True)
class Row:
    """One name: how it is said, and what it is here.

    Attributes:
        name: after the two dashes of a flag; in capitals it is the environment variable.
        option: part of a run, setting of `gl.Config`, or "-" where there is nothing to choose.
        meaning: in words.
        read: its value from text or YAML; raises ValueError saying what is allowed.
        key: in YAML, with a dot inside `gfn:`.
        yaml_only: whether there is neither flag nor variable.
    """

    name: str
    option: str
    meaning: str
    read: Callable
    key: str = ""
    yaml_only: bool = False

    @property
    def flag(self) -> str | None:
        """On the command line."""
        return None if self.yaml_only else f"--{self.name}"

    @property
    def variable(self) -> str | None:
        """In the environment."""
        return None if self.yaml_only else self.name.upper()

    @property
    def in_yaml(self) -> str:
        """In YAML."""
        return self.key or self.name


class Switch(Row):
    """A row whose flag alone is true, and whose empty variable is false."""


METHOD = "method"
ROWS = (
    Row("energy", "task", "the density", _one_of(ENERGIES), "energy_type"),
    Row("profile", "profile", "smoke, quick or full (the paper's); without it: full",
        _one_of({name: name for name in gl.PROFILES})),
    Row("seed", "seeds", "the run's only seed; without it: 0", _seed),
    Switch("use_wandb", "track", "log to Weights & Biases too; WANDB_MODE=offline works",
        lambda value: "wandb" if _switch(value) else ""),
    # the method
    Row("mode_fwd", METHOD, "the loss, as a row of the paper's tables; subtb looks forward",
        _one_of({name: {part} for name, part in OBJECTIVES.items()})),
    Switch("use_trajectory_balance", METHOD, "true: TB; false: PIS, which needs no balance",
        lambda value: {"TB"} if _switch(value) else {"PIS"}, "gfn.use_trajectory_balance", True),
    Row("exploration", METHOD, "noise: Expl; local_search: Expl and LS; none: neither",
        _one_of(EXPLORATIONS), "gfn.exploration", True),
    Switch("local_search", METHOD, "LS, and Expl with it, as in the paper's rows",
        _adds("Expl", "LS")),
    Switch("exploratory", METHOD, "Expl; without a factor: the paper's", _adds("Expl")),
    Switch("langevin", METHOD, "LP: the drift has a multiple of the score", _adds("LP")),
    # settings
    Row("T", "steps", "transitions of a trajectory", _whole, "diffusion_steps"),
    Row("batch_size", "batch_size", "trajectories in a batch", _whole),
    Row("epochs", "iterations", "training steps", _whole),
    Row("exploration_factor", "exploration",
        "standard deviation f added to each of T steps: variance T f^2 per unit time", _number),
    Row("buffer_size", "replay_capacity", "samples that each buffer holds", _whole,
        "gfn.replay_buffer_size"),
    Row("max_iter_ls", "ls_steps", "MALA steps of a search; half are burn-in if nothing is said",
        _whole),
    Row("burn_in", "ls_burn_in", "of which are not kept", _whole),
    Row("ls_cycle", "ls_every", "iterations between two searches", _whole),
    Row("ld_step", "ls_step_size", "first step size of MALA", _number),
    Switch("both_ways", "replay_ratio", "half of the training is replayed",
        lambda value: 0.5 if _switch(value) else 0.0),
    Row("mode_bwd", "replay_objective", "loss of replayed samples",
        _one_of({"tb": "tb", "tb-avg": "vargrad", "cond-tb-avg": "vargrad", "mle": "mle"})),
    Row("prioritized", "replay_priority", "which samples are replayed",
        _one_of({"none": "uniform", "rank": "rank", "reward": "reward"})),
    Row("rank_weight", "rank_weight", "k of the rank priority", _number),
    Switch("use_amp", "amp", "networks in bfloat16", _switch),
    Row("lr_policy", "lr", "learning rate of the kernels", _number),
    Row("lr_flow", "lr_log_z", "learning rate of log Z; for subtb: of the flow", _number),
    Row("grad_clip", "grad_clip", "largest norm of the gradient; 0: none",
        lambda value: _number(value) or None),
    Row("t_scale", "sigma2", "variance of the reference process per unit time", _number),
    Switch("learned_variance", "learn_variance", "P_F's variance is learned", _switch),
    Row("hidden_dim", "hidden", "width of the networks", _whole),
    Row("joint_layers", "layers", "joint hidden layers", _whole),
    Row("subtb_lambda", "subtb_lambda", "weight of a part by its length", _number),
    Row("repeats", "repeats", "trajectories per condition", _whole),
    # nothing to choose
    Switch("disable_wandb", "-", "it is off unless use_wandb is said", _off),
    Switch("partial_energy", "-", "always so with subtb", _always(_switch, True)),
    Switch("conditional_flow_model", "-", "always so with subtb", _always(_switch, True)),
    Switch("exploration_wd", "-", "exploration always fades", _always(_switch, True)),
    Switch("pis_architectures", "-", "the network is always this", _always(_switch, True)),
    Switch("zero_init", "-", "the last layer always starts at zero", _always(_switch, True)),
    Switch("clipping", "-", "drift and score are always clipped", _always(_switch, True)),
    Row("lr_back", "-", "nothing of P_B is learned", _number),
    Row("lgv_clip", "-", "largest entry of a score", _always(_number, 100.0)),
    Row("gfn_clip", "-", "largest entry of a drift", _always(_number, 10_000.0)),
    Switch("ld_schedule", "-", "MALA's step always adapts", _always(_switch, True)),
    Row("target_acceptance_rate", "-", "what it adapts to", _always(_number, 0.574)),
)  # fmt: skip
