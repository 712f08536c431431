"""Part `dead_ends`: ideas that do not pay, or pay too little to be kept, measured all the same."""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from gfnlite.cpu import large_matmuls
from gfnlite.nets import evaluate, pull
from gfnlite.step import train_step
from gfnlite.team import Team

from .measure import Progress, interleaved, ratio, summary
from .sizes import Sizes
from .tasks import Step, ours, sampler, target

__all__ = ["measure"]

CHUNK = 20  # steps in one product of phase 2


def measure(sizes: Sizes, progress: Progress) -> Iterator[dict]:
    """An entry for each idea: without it, with it, and how many times as fast it makes it."""
    for task in sizes.tasks:
        network = _Network(target(task).dim, sizes)
        cases = {
            "gradient by torch.compile": (
                network.gradient(pull),
                network.gradient(_compiled(pull)),
            ),
            "evaluation by torch.compile": (
                network.evaluation(evaluate),
                network.evaluation(_compiled(evaluate)),
            ),
            "walk by torch.compile": (network.walk(evaluate), network.walk(_compiled(evaluate))),
            "activations kept beside pre-activations": (
                network.walk_and_gradient(False),
                network.walk_and_gradient(True),
            ),
            "seeds by torch.func.vmap": (network.stacked(), network.vmapped()),
            "bfloat16, hidden 64": _amp(task, sizes, sizes.hidden),
            "bfloat16, hidden 256": _amp(task, sizes, 4 * sizes.hidden),
            "evaluated again, not kept": _again(task, sizes),
        }
        for name, (without, with_it) in cases.items():
            if sizes.small and "compile" in name:  # takes a minute, and a compiler
                continue
            progress.start(f"{task}, {name}")
            with torch.no_grad():
                times = interleaved(
                    {"without": without, "with": with_it}, sizes.repeats, progress=progress.round
                )
            entry = {key: summary(values) for key, values in times.items()}
            yield {
                "task": task, "idea": name, **entry,
                "ratio": ratio(times["without"], times["with"]),
            }  # fmt: skip


def _compiled(function: Callable) -> Callable:
    return torch.compile(function, dynamic=False)


def _amp(task: str, sizes: Sizes, hidden: int) -> tuple[Callable, Callable]:
    def trained(amp: bool) -> Callable:
        step = ours([sampler(task, Step(), sizes, amp=amp, hidden=hidden)])

        def call():
            with torch.enable_grad():
                step()

        return call

    return trained(False), trained(True)


def _again(task: str, sizes: Sizes) -> tuple[Callable, Callable]:
    """A step whose rollout keeps nothing, so that phase 2 has to evaluate the network again."""
    teams = [Team([sampler(task, Step(), sizes)]) for _ in range(2)]
    forgetful = teams[1]
    rollout = forgetful.rollout
    forgetful.rollout = lambda *args, **options: rollout(*args, **options | {"record": False})

    def step(team: Team) -> Callable:
        def call():
            with torch.enable_grad():
                train_step(team)

        return call

    return step(teams[0]), step(forgetful)


class _Network:
    """Arrays of the sizes of a step, to run its parts on."""

    def __init__(self, dim: int, sizes: Sizes):
        self.T, self.B, hidden = sizes.steps, sizes.batch, sizes.hidden
        widths = [dim, *[hidden] * 3, dim]
        self.layers = [
            (torch.randn(1, a, b) / a**0.5, None if i == 0 else torch.randn(1, 1, b))
            for i, (a, b) in enumerate(zip(widths, widths[1:], strict=False))
        ]
        self.chunks = -(-self.T // CHUNK)
        self.rows = min(CHUNK, self.T) * self.B
        self.x, self.first = torch.randn(1, self.rows, dim), torch.randn(1, self.rows, hidden)
        self.hidden = [torch.randn(self.rows, hidden) for _ in range(3)]
        self.cotangent = torch.randn(self.rows, dim)
        self.factors = [weight[0].mT for weight, _ in self.layers]

    def _large(self):
        return large_matmuls(self.rows, torch.device("cpu"))

    def gradient(self, function: Callable) -> Callable:
        """Phase 2 from what a walk has kept."""

        def call():
            with self._large():
                for _ in range(self.chunks):
                    function(self.factors, self.x[0], self.hidden, self.cotangent)

        return call

    def evaluation(self, function: Callable) -> Callable:
        """All transitions, chunk by chunk."""

        def call():
            with self._large():
                for _ in range(self.chunks):
                    function(self.layers, self.x, self.first)

        return call

    def walk(self, function: Callable) -> Callable:
        """The network at one time after the other."""
        x, first = self.x[:, : self.B], self.first[:, :1]

        def call():
            for _ in range(self.T):
                function(self.layers, x, first)

        return call

    def walk_and_gradient(self, keep_activations: bool) -> Callable:
        """A walk that keeps pre-activations, with or without their GELU, and the way back."""
        x, first, width = self.x[:, : self.B], self.first[:, :1], self.hidden[0].shape[1]
        shape = (min(CHUNK, self.T), 1, self.B, width)

        def call():
            kept = [[torch.empty(shape) for _ in range(6)] for _ in range(self.chunks)]
            for i in range(self.T):
                rooms = [part[i % CHUNK] for part in kept[i // CHUNK]]
                h, at = x, first
                for k, (weight, bias) in enumerate(self.layers[:-1]):
                    z = torch.baddbmm(at if k == 0 else bias, h, weight, out=rooms[k])
                    out = rooms[3 + k] if keep_activations else None
                    h = torch._C._nn.gelu(z, out=out) if keep_activations else F.gelu(z)
                torch.baddbmm(self.layers[-1][1], h, self.layers[-1][0])
            with self._large():
                for block in kept:
                    self._back([part.view(-1, width) for part in block], keep_activations)

        return call

    def _back(self, kept: list[Tensor], keep_activations: bool) -> None:
        g = self.cotangent[: len(kept[0])]
        for k in (2, 1, 0):
            h = kept[3 + k] if keep_activations else F.gelu(kept[k])
            g.mT @ h
            g = torch.ops.aten.gelu_backward(g @ self.factors[k + 1], kept[k])

    def stacked(self, seeds: int = 5) -> Callable:
        """A walk of several seeds by batched products."""
        layers, x, first = self._seeds(seeds)

        def call():
            with large_matmuls(seeds * self.B, torch.device("cpu")):
                for _ in range(self.T):
                    evaluate(layers, x, first)

        return call

    def vmapped(self, seeds: int = 5) -> Callable:
        """The same by `vmap` of one seed's network."""
        layers, x, first = self._seeds(seeds)
        weights, biases = [w for w, _ in layers], [b for _, b in layers[1:]]

        def one(weights, biases, x, first):
            z = x @ weights[0] + first
            for weight, bias in zip(weights[1:], biases, strict=True):
                z = torch.addmm(bias, F.gelu(z), weight)
            return z

        batched = torch.func.vmap(one)

        def call():
            with large_matmuls(seeds * self.B, torch.device("cpu")):
                for _ in range(self.T):
                    batched(weights, biases, x, first)

        return call

    def _seeds(self, seeds: int) -> tuple[list, Tensor, Tensor]:
        layers = [
            (w.repeat(seeds, 1, 1), b if b is None else b.repeat(seeds, 1, 1))
            for w, b in self.layers
        ]
        x = self.x[:, : self.B].repeat(seeds, 1, 1)
        return layers, x, self.first[:, :1].repeat(seeds, 1, 1)
