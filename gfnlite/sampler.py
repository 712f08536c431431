"""GFNDiffusion: a diffusion model that learns to sample from exp(-E(x))."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from . import build, checkpoint, metrics
from .arguments import floats, shown
from .config import Config, integer
from .coordinates import Standardised, standardised
from .process import time_grid
from .replay import ReplayBuffer
from .rollout import rollout
from .targets import Target, as_target, check_condition
from .train import Callback, check_fit, train
from .trajectory import Trajectory, importance_resample

if TYPE_CHECKING:
    from .data_loss import DataLoss
    from .ensemble import Ensemble

__all__ = ["GFNDiffusion"]


class GFNDiffusion:
    """A diffusion sampler trained as a generative flow network (Sendera et al., arXiv:2402.05098).

    Args:
        energy_fn: a `Target`, or any callable E(x): (B, d) -> (B,), or E(x, c) with `conditions`.
        dim: dimension d; needed for a callable.
        config: settings; None takes the quick profile: trajectory balance with the `overrides`, or,
            if there are none, the method that needs no tuning (`MLE+LV+Std`) where it can be.
        seed: of the network's start and of all noise; the same seed gives the same sampler, since
            PyTorch's global random state is neither read nor changed.
        device: where to train; None takes a GPU if there is one.
        conditions: (N, c), from which training draws the condition of a callable E(x, c).
        **overrides: single settings of the config, as `Config.replace` takes them.

    Raises:
        ValueError: for a setting that is not allowed, or an energy with a wrong shape or NaN.
        TypeError: if `energy_fn` is not a target nor a callable.
    """

    def __init__(
        self,
        energy_fn: Target | Callable[..., Tensor],
        dim: int | None = None,
        config: Config | None = None,
        seed: int = 0,
        device: torch.device | str | None = None,
        conditions: Tensor | None = None,
        **overrides,
    ):
        self.device = build.device(device)
        self.target = as_target(energy_fn, dim, conditions=conditions).to(self.device)
        seen = None
        if config is None:
            config, seen = build.defaults(self.target, overrides, self.device)
        if not isinstance(config, Config):
            raise TypeError(f"config={shown(config)} must be a gl.Config; gl.preset(...) makes one")
        self.config = config.replace(**overrides)
        self.process = build.process(self.config)
        # What a checkpoint knows its energy by.
        self.fingerprint = build.probe(self.target, self.config, self.process, self.device)
        if self.config.standardise and seen is None:
            seen = standardised(self.target, self.config.sigma2, self.device)
        self.seen = seen or self.target  # as the process, the networks and the buffers see it
        self._start(seed)

    def _start(self, seed: int) -> None:
        """Everything that training changes, as it is before the first step."""
        self.generators = build.generators(seed, self.device)
        self.seed = int(seed)
        self.policy = build.policy(self.config, self.target, seed).to(self.device)
        self.optimiser = build.optimiser(self.config, self.policy)
        self.buffers = build.buffers(self.config, self.target, self.device)
        self.iteration, self.seconds = 0, 0.0
        self.energy_calls = self.seen.energy_calls if self.config.standardise else 0
        self.planned = self.config.iterations  # where the schedules end
        self.history: list[dict] = []

    @property
    def log_z(self) -> Tensor | Callable[[Tensor], Tensor]:
        """log Z_theta, a number () or a function of the condition (B, c) -> (B,)."""
        return self.policy.log_z if self.target.condition_dim else self.policy.log_z()[0]

    @property
    def log_z_learned(self) -> float | None:
        """log Z_theta in nats; None if the objective learns none, or one per condition."""
        one = self.config.learns_log_z and not self.target.condition_dim
        return self.policy.log_z_value.item() if one else None

    @property
    def replayed(self) -> ReplayBuffer:
        """The buffer that training replays from, that of a search if there is one."""
        return self.buffers.get("search", self.buffers.get("policy"))

    def fit(
        self, iterations: int | None = None, folder: str | Path | None = None,
        progress: bool = True, callbacks: Callback | Iterable[Callback] = (),
        device: torch.device | str | None = None, seed: int | None = None,
        seeds: int | Sequence[int] | None = None, compile: bool = False,
        data: "DataLoss | None" = None,
    ) -> "GFNDiffusion | Ensemble":  # fmt: skip
        """Train, by default for what is left of `config.iterations`; call again to go on.

        Past `config.iterations` the schedules stretch: the learning rate rises, to fall again.

        Args:
            iterations: number of steps to take now.
            folder: where checkpoint.pt and history.jsonl are kept. A checkpoint found there is
                gone on from, exactly: the result is that of a training never interrupted.
            progress: show a progress bar on stderr.
            callbacks: each is called as callback(sampler, entry) with every new history entry.
            device: move there first.
            seed: start over with this seed; None goes on.
            seeds: train new samplers with these seeds (a number S: 0 to S - 1) as one program, and
                return them as an `Ensemble`; this sampler stays as it is.
            compile: compile the gradient (a minute, once), or on a GPU capture steps in a graph.
            data: L_simple of data, `DataLoss`; then the loss is that plus its `gfn` times ours.

        Raises:
            ValueError: for a bad number of iterations, seed, device or callback, or if the
                folder's checkpoint belongs to other settings, target or seed, or is behind.
            FloatingPointError: if the energy or the network stops being finite.
        """
        if seeds is not None:
            from .ensemble import Ensemble  # which is made of this class

            if seed is not None:
                raise ValueError(f"give seed={shown(seed)} or seeds={shown(seeds)}, not both")
            place = self.device if device is None else device
            ensemble = Ensemble(self.target, seeds=seeds, config=self.config, device=place)
            options = {"callbacks": callbacks, "compile": compile, "data": data}
            return ensemble.fit(iterations, folder, progress=progress, **options)
        callbacks = check_fit(iterations, callbacks)
        state = checkpoint.find(self, folder, seed)
        if device is not None and build.device(device) != self.device:
            here, self.device = checkpoint.state_of(self), build.device(device)
            self.target = self.target.to(self.device)
            checkpoint.restore(self, here, "in memory")
        if seed is not None:
            self._start(seed)
        if state:
            checkpoint.restore(self, state, folder)
        until = self.config.iterations if iterations is None else self.iteration + iterations
        with torch.enable_grad():
            train([self], until, folder and [Path(folder)], progress, callbacks, compile, data)
        return self

    def __repr__(self):
        return (
            f"GFNDiffusion({self.target!r}, {self.config.objective}, seed={self.seed}, iteration "
            f"{self.iteration:,} of {self.planned:,}, {self.device})"
        )

    def rollout(
        self, t: Tensor, batch_size: int | None = None, x: Tensor | None = None, **options
    ) -> Trajectory:
        """One batch on the times t (T + 1,), from P_F or, given its ends x (B, d), from P_B.

        `options` are those of `forward_rollout` and `backward_rollout`.
        """
        parts = (self.policy, self.process, self.seen, t)
        options["forward_looking"] = self.config.forward_looking
        if not isinstance(self.seen, Standardised):
            return rollout(*parts, batch_size, x, **options)
        ends = None if x is None else self.seen.encode(x)
        return rollout(*parts, batch_size, ends, **options).seen_from(self.seen)

    @torch.no_grad()
    def trajectory(
        self,
        batch_size: int | None = None,
        x: Tensor | None = None,
        steps: int | None = None,
        generator: torch.Generator | None = None,
        condition: Tensor | None = None,
        repeats: int = 1,
    ) -> Trajectory:
        """Trajectories: `batch_size` generated by P_F, or one destroyed by P_B from each x (B, d).

        `steps` may differ from the training's; `condition` is (c,) for all, or (B, c) with
        `repeats` equal rows in a row. Raises ValueError unless exactly one of `batch_size` and `x`
        is given, for a wrong shape, and for a condition that is missing or unasked for.
        """
        if (batch_size is None) == (x is None):
            raise ValueError("give exactly one of batch_size and x")
        kind = self.device, torch.get_default_dtype()
        if x is None:
            batch_size = integer("batch_size", batch_size, 1)
        else:
            x = floats("x", x, *kind)
            if x.ndim != 2 or x.shape[1] != self.target.dim or not len(x):
                raise ValueError(f"x has shape {tuple(x.shape)}, must be (B, {self.target.dim})")
            batch_size = len(x)
        if condition is not None:
            condition = floats("condition", condition, *kind)
            if condition.ndim == 1:
                condition, repeats = condition.expand(batch_size, -1), batch_size
        check_condition(self.target, range(batch_size), condition)
        grid = time_grid(self.config.steps if steps is None else steps, self.config.grid)
        options = {"condition": condition, "repeats": repeats}
        options["generator"] = generator or self.generators["sample"]
        return self.rollout(grid, batch_size, x, **options)

    def sample(
        self,
        batch_size: int = 256,
        steps: int | None = None,
        condition: Tensor | None = None,
        return_weights: bool = False,
        oversample: int | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Samples (batch_size, d), by `steps` transitions (default: as configured).

        With `return_weights` also their log-weights (batch_size,). With `oversample` k, that many
        times more are drawn and `batch_size` kept by importance resampling, which removes the
        sampler's bias as k grows wherever it goes at all.

        Raises:
            ValueError: as `trajectory`, or if `oversample` is not a positive integer or comes
                with `return_weights` (resampled points have equal weights) or several conditions.
        """
        if oversample is None:
            drawn = self.trajectory(batch_size, steps=steps, condition=condition)
            return (drawn.x[-1], drawn.log_weight) if return_weights else drawn.x[-1]
        batch_size = integer("batch_size", batch_size, 1)
        if type(oversample) is not int or oversample < 1 or return_weights:
            raise ValueError(
                f"oversample={shown(oversample)} must be a positive integer, without return_weights"
            )
        if condition is not None and torch.as_tensor(condition).ndim > 1:
            raise ValueError("oversample takes one condition (c,): weights of two do not compare")
        drawn = self.trajectory(batch_size * oversample, steps=steps, condition=condition)
        return importance_resample(
            drawn.x[-1], drawn.log_weight, batch_size, self.generators["sample"]
        )

    def log_weight(
        self,
        batch_size: int | None = None,
        x: Tensor | None = None,
        steps: int | None = None,
        condition: Tensor | None = None,
    ) -> Tensor:
        """log w (B,) of new trajectories, generated or destroyed from `x`: see `trajectory`."""
        return self.trajectory(batch_size, x, steps, condition=condition).log_weight

    def evaluate(
        self,
        n_samples: int = 20_000,
        steps: int | None = None,
        seed: int = 0,
        distances: bool = False,
        condition: Tensor | None = None,
    ) -> metrics.Evaluation:
        """How good the sampler is; the same seed gives the same answer.

        Keys: elbo, eubo, log_z_is, log_z_learned, ess, w2, w2_floor (both on at most 2000
        samples), modes, mode_weights, energy_calls, n_samples, ess_forward, mode_coverage, log_z
        (the true one); with `distances` also sinkhorn, mmd and their floors. What needs a truth
        that the target does not know is None. `.intervals` has 95% bootstrap intervals.
        A conditional sampler is evaluated at one `condition` (c,).

        Raises:
            ValueError: if `n_samples` is below 2, `steps` is not a positive integer, or the
                condition is missing, unasked for or of another shape.
        """
        return metrics.evaluate(self, n_samples, steps, seed, distances, condition)

    def save(self, path: str | Path) -> None:
        """Write all that is needed to sample or to go on training; a failure keeps the old file."""
        checkpoint.write(self, path)

    @classmethod
    def load(
        cls,
        path: str | Path,
        energy_fn: Target | Callable[..., Tensor] | None = None,
        device: torch.device | str | None = None,
        conditions: Tensor | None = None,
    ) -> "GFNDiffusion":
        """The sampler saved at `path`; `energy_fn` is needed unless its target is a known task.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it is not a whole checkpoint, or belongs to another target.
        """
        state = checkpoint.read(path)
        if energy_fn is None:
            energy_fn = checkpoint.known_target(state, path)
        dim = None if isinstance(energy_fn, Target) else state["dim"]
        sampler = cls(energy_fn, dim, state["config"], state["seed"], device, conditions)
        checkpoint.restore(sampler, state, path)
        return sampler
