"""Part `floor`: how near a step is to the least that its arithmetic takes on this machine.

The floor is the matrix products and activations of a step alone, at its sizes, with nothing
between them: no noise, no densities, no energy, no optimiser. It is measured in the same rounds as
the step. How fast those products run, beside one large product, is the roofline.
"""

from collections.abc import Iterator
from itertools import pairwise

import torch
import torch.nn.functional as F

from gfnlite.cpu import large_matmuls
from gfnlite.terms import CPU_ROWS

from .measure import Progress, interleaved, ratio, summary
from .sizes import Sizes
from .tasks import Step, ours, sampler, target

__all__ = ["Kernels", "measure"]

SQUARE = 1024  # side of the large product
HIDDEN_LAYERS = 2
CPU = torch.device("cpu")


def measure(sizes: Sizes, progress: Progress) -> Iterator[dict]:
    """An entry for each task."""
    side = 64 if sizes.small else SQUARE
    large = torch.randn(side, side)
    for task in sizes.tasks:
        progress.start(f"{task}, TB+Expl forward and its kernels alone")
        kernels = Kernels(target(task).dim, sizes)
        variants = {
            "step": ours([sampler(task, Step(), sizes)]),
            "floor": lambda k=kernels: k.run(True, True),
            "products": lambda k=kernels: k.run(True, False),
            "activations": lambda k=kernels: k.run(False, True),
            "large_product": lambda: large @ large,
            "large_product_onednn": lambda: _by_onednn(large),
        }
        times = interleaved(variants, sizes.repeats, progress=progress.round)
        entry = {name: summary(values) for name, values in times.items()}
        entry["ratio"] = ratio(times["step"], times["floor"])
        best = min(entry[name]["median"] for name in ("large_product", "large_product_onednn"))
        entry["gflops"] = {  # 1 GFLOP/s is 10^6 a millisecond
            "products": 1e-6 * kernels.operations / entry["products"]["median"],
            "large_product": 1e-6 * 2 * side**3 / best,
        }
        yield {"task": task, "step": "TB+Expl forward"} | entry


class Kernels:
    """The products and activations of a step of TB, on arrays that are only there to be read.

    Attributes:
        operations: floating-point operations of the products.
    """

    def __init__(self, dim: int, sizes: Sizes):
        rows, hidden = sizes.batch, sizes.hidden
        widths = [dim, *[hidden] * (HIDDEN_LAYERS + 1), dim]
        self.steps, self.rows = sizes.steps, rows
        self.chunks = self._parts(max(1, CPU_ROWS // rows))
        self.factors = [torch.randn(1, a, b) for a, b in pairwise(widths)]
        self.bias = [torch.randn(1, 1, b) for b in widths[1:]]
        self.walk_in = [torch.randn(1, rows, a) for a in widths[:-1]]
        self.walk_out = [torch.empty(1, rows, b) for b in widths[1:]]
        most = max(self.chunks) * rows
        self.inputs = [torch.randn(most, a) for a in widths[:-1]]
        self.cotangents = [torch.randn(most, b) for b in widths[1:]]
        products = sum(a * b for a, b in pairwise(widths))
        # forth once; back twice, but for the cotangent of the states, which nobody needs
        self.operations = 2 * sizes.steps * rows * (3 * products - dim * hidden)

    def run(self, products: bool, activations: bool) -> None:
        """The walk forth, then the pull back in chunks of times."""
        for _ in range(self.steps):
            self._forth(products, activations)
        with large_matmuls(CPU_ROWS, CPU):
            for times in self.chunks:
                self._back(times * self.rows, products, activations)

    def _forth(self, products: bool, activations: bool) -> None:
        parts = zip(self.bias, self.walk_in, self.factors, self.walk_out, strict=True)
        for layer, (bias, x, factor, out) in enumerate(parts):
            if activations and layer:
                F.gelu(x)
            if products:
                torch.baddbmm(bias, x, factor, out=out)

    def _back(self, rows: int, products: bool, activations: bool) -> None:
        for layer in reversed(range(len(self.factors))):
            x, g = self.inputs[layer][:rows], self.cotangents[layer][:rows]
            if activations and layer:
                F.gelu(x)
            if products:
                g.mT @ x
                if layer:
                    g @ self.factors[layer][0].mT
            if activations and layer:
                torch.ops.aten.gelu_backward(x, x)

    def _parts(self, size: int) -> list[int]:
        return [min(size, self.steps - i) for i in range(0, self.steps, size)]


def _by_onednn(large: torch.Tensor) -> torch.Tensor:
    with large_matmuls(CPU_ROWS, CPU):
        return large @ large
