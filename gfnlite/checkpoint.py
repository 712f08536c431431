"""Checkpoints: everything that a run needs to go on as if it had never stopped."""

import dataclasses
import io
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from .config import Config
from .files import write_bytes

if TYPE_CHECKING:
    from .sampler import GFNDiffusion

__all__ = ["read", "restore", "state_of", "write"]

FORMAT = 2
IDENTITY = ("target", "dim", "condition_dim", "seed")  # beside the config


def state_of(sampler: "GFNDiffusion") -> dict:
    """Weights, optimiser, buffers, all random states and the history."""
    return _identity(sampler) | {
        "format": FORMAT,
        "config": sampler.config,
        "policy": sampler.policy.state_dict(),
        "optimiser": sampler.optimiser.state_dict(),
        "buffers": {name: buffer.state_dict() for name, buffer in sampler.buffers.items()},
        "generators": {name: g.get_state() for name, g in sampler.generators.items()},
        "iteration": sampler.iteration,
        "energy_calls": sampler.energy_calls,
        "seconds": sampler.seconds,
        "history": sampler.history,
    }


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
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as error:
        raise ValueError(f"{path} is not a whole gfnlite checkpoint") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise ValueError(f"{path} is not a gfnlite checkpoint of format {FORMAT}")
    state["config"] = Config(**state["config"])
    return state


def restore(sampler: "GFNDiffusion", state: dict, path: str | Path, moved: bool = False) -> None:
    """Put a state that `read` returned into a sampler of the same target, seed and settings.

    `moved` from another device, it keeps its own random streams but the grids'.

    Raises:
        ValueError: if it belongs to another one.
    """
    mine = _identity(sampler) | dataclasses.asdict(sampler.config)
    theirs = {key: state[key] for key in IDENTITY} | dataclasses.asdict(state["config"])
    for key, value in mine.items():
        if theirs[key] != value:
            raise ValueError(f"checkpoint {path} has {key}={theirs[key]!r}, this sampler {value!r}")
    sampler.policy.load_state_dict(state["policy"])
    sampler.optimiser.load_state_dict(state["optimiser"])
    for name, buffer in sampler.buffers.items():
        buffer.load_state_dict(state["buffers"][name])
    for name, generator in sampler.generators.items():
        if name == "grid" or not moved:
            generator.set_state(state["generators"][name])
    sampler.iteration, sampler.energy_calls = state["iteration"], state["energy_calls"]
    sampler.seconds, sampler.history = state["seconds"], list(state["history"])


def _identity(sampler: "GFNDiffusion") -> dict:
    target = sampler.target
    values = (target.name, target.dim, target.condition_dim, sampler.seed)
    return dict(zip(IDENTITY, values, strict=True))
