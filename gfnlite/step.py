"""One training step of a team: schedules, a batch generated or replayed, and an optimiser step."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from . import build, objectives
from .local_search import mala
from .process import Steps, time_grid
from .rollout import gradient
from .smc import annealed_smc
from .team import Team
from .trajectory import Trajectory

__all__ = [
    "exploration_at", "learning_rate_factor", "objective", "prefill", "refuse_infinite",
    "refuse_non_finite", "replays", "train_step", "update",
]  # fmt: skip


def exploration_at(config, progress: float) -> float:
    """Added variance per unit time when a fraction `progress` of training is done."""
    return config.exploration * max(0.0, 1 - progress / config.exploration_decay) ** 2


def learning_rate_factor(config, progress: float) -> float:
    """1, then linear to 0 over the last fraction `lr_decay` of training."""
    return min(1.0, (1 - progress) / config.lr_decay) if config.lr_decay else 1.0


def replays(config, iteration: int) -> bool:
    """Whether this iteration is one of the fraction `replay_ratio` that replays: evenly spread."""
    ratio = config.replay_ratio
    return math.floor((iteration + 1) * ratio) > math.floor(iteration * ratio)


def train_step(team: Team) -> Tensor:
    """One optimiser step of each sampler on a batch of its own; their losses (S,)."""
    config = team.config
    progress = min(1.0, team.iteration / team.first.planned)
    for group in team.optimiser.param_groups:
        _set_rate(group, group["initial_lr"] * learning_rate_factor(config, progress))
    if config.coarse_steps and progress < config.coarse_fraction:
        # The same sequence of grids for every seed, as for every schedule.
        grids = [time_grid(config.coarse_steps, "random", g) for g in team.generators("grid")]
        grid = grids[0]
    else:
        grid = time_grid(config.steps, config.grid)
    inputs = vars(team.process.steps(grid, team.device)).copy()
    if replays(config, team.iteration) and len(team.first.replayed) > 0:
        kind, inputs = "replayed", inputs | _replayed(team)
    else:
        kind, inputs = "generated", inputs | _conditions(team)
        if exploration := exploration_at(config, progress):
            inputs["exploration"] = torch.full((), exploration, device=team.device)
    losses, trajectory = team.run(update, kind, inputs)
    if kind == "generated" and "policy" in team.first.buffers:
        _remember(team, trajectory)
    for sampler in team.samplers:
        sampler.iteration += 1
        sampler.energy_calls += trajectory.energy_calls // len(team)
        if config.ls_every and (sampler.iteration - 1) % config.ls_every == 0:
            _search(sampler)
    return losses


def update(team: Team, kind: str, inputs: dict[str, Tensor]) -> tuple[Tensor, Trajectory]:
    """All of a step that a GPU can do with no word from Python: rollout, gradient, optimiser.

    Returns the losses (S,) and the batch. `inputs` is everything that changes from one step to the
    next: the grid's `Steps`, and, where there is any, exploration, condition, x and log_reward.
    """
    config, inputs, repeats = team.config, dict(inputs), build.group(team.config, team.target)
    steps = Steps(*(inputs.pop(field.name) for field in dataclasses.fields(Steps)))
    name = config.objective
    if kind == "replayed":
        name = config.replay_objective or name
        path_wise = name == "mle" and config.learn_backward
        trajectory = team.rollout(
            steps, differentiable=path_wise, record=not path_wise, repeats=repeats, **inputs
        )
    else:
        path_wise = name == "reverse_kl"
        trajectory = team.rollout(
            steps, config.batch_size, differentiable=path_wise, record=not path_wise,
            repeats=repeats, detach_score=config.detach_score, **inputs,
        )  # fmt: skip
    # Reading a value makes a GPU wait, so there a bad batch is found at the next log instead.
    if team.device.type == "cpu":
        refuse_non_finite(trajectory, team.samplers)
    if config.warm_log_z and team.iteration == 0:
        # From 0 Adam would take |log Z| / lr_log_z steps to get there, and all else would wait.
        team.policy.start_log_z(trajectory.log_weight.view(len(team), -1).mean(1))
    team.optimiser.zero_grad(set_to_none=True)
    loss_of, parameters = objective(name, config), list(team.policy.parameters())
    if team.data is not None:  # L_simple + lambda_GFN L_GFN
        streams = team.generators("train"), team.generators("grid")
        team.data(team.policy, *streams).sum().backward(inputs=parameters)
        loss_of = _scaled(loss_of, team)
    if path_wise:
        losses = torch.stack([loss_of(run) for run in trajectory.split()])
        losses.sum().backward(inputs=parameters)  # not a user's energy's
    else:
        losses = gradient(team.policy, trajectory, loss_of)
    if team.device.type == "cpu":
        refuse_infinite(losses, team.samplers)
    if config.grad_clip is not None:
        clip_gradients(team.policy.kernels(), config.grad_clip)
    team.optimiser.step()
    return losses.detach(), trajectory


def _scaled(loss_of: Callable, team: Team) -> Callable[[Trajectory], Tensor]:
    return lambda trajectory: team.data.gfn * loss_of(trajectory)


def _set_rate(group: dict, rate: float) -> None:
    if isinstance(group["lr"], Tensor):  # where a captured step reads it
        group["lr"].fill_(rate)
    else:
        group["lr"] = rate


def clip_gradients(parameters: list[Tensor], most: float) -> None:
    """Scale the gradients (S, ...) of each run down to a norm of at most `most`."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = sum(g.flatten(1).square().sum(1) for g in gradients).sqrt()
    for g in gradients:
        g *= (most / (norm + 1e-6)).clamp(max=1).view(-1, *[1] * (g.ndim - 1))


def objective(name: str, config) -> Callable[[Trajectory], torch.Tensor]:
    """The objective of that name with the config's settings."""
    if name == "subtb":
        return partial(objectives.subtb, lam=config.subtb_lambda)
    return getattr(objectives, name)


def _conditions(team: Team) -> dict[str, Tensor]:
    """The conditions of a generated batch, if there are any."""
    config, target = team.config, team.target
    if not target.condition_dim:
        return {}
    group = build.group(config, target)
    count = config.batch_size // group
    drawn = torch.cat([target.sample_condition(count, g) for g in team.generators("train")])
    return {"condition": drawn.to(team.device).repeat_interleave(group, 0)}


@torch.no_grad()
def _remember(team: Team, trajectory: Trajectory) -> None:
    """Keep the ends of a generated batch, weighted for the law that really drew them.

    With conditions a weight is relative to log Z_theta(c), or easy conditions would crowd out the
    others: E[w] is Z(c).
    """
    for sampler, run in zip(team.samplers, trajectory.split(), strict=True):
        log_weight = run.log_weight - run.log_proposal
        if run.condition is not None:
            log_weight = log_weight - run.log_z
        sampler.buffers["policy"].add(run.x[-1], run.log_reward, log_weight, run.condition)


def _replayed(team: Team) -> dict[str, Tensor]:
    """The ends of a replayed batch, with all that was kept beside them."""
    kept = [
        sampler.replayed.sample(team.config.batch_size, sampler.generators["train"])
        for sampler in team.samplers
    ]
    names = ("x", "log_reward", *(("condition",) if team.target.condition_dim else ()))
    return {name: torch.cat([getattr(batch, name) for batch in kept]) for name in names}


def _search(sampler) -> None:
    """Local search: MALA from samples of the policy; all kept states go into the search buffer.

    MALA leaves R^(1 / temperature) invariant, so for that a state has the importance weight of its
    start; the weights for R differ by R^(1 - 1 / temperature), at the start and at the state.
    """
    config, generator = sampler.config, sampler.generators["train"]
    starts = sampler.buffers["policy"].sample(config.batch_size, generator)
    chains = mala(
        sampler.seen, starts.x, condition=starts.condition, steps=config.ls_steps,
        burn_in=config.ls_burn_in, step_size=config.ls_step_size,
        temperature=config.ls_temperature, generator=generator,
    )  # fmt: skip
    count, condition = len(chains.x), starts.condition
    # drawn with probability p of N, a start of weight w stands for w / (N p)
    weight = starts.log_weight - starts.log_prob - math.log(len(sampler.buffers["policy"]))
    gain = (1 - 1 / config.ls_temperature) * (chains.log_reward - starts.log_reward)
    sampler.buffers["search"].add(
        chains.x.flatten(0, 1),
        chains.log_reward.flatten(),
        (weight + gain).flatten(),
        None if condition is None else condition.repeat(count, 1),
    )
    sampler.energy_calls += chains.energy_calls


def prefill(sampler) -> None:
    """Particles of annealed SMC, from as wide as exploration reaches, into the search buffer.

    In standardised coordinates it is known how wide that has to be.
    """
    config, target = sampler.config, sampler.seen
    scale = math.sqrt(sampler.process.end_variance() + config.exploration)
    if config.standardise:
        scale = target.spread
    found = annealed_smc(
        target, config.prefill, scale, generator=sampler.generators["train"],
        device=sampler.device,
    )  # fmt: skip
    sampler.energy_calls += found.energy_calls
    if found.log_z == -math.inf:
        raise FloatingPointError(
            f"prefill={config.prefill}: annealed SMC did not arrive at target "
            f"'{target.name}'; the energy is infinite or too rough nearly everywhere"
        )
    weight = torch.full_like(found.log_reward, found.log_z)
    sampler.buffers["search"].add(found.x, found.log_reward, weight)


def refuse_non_finite(trajectory: Trajectory, samplers: Sequence) -> None:
    """Name the sampler and the term that is not finite, before it reaches the weights.

    Raises:
        FloatingPointError: if a log-weight is not finite.
    """
    if trajectory.log_weight.isfinite().all():
        return
    for sampler, run in zip(samplers, trajectory.split(), strict=True):
        if not run.log_weight.isfinite().all():
            seed = f"seed {sampler.seed}, " if len(samplers) > 1 else ""
            raise FloatingPointError(f"{seed}iteration {sampler.iteration}: {_what_failed(run)}")


def refuse_infinite(losses: Tensor, samplers: Sequence) -> None:
    """Name the sampler whose loss (S,) is not finite although its log-weights are.

    Raises:
        FloatingPointError: if there is one.
    """
    for sampler, loss in zip(samplers, losses.tolist(), strict=True):
        if not math.isfinite(loss):
            raise FloatingPointError(
                f"seed {sampler.seed}, iteration {sampler.iteration}: the loss is {loss}, though "
                "every log w is finite; if the energy is huge, make it smaller (gl.tempered), or "
                "else reduce lr"
            )


def _what_failed(trajectory: Trajectory) -> str:
    log_reward, score = trajectory.log_reward, trajectory.score
    bad = int((~log_reward.isfinite()).sum())
    if trajectory.x.isfinite().all() and bad:
        kind = "NaN" if log_reward.isnan().any() else "an infinite value"
        return (
            f"energy returned {kind} at {bad} of {len(log_reward)} finite points; it must be "
            "finite on all of R^d (clamp it, or reduce sigma2 or exploration)"
        )
    if score is not None and score.isnan().any():
        bad = int(score.isnan().any(-1).sum())
        return (
            f"gradient of the energy is NaN at {bad} of {score[..., 0].numel()} states; make the "
            "energy smooth there, or set langevin=False"
        )
    terms = {"P_F": trajectory.ratio_pf, "P_B": trajectory.ratio_pb, "log Z": trajectory.log_z}
    worst = next((name for name, value in terms.items() if not value.isfinite().all()), "P_F")
    return (
        f"the drift network diverged ({worst} is not finite); reduce lr (or lr_log_z), or set "
        "grad_clip"
    )
