"""Checkpoints: everything that a run needs to go on as if it had never stopped."""

import dataclasses
import io
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from . import build
from .config import Config
from .coordinates import Standardised
from .files import load_state, write_bytes
from .targets import Target, named_target

if TYPE_CHECKING:
    from .sampler import GFNDiffusion

__all__ = ["check", "find", "known_target", "read", "restore", "state_of", "write"]

FORMAT = 4
COUNTS = ("iteration", "planned", "energy_calls", "seconds")
IDENTITY = ("target", "dim", "condition_dim", "seed")  # beside the config


def state_of(sampler: "GFNDiffusion") -> dict:
    """Weights, optimiser, buffers, all random states and the history."""
    return (
        _identity(sampler)
        | {
            "format": FORMAT,
            "config": sampler.config,
            # copies, since in a team they are views of all samplers' parameters
            "policy": {k: v.clone() for k, v in sampler.policy.state_dict().items()},
            "optimiser": sampler.optimiser.state_dict()["state"],  # rates are the schedule's
            "buffers": {name: buffer.state_dict() for name, buffer in sampler.buffers.items()},
            "generators": {name: g.get_state() for name, g in sampler.generators.items()},
            "coordinates": sampler.seen.state_dict() if sampler.config.standardise else None,
            "device": sampler.device.type,
            "fingerprint": sampler.fingerprint,
            "history": list(sampler.history),
        }
        | {name: getattr(sampler, name) for name in COUNTS}
    )


def write(sampler: "GFNDiffusion", path: str | Path) -> None:
    """Write the state to one file, whole or not at all."""
    buffer = io.BytesIO()
    torch.save(state_of(sampler) | {"config": dataclasses.asdict(sampler.config)}, buffer)
    write_bytes(path, buffer.getvalue())


def read(path: str | Path) -> dict:
    """The state in a checkpoint file; data only, nothing in it is executed.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not a whole checkpoint of this format.
    """
    state = load_state(path, "gfnlite checkpoint")
    if state.get("format") != FORMAT:
        raise ValueError(f"{path} is not a gfnlite checkpoint of format {FORMAT}")
    try:
        return state | {"config": Config(**state["config"])}
    except Exception as error:
        raise ValueError(f"{path} is not a whole gfnlite checkpoint: its config") from error


def check(sampler: "GFNDiffusion", state: dict, path: str | Path, seed: int | None = None) -> None:
    """Refuse a state of another target, seed or settings than this sampler's.

    Raises:
        ValueError: if it belongs to another one.
    """
    mine = _identity(sampler) | dataclasses.asdict(sampler.config)
    mine["seed"] = sampler.seed if seed is None else seed
    theirs = {key: state.get(key) for key in IDENTITY} | dataclasses.asdict(state["config"])
    for key, value in mine.items():
        if theirs[key] != value:
            raise ValueError(f"checkpoint {path} has {key}={theirs[key]!r}, this sampler {value!r}")
    here, there = (torch.tensor(s) for s in (sampler.fingerprint, state.get("fingerprint", [])))
    if here.shape != there.shape or not here.allclose(there, rtol=1e-3, atol=1e-3, equal_nan=True):
        raise ValueError(
            f"checkpoint {path} was trained on another energy than this '{sampler.target.name}': "
            "they differ at the same points"
        )


def known_target(state: dict, path: str | Path) -> Target:
    """The target that a state belongs to, by its name.

    Raises:
        ValueError: if that is no known task's.
    """
    try:
        return named_target(state["target"])
    except ValueError:
        raise ValueError(
            f"checkpoint {path} was trained on '{state['target']}', which is no known task: "
            "pass its energy_fn"
        ) from None


def find(
    sampler: "GFNDiffusion", folder: str | Path | None, seed: int | None = None
) -> dict | None:
    """The state in a folder that the sampler, or one of that seed, should go on from, if any.

    Raises:
        ValueError: if it belongs to another sampler, or is behind this one.
    """
    path = None if folder is None else Path(folder) / "checkpoint.pt"
    if path is None or not path.exists():
        return None
    state = read(path)
    check(sampler, state, path, seed)
    if seed is None and sampler.iteration > state.get("iteration", sampler.iteration):
        raise ValueError(
            f"checkpoint {path} is at iteration {state['iteration']}, this sampler already at "
            f"{sampler.iteration}: use another folder"
        )
    return state


def restore(sampler: "GFNDiffusion", state: dict, path: str | Path) -> None:
    """Put a state that `read` returned into a sampler: all of it, or after an error nothing.

    From another kind of device, the sampler keeps its own random streams but the grids'.

    Raises:
        ValueError: if the state belongs to another sampler, or lacks a part.
    """
    check(sampler, state, path)
    config, target, device = sampler.config, sampler.target, sampler.device
    try:
        policy = build.policy(config, target, sampler.seed).to(device)
        policy.load_state_dict(state["policy"])
        optimiser = build.optimiser(config, policy)
        parameters = [p for group in optimiser.param_groups for p in group["params"]]
        for place, moments in state["optimiser"].items():
            if moments["exp_avg"].shape != parameters[place].shape:
                raise ValueError("moments of other parameters")
        rates = optimiser.state_dict()["param_groups"]
        optimiser.load_state_dict({"state": state["optimiser"], "param_groups": rates})
        buffers = build.buffers(config, target, device)
        for name, buffer in buffers.items():
            buffer.load_state_dict(state["buffers"][name])
        generators = build.generators(sampler.seed, device)
        for name, generator in generators.items():
            if name == "grid" or state["device"] == device.type:
                generator.set_state(state["generators"][name])
        seen = target  # which may have moved to another device
        if config.standardise:
            seen = Standardised(target, **state["coordinates"]).to(device)
        counts = {name: state[name] for name in COUNTS} | {"history": list(state["history"])}
    except Exception as error:
        raise ValueError(
            f"checkpoint {path} is damaged: {type(error).__name__} in one of its parts"
        ) from error
    parts = {"policy": policy, "optimiser": optimiser, "buffers": buffers, "generators": generators}
    vars(sampler).update(parts | counts | {"seen": seen})


def _identity(sampler: "GFNDiffusion") -> dict:
    target = sampler.target
    values = (target.name, target.dim, target.condition_dim, sampler.seed)
    return dict(zip(IDENTITY, values, strict=True))
