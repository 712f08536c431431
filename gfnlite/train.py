"""The training loop: schedules, one optimiser step, replay, progress, history and checkpoints."""

import json
import math
import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from . import metrics, objectives
from .energy import given
from .files import write_bytes
from .local_search import mala
from .process import time_grid
from .rollout import gradient
from .smc import annealed_smc
from .trajectory import Trajectory

if TYPE_CHECKING:
    from .sampler import GFNDiffusion

__all__ = ["Callback", "exploration_at", "learning_rate_factor", "train", "train_step"]

Callback = Callable[["GFNDiffusion", dict], None]  # called with each entry of the history

LOGS = 60  # entries in the history of a training run
LOG_SAMPLES = 500  # trajectories behind each ELBO and EUBO in the history ...
LOG_NUMBERS = 20_000_000  # ... unless their states are more than so many numbers
CHECKPOINT_SECONDS = 30


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


def train_step(sampler: "GFNDiffusion") -> torch.Tensor:
    """One optimiser step on one batch, generated or replayed; its loss ()."""
    config = sampler.config
    progress = min(1.0, sampler.iteration / sampler.planned)
    if config.coarse_steps and progress < config.coarse_fraction:
        grid = time_grid(config.coarse_steps, "random", sampler.generators["grid"])
    else:
        grid = time_grid(config.steps, config.grid)
    for group in sampler.optimiser.param_groups:
        group["lr"] = group["initial_lr"] * learning_rate_factor(config, progress)

    replayed = replays(config, sampler.iteration) and len(sampler.replayed) > 0
    if replayed:
        trajectory = _destroyed(sampler, grid)
        name = config.replay_objective or config.objective
    else:
        trajectory = _generated(sampler, grid, exploration_at(config, progress))
        name = config.objective
    # Reading a value makes a GPU wait, so there a bad batch is found at the next log instead.
    if sampler.device.type == "cpu":
        _refuse_non_finite(trajectory, sampler.iteration)
    if not replayed and "policy" in sampler.buffers:
        _remember(sampler, trajectory)
    if config.warm_log_z and sampler.iteration == 0:
        # From 0 Adam would take |log Z| / lr_log_z steps to get there, and all else would wait.
        sampler.policy.start_log_z(trajectory.log_weight.mean())
    sampler.optimiser.zero_grad(set_to_none=True)
    if name == "reverse_kl":
        loss = objectives.reverse_kl(trajectory)
        loss.backward(inputs=list(sampler.policy.parameters()))  # not those of a user's energy
    else:
        loss = gradient(sampler.policy, trajectory, objective(name, config))
    if config.grad_clip is not None:
        torch.nn.utils.clip_grad_norm_(sampler.policy.kernels(), config.grad_clip)
    sampler.optimiser.step()
    sampler.iteration += 1
    sampler.energy_calls += trajectory.energy_calls
    if config.ls_every and (sampler.iteration - 1) % config.ls_every == 0:
        _search(sampler)
    return loss.detach()


def objective(name: str, config) -> Callable[[Trajectory], torch.Tensor]:
    """The objective of that name with the config's settings."""
    if name == "subtb":
        return partial(objectives.subtb, lam=config.subtb_lambda)
    return getattr(objectives, name)


def _generated(sampler: "GFNDiffusion", grid: torch.Tensor, exploration: float) -> Trajectory:
    """A batch from P_F with exploration."""
    config, generator = sampler.config, sampler.generators["train"]
    condition, repeats = None, None
    if sampler.target.condition_dim:
        repeats = config.repeats or 1
        drawn = sampler.target.sample_condition(config.batch_size // repeats, generator)
        condition = drawn.to(sampler.device).repeat_interleave(repeats, 0)
    trajectory = sampler.rollout(
        grid, config.batch_size, condition=condition, exploration=exploration,
        generator=generator, differentiable=config.objective == "reverse_kl",
    )  # fmt: skip
    trajectory.repeats = repeats
    return trajectory


def _remember(sampler: "GFNDiffusion", trajectory: Trajectory) -> None:
    """Keep the ends of a generated batch, weighted for the law that really drew them.

    With conditions a weight is relative to log Z_theta(c), or easy conditions would crowd out the
    others: E[w] is Z(c).
    """
    tr = trajectory
    with torch.no_grad():
        log_weight = tr.log_weight - tr.log_proposal
        if tr.condition is not None:
            log_weight = log_weight - sampler.policy.log_z(tr.condition)
    sampler.buffers["policy"].add(tr.x[-1], tr.log_reward, log_weight, tr.condition)


def _destroyed(sampler: "GFNDiffusion", grid: torch.Tensor) -> Trajectory:
    """A batch from P_B, from replayed samples."""
    config, generator = sampler.config, sampler.generators["train"]
    repeats = (config.repeats or 1) if sampler.target.condition_dim else None
    kept = sampler.replayed.sample(config.batch_size // (repeats or 1), generator)
    x, log_reward, condition = (
        part if part is None else part.repeat_interleave(repeats or 1, 0)
        for part in (kept.x, kept.log_reward, kept.condition)
    )
    trajectory = sampler.rollout(
        grid, x=x, condition=condition, generator=generator, log_reward=log_reward
    )
    trajectory.repeats = repeats
    return trajectory


def _search(sampler: "GFNDiffusion") -> None:
    """Local search: MALA from samples of the policy; all kept states go into the search buffer.

    MALA leaves R^(1 / temperature) invariant, so for that a state has the importance weight of its
    start; the weights for R differ by R^(1 - 1 / temperature), at the start and at the state.
    """
    config, generator = sampler.config, sampler.generators["train"]
    starts = sampler.buffers["policy"].sample(config.batch_size, generator)
    chains = mala(
        sampler.target, starts.x, condition=starts.condition, steps=config.ls_steps,
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


def _prefill(sampler: "GFNDiffusion") -> None:
    """Particles of annealed SMC, from as wide as exploration reaches, into the search buffer."""
    config = sampler.config
    scale = math.sqrt(sampler.process.end_variance() + config.exploration)
    found = annealed_smc(
        sampler.target, config.prefill, scale, generator=sampler.generators["train"],
        device=sampler.device,
    )  # fmt: skip
    sampler.energy_calls += found.energy_calls
    if found.log_z == -math.inf:
        raise FloatingPointError(
            f"prefill={config.prefill}: annealed SMC did not arrive at target "
            f"'{sampler.target.name}'; the energy is infinite or too rough nearly everywhere"
        )
    weight = torch.full_like(found.log_reward, found.log_z)
    sampler.buffers["search"].add(found.x, found.log_reward, weight)


def _refuse_non_finite(trajectory: Trajectory, iteration: int) -> None:
    """Name the term that is not finite, before it reaches the weights."""
    if trajectory.log_weight.isfinite().all():
        return
    log_reward, score = trajectory.log_reward, trajectory.score
    bad = int((~log_reward.isfinite()).sum())
    if trajectory.x.isfinite().all() and bad:
        kind = "NaN" if log_reward.isnan().any() else "an infinite value"
        raise FloatingPointError(
            f"iteration {iteration}: energy returned {kind} at {bad} of {len(log_reward)} finite "
            "points; it must be finite on all of R^d (clamp it, or reduce sigma2 or exploration)"
        )
    if score is not None and score.isnan().any():
        bad = int(score.isnan().any(-1).sum())
        raise FloatingPointError(
            f"iteration {iteration}: gradient of the energy is NaN at {bad} of "
            f"{score[..., 0].numel()} states; make the energy smooth there, or set langevin=False"
        )
    terms = {"P_F": trajectory.ratio_pf, "P_B": trajectory.ratio_pb, "log Z": trajectory.log_z}
    worst = next((name for name, value in terms.items() if not value.isfinite().all()), "P_F")
    raise FloatingPointError(
        f"iteration {iteration}: the drift network diverged ({worst} is not finite); reduce lr "
        "(or lr_log_z), or set grad_clip"
    )


def train(
    sampler: "GFNDiffusion",
    iterations: int,
    folder: Path | None = None,
    progress: bool = True,
    callbacks: Iterable[Callback] = (),
) -> None:
    """Take `iterations` steps; keep a checkpoint and history.jsonl in `folder`, if there is one."""
    end = sampler.iteration + iterations
    sampler.planned = max(sampler.planned, end)  # the schedules stretch to a later end
    log_every = max(1, sampler.config.iterations // LOGS)
    bar = _progress_bar(sampler.iteration, end, progress)
    started, before, saved = time.monotonic(), sampler.seconds, time.monotonic()
    if sampler.config.prefill and iterations and not len(sampler.buffers["search"]):
        _prefill(sampler)
    with bar or nullcontext():
        while sampler.iteration < end:
            loss = train_step(sampler)
            if bar:
                bar.update(1)
            if sampler.iteration % log_every and sampler.iteration < end:
                continue
            sampler.seconds = before + time.monotonic() - started
            entry = _measure(sampler, loss)
            sampler.history.append(entry)
            if bar:
                bar.set_postfix_str(f"ELBO {entry['elbo']:.2f}", refresh=False)
            for callback in callbacks:
                callback(sampler, entry)
            if folder and time.monotonic() - saved > CHECKPOINT_SECONDS:
                save(sampler, folder)
                saved = time.monotonic()
    if folder:
        save(sampler, folder)


def save(sampler: "GFNDiffusion", folder: Path) -> None:
    """Write checkpoint.pt and the history up to it."""
    sampler.save(folder / "checkpoint.pt")
    lines = "".join(json.dumps(entry) + "\n" for entry in sampler.history)
    write_bytes(folder / "history.jsonl", lines.encode())


def _measure(sampler: "GFNDiffusion", loss: torch.Tensor) -> dict:
    """One entry of the history; its own random state, so that logging never changes training."""
    generator = torch.Generator(sampler.device).manual_seed(sampler.iteration)
    condition, target = None, sampler.target
    n = max(16, min(LOG_SAMPLES, LOG_NUMBERS // (sampler.config.steps * target.dim)))
    if target.condition_dim:
        condition = target.sample_condition(n, generator).to(sampler.device)
    grid = time_grid(sampler.config.steps, sampler.config.grid)
    generated = sampler.rollout(grid, n, condition=condition, generator=generator)
    _refuse_non_finite(generated, sampler.iteration)
    upper = None
    if target.sample is not None:
        exact = target.sample(n, generator, *given(condition))
        destroyed = sampler.rollout(grid, x=exact, condition=condition, generator=generator)
        upper = metrics.eubo(destroyed.log_weight)
    return {
        "iteration": sampler.iteration,
        "seconds": round(sampler.seconds, 3),
        "energy_calls": sampler.energy_calls,
        "loss": loss.item(),
        "log_z": sampler.log_z_learned,
        "elbo": metrics.elbo(generated.log_weight),
        "eubo": upper,
    }


def _progress_bar(start: int, end: int, wanted: bool):
    if not wanted:
        return None
    try:
        from tqdm import tqdm
    except ImportError:  # an extra: training works without it
        return None
    return tqdm(total=end, initial=start, desc="training", unit="it", mininterval=0.5)
