"""A training step as one CUDA graph: launched at once, with no Python between its kernels."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache

import torch
from torch import Tensor

__all__ = ["Captured"]

WARM_UP = 3  # calls as usual, in which PyTorch allocates and chooses what a capture must not


class Captured:
    """A function of a dict of tensors, always of the same shapes, replayed from its fourth call on.

    It must not depend on anything else that changes, nor wait for the GPU; then what a replay
    returns is what a call would have returned, written to the same memory each time.

    Args:
        function: takes the dict; may return anything.
        generators: random streams that it draws from.
        prepare: called right before the capture.
    """

    def __init__(
        self, function: Callable, generators: Sequence[torch.Generator], prepare: Callable
    ):
        self.function, self.generators, self.prepare = function, generators, prepare
        self.calls, self.graph = 0, None

    def __call__(self, inputs: Mapping[str, Tensor]):
        """What the function returns for these inputs.

        Raises:
            RuntimeError: if the function waits for the GPU, as some energies do.
        """
        self.calls += 1
        if self.calls <= WARM_UP:
            return self._aside(inputs)
        if self.graph is None:
            self._capture(inputs)
        for name, static in self.inputs.items():
            static.copy_(inputs[name])
        self.graph.replay()
        return self.outputs

    def _aside(self, inputs: Mapping[str, Tensor]):
        """A call on a stream of its own, as CUDA asks for before a capture."""
        stream, here = _side(), torch.cuda.current_stream()
        stream.wait_stream(here)
        with torch.cuda.stream(stream):
            outputs = self.function(inputs)
        here.wait_stream(stream)
        return outputs

    def _capture(self, inputs: Mapping[str, Tensor]) -> None:
        self.inputs = {name: value.clone() for name, value in inputs.items()}
        self.prepare()
        graph = torch.cuda.CUDAGraph()
        for generator in self.generators:
            graph.register_generator_state(generator)
        try:
            with torch.cuda.graph(graph, stream=_side()):
                self.outputs = self.function(self.inputs)
        except RuntimeError as error:
            raise RuntimeError(
                "compile=True: the training step cannot be captured as a CUDA graph; an energy "
                "that reads values back (.item(), if on a tensor, .cpu()) needs compile=False "
                f"[{error}]"
            ) from error
        self.graph = graph


@cache
def _side() -> torch.cuda.Stream:
    """The one stream of all warm-ups and captures: autograd remembers where it has been."""
    return torch.cuda.Stream()
