"""Terms of the log-weight that the networks give along trajectories, and their gradients.

Phase 2 of the two-phase step is `Term.pull`: the cotangent of a term is pulled back to the
parameters in chunks of times, in products of a few thousand rows. That is where most of the time of
training goes, and why none of it is left to autograd or computed twice.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from .cpu import large_matmuls
from .nets import StateNet
from .policy import Context, Policy
from .process import Steps, log_ratio, ratio_slope

__all__ = ["BackwardTerm", "FlowTerm", "ForwardTerm", "Term"]

# Rows that a run's products take on a CPU: what they read and write then stays in cache.
CPU_ROWS = 6000


class Term(ABC):
    """One network along the trajectories: a subclass says which, where, and what it means.

    Args:
        policy: whose network it is.
        process: the reference process.
        steps: the time grid.
        condition: (S B, c) or None.
        repeats: so many of its rows in a row are the same.

    Attributes:
        name: of the trajectory's field that the term is.
        net, t, length: the network; time and length of the transition it is given (T,).
        first: the first transition that has the term.
        x: the states that it is given (T, S B, d).
        moved: what `process.log_ratio` calls so (T, S B, d), if the term is a kernel's.
    """

    name: str
    net: StateNet
    t: Tensor
    length: Tensor
    x: Tensor
    moved: Tensor | None = None
    first = 0

    def __init__(
        self, policy: Policy, process, steps: Steps, condition: Tensor | None, repeats: int = 1
    ):
        self.policy, self.process, self.steps = policy, process, steps
        self.condition, self.repeats = condition, repeats
        # What the network computed, by the start of a chunk: pre-activations and values.
        self.kept: dict[int, Sequence[Tensor]] = {}

    @abstractmethod
    def head(self, values: Tensor, context: Context, where: slice) -> tuple[Tensor, ...]:
        """The kernel's u and, if learned, s, or the flow, from the network's values in a chunk."""

    def context(self) -> Context:
        """What the network knows before it sees a state."""
        parts = (self.t, self.length, self.condition, self.repeats)
        return self.policy.context(self.net, *parts)

    def chunks(self, rows: int) -> list[slice]:
        """Ranges of transitions in the size that suits the device, for S B `rows`."""
        last, on_cpu = len(self.t), self.t.device.type == "cpu"
        size = max(1, CPU_ROWS * self.policy.runs // rows if on_cpu else last)
        return [slice(i, min(i + size, last)) for i in range(self.first, last, size)]

    def rooms(self, rows: int) -> list[list[Tensor]]:
        """For each transition the tensors for `Policy.step` to write to, as a walk goes on."""
        rooms, like, runs = [], self.net.state.weight, self.policy.runs
        for where in self.chunks(rows):
            shape = (where.stop - where.start, runs, rows // runs)
            dtype = self.net.dtype(like)
            block = [like.new_empty((*shape, width), dtype=dtype) for width in self.net.widths]
            self.kept[where.start] = block
            rooms += [list(at) for at in zip(*(part.unbind() for part in block), strict=True)]
        return rooms

    def evaluate(self, keep: bool) -> Tensor:
        """The term at its transitions (T - first, S B); what is kept `pull` need not compute."""
        context, parts = self.context(), [self.x.new_zeros((0, self.x.shape[1]))]
        chunks = self.chunks(self.x.shape[1])
        if torch.is_grad_enabled():  # the derivative of each slice would be as large as the whole
            chunks = [slice(self.first, len(self.t))]
        with large_matmuls(CPU_ROWS, self.t.device):
            for where in chunks:
                at = context.at(where)
                block = self.policy.values(self.x[where], at)
                if keep:
                    self.kept[where.start] = block
                parts.append(self.value(self.head(block[-1], at, where), where))
        return torch.cat(parts)

    def pull(self, cotangent: Tensor) -> None:
        """Add to the gradients of all parameters behind the term, given its own.

        That is (T, S B), or less where the term does not have all transitions.
        """
        policy, net = self.policy, self.net
        context = self.context()  # one graph for grid and batch; ...
        cut = Context(
            context.layers, *(v.detach().requires_grad_() if _grows(v) else v for v in context[1:])
        )
        time, code = torch.zeros_like(context.time), context.code
        code = None if code is None else torch.zeros_like(code)
        skipped = len(self.t) - len(cotangent)
        with large_matmuls(CPU_ROWS, self.t.device):  # ... the chunks meet at its cut
            for where in self.chunks(self.x.shape[1]):
                at, block = cut.at(where), self.kept.pop(where.start, None)
                if block is None:
                    with torch.no_grad():
                        block = policy.values(self.x[where], at)
                values = block[-1].detach().requires_grad_()
                kernel = self.head(values, at, where)
                slopes = self._slopes([part.detach() for part in kernel], where)
                weight = cotangent[where.start - skipped : where.stop - skipped, :, None]
                slopes = [slope * weight for slope in slopes]
                torch.autograd.backward(kernel, slopes)
                x = self.x[where].unflatten(1, (policy.runs, -1))
                for run in range(policy.runs):
                    parts = (part[:, run].flatten(0, 1) for part in (x, *block[:-1], values.grad))
                    x_run, *hidden, g = parts
                    g = (
                        net.pull(run, x_run, hidden, g, policy.pull)
                        .unflatten(0, (len(x), -1))
                        .to(time.dtype)
                    )
                    time[where, run] = g.sum(1, keepdim=True)
                    if code is not None:
                        code[run] += g.sum(0)
        scale = None if cut.scale is None else cut.scale.grad
        grown = zip(context[1:], (time, code, scale, None), strict=True)
        torch.autograd.backward(*zip(*((v, g) for v, g in grown if _grows(v)), strict=True))

    def value(self, kernel: Sequence[Tensor], where: slice = slice(None)) -> Tensor:
        """The term (n, S B) from u and s, or the flow, at a chunk's transitions."""
        return log_ratio(self.moved[where], self.length[where], self.process.sigma2, *kernel)

    def _slopes(self, kernel: Sequence[Tensor], where: slice) -> tuple[Tensor, ...]:
        return ratio_slope(self.moved[where], self.length[where], self.process.sigma2, *kernel)


class ForwardTerm(Term):
    """log P_F over the reference's kernel; `score` of the target at x[:-1] if the drift uses it."""

    name = "ratio_pf"

    def __init__(self, policy, *parts):
        super().__init__(policy, *parts)
        self.net, self.t, self.length = policy.forward_net, self.steps.t[:-1], self.steps.h

    def at(self, x: Tensor, score: Tensor | None, moved: Tensor | None = None) -> "ForwardTerm":
        """The same along trajectories x (T + 1, S B, d)."""
        self.x, self.score, self.moved = x[:-1], score, moved
        if moved is None:
            self.moved = torch.addcmul(x[1:], self.steps.a[:, None, None], x[:-1], value=-1)
        return self

    def head(self, values: Tensor, context: Context, where: slice) -> tuple[Tensor, ...]:
        """u and, if learned, s of P_F."""
        score = None if self.score is None else self.score[where]
        return self.policy.forward_head(values, context, score)


class BackwardTerm(Term):
    """log P_B over the reference's kernel; a pinned process's first transition has none."""

    name = "ratio_pb"

    def __init__(self, policy, *parts):
        super().__init__(policy, *parts)
        self.net, self.t, self.length = policy.backward_net, self.steps.t[1:], self.steps.g
        self.first = int(self.process.pinned)

    def at(self, x: Tensor) -> "BackwardTerm":
        """The same along trajectories x (T + 1, S B, d)."""
        self.x = x[1:]
        self.moved = torch.addcmul(x[:-1], self.steps.b[:, None, None], x[1:], value=-1)
        return self

    def head(self, values: Tensor, context: Context, where: slice) -> tuple[Tensor, ...]:
        """u and s of P_B."""
        return self.policy.backward_head(values, context)


class FlowTerm(Term):
    """The network's part of the log state flow at the inner times."""

    name, first = "flow", 1

    def __init__(self, policy, *parts):
        super().__init__(policy, *parts)
        self.net, self.t, self.length = policy.flow_net, self.steps.t[:-1], self.steps.h

    def at(self, x: Tensor) -> "FlowTerm":
        """The same along trajectories x (T + 1, S B, d)."""
        self.x = x[:-1]
        return self

    def head(self, values: Tensor, context: Context, where: slice) -> tuple[Tensor, ...]:
        """The flow (n, S B, 1)."""
        return (values.flatten(1, 2).to(self.x.dtype),)

    def value(self, kernel: Sequence[Tensor], where: slice = slice(None)) -> Tensor:
        """The flow (n, S B)."""
        return kernel[0].squeeze(-1)

    def _slopes(self, kernel, where):
        return (torch.ones_like(kernel[0]),)


def _grows(value: Tensor | None) -> bool:
    return value is not None and value.requires_grad
