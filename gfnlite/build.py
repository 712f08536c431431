"""From a config to the parts of a sampler, and a look at the energy before anything is trained."""

import traceback
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch

from .arguments import device
from .config import Config, integer
from .coordinates import Standardised, standardised
from .evaluation import has_score
from .policy import Policy
from .presets import default_preset
from .process import PinnedBrownian, VariancePreserving
from .replay import ReplayBuffer
from .targets import Target, check_target

__all__ = [
    "buffers", "defaults", "device", "generators", "group", "optimiser", "policy", "probe",
    "process",
]  # fmt: skip


PILOTED = 500  # most dimensions whose covariance a pilot measures by default


def generators(seed: int, device: torch.device) -> dict[str, torch.Generator]:
    """Random streams of training, of its grids (made on the CPU) and of the user's samples.

    They are three, so that drawing samples never changes the training that follows. The grids are
    the same for all seeds, as a schedule is: so samplers can be trained together on one.

    Raises:
        ValueError: for a seed that is not allowed.
    """
    seed = integer("seed", seed, 0, 2**32 - 1)
    return {
        "train": torch.Generator(device).manual_seed(seed),
        "grid": torch.Generator().manual_seed(0),
        "sample": torch.Generator(device).manual_seed(seed + 2**32),
    }


def defaults(
    target: Target, overrides: Mapping, device: torch.device
) -> tuple[Config, Standardised | None]:
    """Settings where no config is given, before the overrides; and the coordinates that they need.

    Without overrides they are robust, wherever a pilot can see the target: it takes no condition,
    its energy has a gradient, and the pilot arrives.
    """
    if not overrides and not target.condition_dim and target.dim <= PILOTED:
        if has_score(target, torch.full((2, target.dim), 0.1, device=device)):
            config = default_preset(target.name, robust=True)
            try:
                return config, standardised(target, config.sigma2, device)
            except ValueError as problem:
                warnings.warn(f"{problem}; trained by trajectory balance", stacklevel=3)
    config = default_preset(target.name, robust=False)
    if overrides.get("objective") == "reverse_kl":  # it cannot explore
        config = config.replace(exploration=0.0)
    return config, None


def process(config: Config) -> PinnedBrownian | VariancePreserving:
    """The reference process."""
    if config.process == "pinned":
        return PinnedBrownian(config.sigma2)
    return VariancePreserving(config.sigma2, config.schedule)


def policy(config: Config, target: Target, seed: int) -> Policy:
    """The networks at their start, on the CPU; the global random state stays as it is."""
    with torch.random.fork_rng(devices=[]):  # module initialisers know only the global state
        torch.manual_seed(seed)
        return Policy(
            target.dim, config.hidden, config.layers, target.condition_dim, config.langevin,
            config.learn_variance, config.learn_backward, config.has_flow, config.amp,
        )  # fmt: skip


def optimiser(config: Config, policy: Policy) -> torch.optim.Adam:
    """Adam with a rate each for the kernels, log Z and the flow.

    On a GPU the rates are tensors there, so that a captured step reads what they are now.
    """
    device = policy.forward_net.state.weight.device
    on_gpu = device.type == "cuda"
    groups = [(policy.kernels(), config.lr), (policy.normaliser(), config.lr_log_z)]
    groups += [(policy.flows(), config.lr_flow)] if config.has_flow else []
    parts = [
        {"params": p, "lr": torch.tensor(lr, device=device) if on_gpu else lr, "initial_lr": lr}
        for p, lr in groups
    ]
    return torch.optim.Adam(parts, fused=True, capturable=on_gpu)


def group(config: Config, target: Target) -> int:
    """How many neighbours in a batch share a condition."""
    return (config.repeats or 1) if target.condition_dim else 1


def buffers(config: Config, target: Target, device: torch.device) -> dict[str, ReplayBuffer]:
    """What is remembered: samples of the policy, and what a search found, by the names of these."""
    names = []
    if config.ls_every or (config.replay_ratio and not config.prefill):
        names.append("policy")
    if config.ls_every or config.prefill:
        names.append("search")
    return {
        name: ReplayBuffer(
            config.replay_capacity, target.dim, target.condition_dim, config.replay_priority,
            rank_weight=config.rank_weight, temper_ess=config.replay_ess, device=device,
            group=group(config, target),
        )
        for name in names
    }  # fmt: skip


def probe(target: Target, config: Config, process, device: torch.device) -> list[float]:
    """Refuse an energy or settings that could not be trained; log R at eight points if all is well.

    Raises:
        ValueError: if the energy is NaN near the origin, has no gradient where one is needed, or
            takes a condition that the settings do not allow for.
        TypeError: if it cannot be called with a state, or with a state and a condition.
    """
    # The same points on every device, or no checkpoint could move to another.
    generator = torch.Generator().manual_seed(0)
    std = process.end_variance() ** 0.5
    x = (std * torch.randn((8, target.dim), generator=generator)).to(device)
    extra = ()
    if target.condition_dim:
        if target.sample_condition is None:
            raise ValueError(f"target '{target.name}' needs conditions to train on")
        losses = (config.objective, config.replay_objective)
        if "vargrad" in losses and group(config, target) < 2:
            raise ValueError(
                f"repeats={config.repeats} with the objective 'vargrad' and conditions: a variance "
                "needs at least 2 trajectories per condition"
            )
        for name in ("prefill", "standardise"):
            if value := getattr(config, name):
                raise ValueError(f"{name}={value} is for targets with no condition")
        extra = (target.to("cpu").sample_condition(8, generator).to(device),)
    try:
        with torch.no_grad():
            log_reward = target.log_reward(x, *extra)
    except TypeError as error:
        called = [Path(f.f_code.co_filename) for f, _ in traceback.walk_tb(error.__traceback__)]
        known = Path(__file__).parent, Path(torch.__file__).parent
        if any(not any(path.is_relative_to(root) for root in known) for path in called):
            raise  # the energy's own mistake
        how = "(x, condition)" if extra else "(x); one with a condition needs conditions=..."
        raise TypeError(
            f"energy of target '{target.name}' cannot be called with {how} [{error}]"
        ) from error
    check_target(target, x, *extra)
    if log_reward.isnan().any():
        raise ValueError(
            f"energy of target '{target.name}' is NaN at {int(log_reward.isnan().sum())} of 8 "
            f"points drawn from N(0, {std**2:g} I)"
        )
    path_wise = config.objective == "reverse_kl"
    if path_wise or config.langevin or config.ls_every or config.prefill or config.standardise:
        target.score(x, *extra)  # raises if it has no gradient
    if config.replay_objective == "mle" and config.replay_priority in ("rank", "reward"):
        warnings.warn(
            f"replay_objective='mle' learns the law of what is replayed, and replay_priority="
            f"{config.replay_priority!r} prefers high rewards: 'uniform' replays particles as they "
            "are",
            stacklevel=3,
        )
    if target.sample is not None and not extra and not config.standardise:
        reached = 4 * (std**2 + config.exploration) ** 0.5
        there = torch.Generator(device).manual_seed(0)
        furthest = target.sample(1000, there).abs().quantile(0.99).item()
        if furthest > reached:
            warnings.warn(
                f"samples of '{target.name}' reach to {furthest:.3g}, training to about "
                f"{reached:.3g}: modes may never be found; gl.suggest_scale proposes sigma2 and "
                "exploration",
                stacklevel=3,
            )
    return log_reward.tolist()
