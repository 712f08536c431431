"""GFNDiffusion: a diffusion model that learns to sample from exp(-E(x))."""

import dataclasses
import io
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from . import metrics
from .config import Config
from .files import write_bytes
from .nets import DriftNet
from .presets import TASKS, preset
from .process import PinnedBrownian, time_grid
from .rollout import Trajectory, backward_rollout, forward_rollout
from .targets import Target, as_target, named_target
from .train import train

__all__ = ["GFNDiffusion"]

DEFAULT_METHOD = "TB+Expl"
CHECKPOINT_FORMAT = 1


class GFNDiffusion:
    """A diffusion sampler trained as a generative flow network (Sendera et al., arXiv:2402.05098).

    Args:
        energy_fn: a `Target`, or any callable E(x): (B, d) -> (B,).
        dim: dimension d; needed for a callable.
        config: settings; None takes the quick preset of a known task, else `Config()`.
        seed: of the network's start and of all noise; the same seed gives the same sampler.
        device: where to train; None takes a GPU if there is one.
        **overrides: single settings of the config, as `Config.replace` takes them.

    Raises:
        ValueError: for a setting that is not allowed, or an energy with a wrong shape or NaN.
        TypeError: if `energy_fn` is not a target nor a callable.
    """

    def __init__(
        self,
        energy_fn: Target | Callable[[Tensor], Tensor],
        dim: int | None = None,
        config: Config | None = None,
        seed: int = 0,
        device: torch.device | str | None = None,
        **overrides,
    ):
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
            raise ValueError(f"seed={seed!r} must be an integer from 0 to 2**32 - 1")
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.target = as_target(energy_fn, dim).to(self.device)
        if config is None:
            known = self.target.name in TASKS
            config = preset(self.target.name, DEFAULT_METHOD, "quick") if known else Config()
        self.config, self.seed = config.replace(**overrides), seed
        self.process = PinnedBrownian(self.config.sigma2)
        with torch.random.fork_rng(devices=[]):  # module initialisers know only the global state
            torch.manual_seed(seed)
            net = DriftNet(self.target.dim, self.config.hidden, self.config.layers)
        self.net = net.to(self.device)
        self.log_z = nn.Parameter(torch.zeros((), device=self.device))
        self.optimiser = torch.optim.Adam(
            [
                {"params": list(self.net.parameters()), "lr": self.config.lr},
                {"params": [self.log_z], "lr": self.config.lr_log_z},
            ],
            fused=True,
        )
        for group in self.optimiser.param_groups:
            group["initial_lr"] = group["lr"]
        # Training, its grids (made on the CPU) and the user's samples each have their own random
        # stream, so that drawing samples never changes the training that follows.
        self.generators = {
            "train": torch.Generator(self.device).manual_seed(seed),
            "grid": torch.Generator().manual_seed(seed),
            "sample": torch.Generator(self.device).manual_seed(seed + 2**32),
        }
        self.iteration, self.energy_calls, self.seconds = 0, 0, 0.0
        self.history: list[dict] = []
        self._probe()

    def _probe(self) -> None:
        generator = torch.Generator(self.device).manual_seed(0)
        shape = (8, self.target.dim)
        x = self.config.sigma2**0.5 * torch.randn(shape, generator=generator, device=self.device)
        with torch.no_grad():
            log_reward = self.target.log_reward(x)
        if log_reward.isnan().any():
            raise ValueError(
                f"energy of target '{self.target.name}' is NaN at {int(log_reward.isnan().sum())} "
                f"of 8 points drawn from N(0, {self.config.sigma2:g} I)"
            )

    def fit(
        self,
        iterations: int | None = None,
        folder: str | Path | None = None,
        progress: bool = True,
    ) -> "GFNDiffusion":
        """Train, by default for what is left of `config.iterations`; call again to go on.

        Args:
            iterations: number of steps to take now.
            folder: where checkpoint.pt and history.jsonl are kept. A checkpoint found there is
                resumed exactly: the result is that of a training never interrupted.
            progress: show a progress bar on stderr.

        Raises:
            ValueError: if the folder's checkpoint belongs to other settings, target or seed.
            FloatingPointError: if the energy or the network stops being finite.
        """
        if iterations is not None and (type(iterations) is not int or iterations < 0):
            raise ValueError(f"iterations={iterations!r} must be a non-negative integer")
        folder = Path(folder) if folder is not None else None
        if folder and (folder / "checkpoint.pt").exists():
            self._restore(_read_checkpoint(folder / "checkpoint.pt"), folder / "checkpoint.pt")
        left = max(0, self.config.iterations - self.iteration)
        train(self, left if iterations is None else iterations, folder, progress)
        return self

    def trajectory(
        self,
        batch_size: int | None = None,
        x: Tensor | None = None,
        steps: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Trajectory:
        """Trajectories: `batch_size` generated by P_F, or one destroyed by P_B from each x (B, d).

        `steps` may differ from the training's. Raises ValueError unless exactly one of
        `batch_size` and `x` is given, and for an `x` of another dimension.
        """
        if (batch_size is None) == (x is None):
            raise ValueError("give exactly one of batch_size and x")
        grid = time_grid(self.config.steps if steps is None else steps).to(self.device)
        parts = (self.net, self.process, self.target, grid)
        generator = generator or self.generators["sample"]
        if x is None:
            if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
                raise ValueError(f"batch_size={batch_size!r} must be a positive integer")
            return forward_rollout(*parts, batch_size, generator=generator)
        if x.ndim != 2 or x.shape[1] != self.target.dim:
            raise ValueError(f"x has shape {tuple(x.shape)}, must be (B, {self.target.dim})")
        return backward_rollout(*parts, x.to(self.device), generator)

    def sample(self, batch_size: int = 256, steps: int | None = None) -> Tensor:
        """Samples (batch_size, d), by `steps` transitions (default: as configured)."""
        return self.trajectory(batch_size, steps=steps).x[-1]

    def log_weight(
        self, batch_size: int | None = None, x: Tensor | None = None, steps: int | None = None
    ) -> Tensor:
        """log w (B,) of new trajectories, generated or destroyed from `x`: see `trajectory`."""
        return self.trajectory(batch_size, x, steps).log_weight

    def evaluate(
        self, n_samples: int = 20_000, steps: int | None = None, seed: int = 0
    ) -> metrics.Evaluation:
        """How good the sampler is; the same seed gives the same answer.

        Keys: elbo, eubo, log_z_is, log_z_learned, ess, w2, w2_floor (both on at most 2000
        samples), modes, mode_weights, energy_calls, n_samples. What needs a truth that the target
        does not know is None.

        Raises:
            ValueError: if `n_samples` is below 2, or `steps` is not a positive integer.
        """
        return metrics.evaluate(self, n_samples, steps, seed)

    def save(self, path: str | Path) -> None:
        """Write all that is needed to sample or to go on training; a failure keeps the old file."""
        state = {
            "format": CHECKPOINT_FORMAT,
            "target": self.target.name,
            "dim": self.target.dim,
            "config": dataclasses.asdict(self.config),
            "seed": self.seed,
            "net": self.net.state_dict(),
            "log_z": self.log_z.detach(),
            "optimiser": self.optimiser.state_dict(),
            "generators": {name: g.get_state() for name, g in self.generators.items()},
            "iteration": self.iteration,
            "energy_calls": self.energy_calls,
            "seconds": self.seconds,
            "history": self.history,
        }
        buffer = io.BytesIO()
        torch.save(state, buffer)
        write_bytes(path, buffer.getvalue())

    @classmethod
    def load(
        cls,
        path: str | Path,
        energy_fn: Target | Callable[[Tensor], Tensor] | None = None,
        device: torch.device | str | None = None,
    ) -> "GFNDiffusion":
        """The sampler saved at `path`; `energy_fn` is needed unless its target is a known task.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it is not a whole checkpoint, or belongs to another target.
        """
        state = _read_checkpoint(Path(path))
        if energy_fn is None:
            try:
                energy_fn = named_target(state["target"])
            except ValueError:
                raise ValueError(
                    f"checkpoint {path} was trained on '{state['target']}', which is no known "
                    "task: pass its energy_fn"
                ) from None
        dim = None if isinstance(energy_fn, Target) else state["dim"]
        sampler = cls(energy_fn, dim, Config(**state["config"]), state["seed"], device)
        sampler._restore(state, Path(path))
        return sampler

    def _restore(self, state: dict, path: Path) -> None:
        mine = {"target": self.target.name, "dim": self.target.dim, "seed": self.seed}
        mine |= dataclasses.asdict(self.config)
        theirs = {key: state[key] for key in ("target", "dim", "seed")} | state["config"]
        for key, value in mine.items():
            if theirs.get(key) != value:
                raise ValueError(
                    f"checkpoint {path} has {key}={theirs.get(key)!r}, this sampler {value!r}"
                )
        self.net.load_state_dict(state["net"])
        self.log_z.data.copy_(state["log_z"])
        self.optimiser.load_state_dict(state["optimiser"])
        for name, generator in self.generators.items():
            generator.set_state(state["generators"][name])
        self.iteration, self.energy_calls = state["iteration"], state["energy_calls"]
        self.seconds, self.history = state["seconds"], list(state["history"])


def _read_checkpoint(path: Path) -> dict:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as error:
        raise ValueError(f"{path} is not a whole gfnlite checkpoint") from error
    if not isinstance(state, dict) or state.get("format") != CHECKPOINT_FORMAT:
        raise ValueError(f"{path} is not a gfnlite checkpoint of format {CHECKPOINT_FORMAT}")
    return state
