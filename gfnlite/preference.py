"""Several objectives at once: their weights are the condition, and one sampler serves all."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .callables import as_target
from .checks import check_condition
from .energy import Target

__all__ = ["Preference"]


class Preference(Target):
    """R(x; c) = exp(-sum_i c_i E_i(x)) for preferences c on the simplex, c_i >= 0, sum c_i = 1.

    Training draws c uniformly from the simplex. A preference for one objective alone is the
    corner; each E_i must make a density of its own, or the corners have none.

    Args:
        targets: without conditions, of one dimension; or callables E(x): (B, d) -> (B,).
        dim: dimension d, if there are callables among them.

    Raises:
        ValueError: if there are fewer than two, or they differ in dimension or take a condition.
    """

    condition_range = (0.0, 1.0)

    def __init__(self, targets: Sequence[Target | Callable[..., Tensor]], dim: int | None = None):
        self.parts = [as_target(target, dim) for target in targets]
        dims = sorted({part.dim for part in self.parts})
        if len(self.parts) < 2 or len(dims) > 1:
            raise ValueError(f"targets must be at least two, of the same dim; got dims {dims}")
        if any(part.condition_dim for part in self.parts):
            raise ValueError("targets must take no condition: theirs would be the preferences")
        self.dim, self.condition_dim = dims[0], len(self.parts)
        self.name = "preference over " + ", ".join(part.name for part in self.parts)

    def energies(self, x: Tensor) -> Tensor:
        """E_i(x) of each objective: (B, d) -> (B, m)."""
        return torch.stack([part.energy(x) for part in self.parts], -1)

    def log_reward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """-sum_i c_i E_i(x): (B, d), (B, m) -> (B,)."""
        check_condition(self, x, condition)
        return -(condition * self.energies(x)).sum(-1)

    def log_reward_and_score(
        self, x: Tensor, condition: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """log R (B,) and its gradient (B, d), each objective's as it finds them."""
        check_condition(self, x, condition)
        found = [part.log_reward_and_score(x) for part in self.parts]
        values = torch.stack([value for value, _ in found], -1)
        scores = torch.stack([score for _, score in found], -1)
        return (condition * values).sum(-1), (condition[:, None] * scores).sum(-1)

    def sample_condition(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Preferences (n, m), uniform on the simplex."""
        place = "cpu" if generator is None else generator.device
        uniform = torch.rand(n, self.condition_dim, generator=generator, device=place)
        share = -uniform.clamp(min=1e-7).log()
        return share / share.sum(-1, keepdim=True)
