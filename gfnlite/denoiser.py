"""Denoiser: a diffusion model of data, whose network is the drift of a GFlowNet sampler.

With the drift u of P_F in the variance-preserving process, a step of generation has the mean
sqrt(a_k) x + b_k u(x, t). That is the ancestral step of a diffusion model that predicts the noise

    eps = sqrt(1 - alpha_bar_k) (x - sqrt(a_k) u(x, t)) / sigma,    t = 1 - k / K.

So what one has learned from data the other can go on with from an energy.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from . import build
from .config import Config, integer
from .diffusion import Noising, Predictor, ancestral, ddim, heun
from .energy import Target
from .guidance import classifier_free
from .policy import Policy
from .process import normal
from .sampler import GFNDiffusion

__all__ = ["DataLoss", "Denoiser"]

METHODS = {"ancestral": ancestral, "ddim": ddim, "flow": heun}
LEVELS = 16  # of noise in a batch; each of its data is seen at all of them


class DataLoss:
    """L_simple of a sampler's drift, from data: E |eps - eps_theta(x_k, k)|^2 over d, or of x_0.

    The weight that the noise at each k has is what makes it simple (arXiv:2006.11239, eq. 14):
    the log-likelihood of destroyed trajectories is the same sum with other weights.

    Args:
        data: (N, d).
        noising: the steps; those of the sampler's own grid and variance.
        labels: (N,) integers from 0, or None.
        classes: how many there are; 0 for none.
        batch_size: data in a batch, each at `LEVELS` levels of noise.
        dropout: share of the data whose label is withheld, which teaches the same network to do
            without (arXiv:2207.12598).
        predict: "noise" or "x0", whose squared error is the loss.
        gfn: lambda_GFN, the weight of a GFlowNet's objective beside this loss: see
            `GFNDiffusion.fit`.

    Raises:
        ValueError: for data or labels of a wrong shape, NaN, or a setting that is not allowed.
    """

    def __init__(
        self, data: Tensor, noising: Noising, labels: Tensor | None = None, classes: int = 0,
        batch_size: int = 64, dropout: float = 0.1, predict: str = "noise", gfn: float = 1.0,
    ):  # fmt: skip
        self.data = torch.as_tensor(data, dtype=torch.float32)
        if self.data.ndim != 2 or not self.data.numel():
            raise ValueError(f"data must have shape (N, d), got {tuple(self.data.shape)}")
        if bad := int((~self.data.isfinite()).any(1).sum()):
            raise ValueError(f"data are not finite in {bad} of {len(self.data)} rows")
        if not 0 <= dropout <= 1:
            raise ValueError(f"dropout={dropout} must be from 0 to 1")
        if predict not in ("noise", "x0"):
            raise ValueError(f"predict={predict!r} is unknown; allowed: noise, x0")
        if not 0 <= gfn < torch.inf:
            raise ValueError(f"gfn={gfn} must be finite and at least 0")
        self.batch_size = integer("batch_size", batch_size, 1)
        self.noising, self.dropout, self.predict, self.gfn = noising, dropout, predict, gfn
        self.codes = None
        if (labels is None) != (classes == 0):
            raise ValueError(f"labels and classes={classes!r} must be given together")
        if classes:
            labels = torch.as_tensor(labels)
            if labels.shape != self.data.shape[:1]:
                raise ValueError(f"labels must be {len(self.data)}, got {tuple(labels.shape)}")
            self.codes = one_hot(labels, classes)

    def check(self, sampler: GFNDiffusion) -> None:
        """Refuse to be the loss of a sampler whose steps are other ones.

        Raises:
            ValueError: for another dimension, process, grid, schedule or variance.
        """
        noising, config = self.noising, sampler.config
        mine = (
            "vp",
            "uniform",
            noising.schedule,
            noising.sigma2,
            noising.steps,
            *self.data.shape[1:],
        )
        its = (
            config.process, config.grid, config.schedule, config.sigma2, config.steps,
            sampler.target.dim,
        )  # fmt: skip
        names = ("process", "grid", "schedule", "sigma2", "steps", "dim")
        for name, one, other in zip(names, mine, its, strict=True):
            if not (type(one) is type(other) and one == other):
                raise ValueError(f"data are for a sampler with {name}={one}, this has {other}")

    def __call__(
        self, policy: Policy, generators: Sequence[torch.Generator],
        levels: Sequence[torch.Generator] | None = None,
    ) -> Tensor:  # fmt: skip
        """The loss of each of the policy's S runs, from a batch of each: (S,).

        The runs see the same levels of noise, by `levels`, which must then be in the same state.
        """
        noising, steps, place = self.noising, self.noising.steps, generators[0].device
        count = min(LEVELS, steps)  # one in each of so many equal ranges
        offset = [torch.rand(count, generator=g) for g in levels or generators][0]
        k = ((torch.arange(count) + offset) * (steps / count)).long() + 1
        size = (self.batch_size,)
        chosen = torch.cat([
            torch.randint(len(self.data), size, generator=g, device=place) for g in generators
        ])  # fmt: skip
        x0, code = self.data.to(place)[chosen], None
        if self.codes is not None:
            kept = torch.cat([torch.rand(size, generator=g, device=place) for g in generators])
            code = self.codes.to(place)[chosen] * (kept >= self.dropout)[:, None]
        eps = normal((count, *x0.shape), place, list(generators))
        signal, noise = (part[k, None, None].to(place) for part in (noising.signal, noising.noise))
        error = noise_of(policy, noising, signal * x0 + noise * eps, k, code) - eps
        if self.predict == "x0":  # an error in eps is one in x_0, times the noise-to-signal ratio
            error = error * noise / signal
        return error.square().unflatten(1, (policy.runs, -1)).mean((0, 2, 3))


def one_hot(labels: Tensor, classes: int) -> Tensor:
    """Labels (N,) as conditions (N, classes); all zero means no label.

    Raises:
        ValueError: if a label is no integer from 0 to `classes` - 1.
    """
    whole = not (labels.is_floating_point() or labels.dtype == torch.bool)
    if not whole or (len(labels) and not (0 <= labels.min() and labels.max() < classes)):
        raise ValueError(f"labels must be integers from 0 to {classes - 1}, got {labels}")
    return torch.nn.functional.one_hot(labels.long(), classes).float()


def noise_of(
    policy: Policy, noising: Noising, x: Tensor, k: Tensor, condition: Tensor | None = None
) -> Tensor:
    """The noise that a policy's drift stands for, at states x (n, S B, d) of the levels k (n,)."""
    t = (1 - k / noising.steps).to(x)
    length = (1 - noising.alpha[k]).to(x)
    u = policy.forward_kernel(x, policy.context(policy.forward_net, t, length, condition))[0]
    scale = ((1 - noising.alpha_bar[k]) / noising.sigma2).sqrt().to(x)[:, None, None]
    return scale * (x - noising.alpha[k].sqrt().to(x)[:, None, None] * u)


class Denoiser:
    """A diffusion model of data (N, d), with or without classes.

    Args:
        dim: d.
        noising: steps, schedule and variance.
        classes: labels of the data are 0 to classes - 1; 0: they have none.
        hidden, layers: of the network.
        seed: of its start and of all noise.

    Attributes:
        policy: the network, as `GFNDiffusion` has it.
        losses: of each training step.
    """

    def __init__(
        self, dim: int, noising: Noising, classes: int = 0, hidden: int = 64, layers: int = 2,
        seed: int = 0,
    ):  # fmt: skip
        self.dim, self.noising = integer("dim", dim, 1), noising
        self.classes = integer("classes", classes, 0)
        self.hidden, self.layers, self.seed = hidden, layers, seed
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.policy = Policy(dim, hidden, layers, classes)
        self.generator = torch.Generator().manual_seed(seed)
        self.losses: list[float] = []

    def fit(
        self, data: Tensor, labels: Tensor | None = None, iterations: int = 2000,
        lr: float = 5e-3, progress: bool = True, **options,
    ) -> "Denoiser":  # fmt: skip
        """Train by Adam on `DataLoss`, which has the `options`; the rate falls to 0 at the end.

        Raises:
            ValueError: as `DataLoss`, or for data of another dimension.
        """
        loss_of = DataLoss(data, self.noising, labels, self.classes, **options)
        if loss_of.data.shape[1] != self.dim:
            raise ValueError(f"data have {loss_of.data.shape[1]} columns, not dim={self.dim}")
        iterations = integer("iterations", iterations, 0)
        optimiser = torch.optim.Adam(self.policy.kernels(), lr=lr, fused=True)
        decay = torch.optim.lr_scheduler.LambdaLR(
            optimiser, lambda i: min(1.0, 2 * (1 - i / max(1, iterations)))
        )
        for _ in counted(iterations, "denoiser", progress):
            optimiser.zero_grad()
            loss = loss_of(self.policy, [self.generator]).sum()
            loss.backward()
            optimiser.step()
            decay.step()
            self.losses.append(loss.item())
        return self

    def predictor(self, label: int | None = None) -> Predictor:
        """What the network predicts, of data with this label, or of all.

        Raises:
            ValueError: if there is no such label.
        """
        code = None
        if self.classes:
            code = torch.zeros(1, self.classes)
        if label is not None:
            if not 0 <= integer("label", label, 0) < self.classes:
                raise ValueError(f"label={label} must be below classes={self.classes}")
            code[0, label] = 1

        @torch.no_grad()
        def predict(x: Tensor, k: int) -> Tensor:
            condition = None if code is None else code.expand(len(x), -1)
            return noise_of(self.policy, self.noising, x[None], torch.tensor([k]), condition)[0]

        return predict

    def sample(
        self, n: int, label: int | None = None, scale: float = 0.0, method: str = "ancestral",
        predictor: Predictor | None = None, **options,
    ) -> Tensor:  # fmt: skip
        """Samples (n, d); of one label with classifier-free guidance by `scale`, if it is given.

        `method` is "ancestral", "ddim" (with `steps` and `eta`) or "flow" (with `steps`); another
        `predictor`, such as a guided one, may take the place of the network's.

        Raises:
            ValueError: for an unknown method or label, or a `scale` without a label.
        """
        if method not in METHODS:
            raise ValueError(f"method={method!r} is unknown; allowed: {', '.join(METHODS)}")
        if scale and label is None:
            raise ValueError(f"scale={scale} is for one label: give label")
        predict = predictor or self.predictor(label)
        if scale:
            predict = classifier_free(predict, self.predictor(), scale)
        if method != "flow":
            options["generator"] = self.generator
        x = self.noising.start(integer("n", n, 1), self.dim, self.generator)
        return METHODS[method](predict, self.noising, x, **options)

    def sampler(
        self, target: Target, seed: int | None = None, device: str | None = None, **changes
    ) -> GFNDiffusion:
        """A sampler of the target, in the same process, that starts where this model is.

        `seed` and `device` are as for `GFNDiffusion`, `changes` settings of its `Config`.

        Raises:
            ValueError: if the model has classes, or a schedule of its own, which no process has.
        """
        noising = self.noising
        if self.classes or not isinstance(noising.schedule, str):
            raise ValueError("a sampler needs a model without classes, and a named schedule")
        config = Config(
            process="vp", schedule=noising.schedule, sigma2=noising.sigma2, steps=noising.steps,
            hidden=self.hidden, layers=self.layers, **changes,
        )  # fmt: skip
        seed = self.seed if seed is None else seed
        made = GFNDiffusion(target, config=config, seed=seed, device=device)
        own, mine = made.policy.forward_net, self.policy.forward_net
        own.load_state_dict(mine.state_dict())
        made.optimiser = build.optimiser(config, made.policy)
        return made


def counted(iterations: int, what: str, progress: bool):
    """0 to iterations - 1, with a progress bar if it is wanted and tqdm is there."""
    if not progress:
        return range(iterations)
    try:
        from tqdm import tqdm
    except ImportError:  # an extra
        return range(iterations)
    return tqdm(range(iterations), what, unit="it", mininterval=0.5)
