"""Denoiser: a diffusion model of data, whose network is the drift of a GFlowNet sampler.

How the one is the other: see `data_loss`.
"""

import torch
from torch import Tensor

from . import build
from .callables import as_target
from .config import Config, integer
from .data_loss import DataLoss, noise_of
from .diffusion import Noising, Predictor, ancestral, ddim, heun
from .energy import Target
from .guidance import classifier_free
from .policy import Policy
from .progress import counted
from .sampler import GFNDiffusion

__all__ = ["Denoiser"]

METHODS = ("ancestral", "ddim", "flow")


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
        lr: float = 5e-3, progress: bool = True, batch_size: int = 64, dropout: float = 0.1,
        predict: str = "noise",
    ) -> "Denoiser":  # fmt: skip
        """Train by Adam on `DataLoss`, whose the last three are; the rate falls to 0 at the end.

        Raises:
            ValueError: as `DataLoss`, or for data of another dimension.
        """
        options = batch_size, dropout, predict
        loss_of = DataLoss(data, self.noising, labels, self.classes, *options)
        if loss_of.data.shape[1] != self.dim:
            raise ValueError(f"data have {loss_of.data.shape[1]} columns, not dim={self.dim}")
        iterations = integer("iterations", iterations, 0)
        optimiser = torch.optim.Adam(self.policy.kernels(), lr=lr, fused=True)
        decay = torch.optim.lr_scheduler.LambdaLR(
            optimiser, lambda i: min(1.0, 2 * (1 - i / max(1, iterations)))
        )
        for _ in counted(range(iterations), progress, "denoiser"):
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
        steps: int | None = None, eta: float = 0.0, predictor: Predictor | None = None,
    ) -> Tensor:  # fmt: skip
        """Samples (n, d); of one label with classifier-free guidance by `scale`, if it is given.

        `method` is "ancestral", "ddim" (with `steps` and `eta`) or "flow" (with `steps`); another
        `predictor`, such as a guided one, may take the place of the network's.

        Raises:
            ValueError: for an unknown method or label, a `scale` without a label, or `steps` or
                `eta` where the method has none.
        """
        if method not in METHODS:
            raise ValueError(f"method={method!r} is unknown; allowed: {', '.join(METHODS)}")
        if scale and label is None:
            raise ValueError(f"scale={scale} is for one label: give label")
        if (method == "ancestral" and steps is not None) or (method != "ddim" and eta):
            raise ValueError(f"steps={steps}, eta={eta:g} do not go with method={method!r}")
        predict = predictor or self.predictor(label)
        if scale:
            predict = classifier_free(predict, self.predictor(), scale)
        x = self.noising.start(integer("n", n, 1), self.dim, self.generator)
        if method == "flow":
            return heun(predict, self.noising, x, steps)
        if method == "ddim":
            return ddim(predict, self.noising, x, steps, eta, self.generator)
        return ancestral(predict, self.noising, x, self.generator)

    def sampler(
        self, target: Target, seed: int | None = None, device: str | None = None, **changes
    ) -> GFNDiffusion:
        """A sampler of the target, in the same process, that starts where this model is.

        `seed` and `device` are as for `GFNDiffusion`, `changes` settings of its `Config`.

        Raises:
            ValueError: if the model has classes, or a schedule of its own, which no process has;
                for a target of another dimension, or a change of what is the model's.
        """
        noising = self.noising
        if self.classes or not isinstance(noising.schedule, str):
            raise ValueError("a sampler needs a model without classes, and a named schedule")
        own = {
            "process": "vp", "schedule": noising.schedule, "sigma2": noising.sigma2,
            "steps": noising.steps, "hidden": self.hidden, "layers": self.layers,
            "standardise": False,
        }  # fmt: skip
        if clash := sorted(own.keys() & changes.keys()):
            raise ValueError(f"{', '.join(clash)} cannot be changed: the model has its own")
        config, seed = Config(**own, **changes), self.seed if seed is None else seed
        target = as_target(target, self.dim)
        made = GFNDiffusion(target, config=config, seed=seed, device=device)
        theirs = made.policy.forward_net.state_dict()
        for name, value in self.policy.forward_net.state_dict().items():
            # a learned variance adds outputs behind the drift's, which stay zero
            theirs[name][tuple(map(slice, value.shape))] = value
        made.optimiser = build.optimiser(config, made.policy)
        return made
