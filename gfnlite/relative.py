"""Relative trajectory balance: a trained diffusion model, bent to a posterior prior x reward.

Both are diffusions with the same start and variances, the prior with its drift fixed. For the
posterior p(x_1) r(x_1) / Z every trajectory should have

    log Z + log P_F(tau) = log P_prior(tau) + log r(x_1),

so that the log-weight is log r + log P_prior - log P_F, and any objective that makes log-weights
equal serves (Venkatraman et al., Amortizing intractable inference in diffusion models,
arXiv:2405.20971).
"""

import copy
from collections.abc import Callable

import torch
from torch import Tensor

from .callables import as_target
from .config import Config, integer
from .denoiser import Denoiser
from .energy import Target
from .process import VariancePreserving, time_grid
from .progress import counted
from .rollout import forward_rollout, gradient
from .step import objective as loss_of
from .step import refuse_non_finite
from .terms import ForwardTerm
from .trajectory import Trajectory, importance_resample

__all__ = ["RelativeSampler"]


class RelativeSampler:
    """A sampler of prior x reward that starts as the prior and learns by relative balance.

    Args:
        prior: the diffusion model of the data, without classes; it is not changed.
        reward: log r as a `Target`, whose density need not be normalisable; or -log r as a callable
            E(x): (B, d) -> (B,).
        seed: of all noise.

    Attributes:
        policy: the network.
        log_z: log Z_theta, of log E_prior[r]; None unless "tb" has learned it.
        energy_calls: points at which the reward was asked for in training.

    Raises:
        ValueError: if the prior has classes or an unnamed schedule, or the reward's dimension is
            another.
    """

    def __init__(self, prior: Denoiser, reward: Target | Callable[[Tensor], Tensor], seed: int = 0):
        noising = prior.noising
        if prior.classes or not isinstance(noising.schedule, str):
            raise ValueError("prior must be a model without classes, with a named schedule")
        self.prior, self.reward = prior, as_target(reward, prior.dim)
        self.process = VariancePreserving(noising.sigma2, noising.schedule)
        self.steps = self.process.steps(time_grid(noising.steps))
        self.policy = copy.deepcopy(prior.policy)
        self.fixed = copy.deepcopy(prior.policy).requires_grad_(False)
        self.seed, self.generator = seed, torch.Generator().manual_seed(seed)
        self.iteration, self.energy_calls, self.learned = 0, 0, False

    @property
    def log_z(self) -> float | None:
        """Of the learned normaliser, in nats."""
        return self.policy.log_z_value.item() if self.learned else None

    def fit(
        self, iterations: int = 1000, batch_size: int = 200, lr: float = 1e-3,
        objective: str = "vargrad", exploration: float = 0.0, progress: bool = True,
    ) -> "RelativeSampler":  # fmt: skip
        """Train on trajectories of its own; `exploration` adds variance per unit of noise to them.

        Raises:
            ValueError: unless `objective` is "tb" or "vargrad", or for numbers that are not
                allowed.
            FloatingPointError: if the reward or the network stops being finite.
        """
        if objective not in ("tb", "vargrad"):
            raise ValueError(f"objective={objective!r} must be 'tb' or 'vargrad'")
        config = Config(lr=lr, exploration=exploration, batch_size=batch_size, objective=objective)
        groups = [
            {"params": self.policy.kernels(), "lr": lr},
            {"params": self.policy.normaliser(), "lr": config.lr_log_z},
        ]
        optimiser = torch.optim.Adam(groups, fused=True)
        self.learned |= objective == "tb"
        iterations = range(integer("iterations", iterations, 0))
        for _ in counted(iterations, progress, "relative balance"):
            trajectory = self.trajectory(batch_size, exploration, record=True)
            refuse_non_finite(trajectory, [self])
            optimiser.zero_grad()
            gradient(self.policy, trajectory, loss_of(objective, config))
            optimiser.step()
            self.iteration += 1
            self.energy_calls += trajectory.energy_calls
        return self

    def trajectory(
        self, batch_size: int, exploration: float = 0.0, record: bool = False, prior: bool = False
    ) -> Trajectory:
        """Trajectories of its own, or of the prior; `log_weight` is of prior x reward over P_F."""
        drawn = forward_rollout(
            self.fixed if prior else self.policy, self.process, self.reward, self.steps,
            integer("batch_size", batch_size, 1), exploration=exploration,
            generator=self.generator, record=record,
        )  # fmt: skip
        # What the reference process was for P_B, the prior is here.
        drawn.log_terminal = drawn.log_reward
        drawn.ratio_pb = drawn.ratio_pf if prior else self._ratio(self.fixed, drawn.x)
        if prior:
            drawn.ratio_pf = self._ratio(self.policy, drawn.x)
        return drawn

    def sample(self, n: int, oversample: int = 1) -> Tensor:
        """Samples (n, d); of `oversample` times as many, n are kept by importance resampling."""
        drawn = self.trajectory(n * integer("oversample", oversample, 1))
        if oversample == 1:
            return drawn.x[-1]
        return importance_resample(drawn.x[-1], drawn.log_weight, n, self.generator)

    def log_weight(self, n: int) -> Tensor:
        """log w of n of its own trajectories (n,): their mean is at most log Z = log E_prior[r]."""
        return self.trajectory(n).log_weight

    @torch.no_grad()
    def _ratio(self, policy, x: Tensor) -> Tensor:
        """log P_F of a policy over the reference along trajectories x (T + 1, B, d): (T, B)."""
        term = ForwardTerm(policy, self.process, self.steps, None)
        return term.at(x, None).evaluate(keep=False)
