"""Replay: samples kept on the device, drawn again uniformly or by rank, reward or weight.

Every draw has the exact probability of what is there at that moment: nothing is stale, and what was
added can be drawn at once. Yet adding costs O(batch), and a draw neither sorts nor sums all of it.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .priority import TAIL, PowerLaw, RankLaw

__all__ = ["ReplayBatch", "ReplayBuffer"]


@dataclass(frozen=True)
class ReplayBatch:
    """Samples drawn with replacement, each with what was stored beside it.

    Here x (n, d), log_reward (n,), log_weight (n,) or None, condition (n, c) or None, and log_prob
    (n,) of drawing this entry: a draw stands for its weight w if it counts exp(log w - log_prob).
    """

    x: Tensor
    log_reward: Tensor
    log_prob: Tensor
    log_weight: Tensor | None = None
    condition: Tensor | None = None


class ReplayBuffer:
    """First-in first-out memory of samples, drawn with probabilities proportional to

    - "uniform": 1;
    - "rank": 1 / (rank_weight N + rank), the best of the N rewards having rank 0 (Tripp et al.,
      arXiv:2006.09191; Sendera et al., arXiv:2402.05098);
    - "reward": R^(1 / tau);
    - "weight": w^(1 / tau), importance-weighted replay (cf. arXiv:2510.11711);
    where tau >= 1 is the least with an effective sample size of at least temper_ess N.

    Args:
        capacity: most entries held; the oldest make room.
        dim, condition_dim: d; and c, or 0 if the samples have no condition.
        priority: one of the above.
        rank_weight: the smaller, the more the best are favoured.
        temper_ess: from above 0 to 1, which is uniform.
        refresh: draws after which the order, or tau, is made anew (earlier if much was added).
        device: where the entries live.

    Raises:
        ValueError: for a setting that is not allowed.
    """

    def __init__(
        self, capacity: int, dim: int, condition_dim: int = 0, priority: str = "rank",
        rank_weight: float = 0.01, temper_ess: float = 0.1, refresh: int = 100,
        device: torch.device | str = "cpu",
    ):  # fmt: skip
        counts = {"capacity": capacity, "dim": dim, "refresh": refresh}
        for name, value in (counts | {"condition_dim": condition_dim}).items():
            if not isinstance(value, int) or value < (name in counts):
                raise ValueError(f"{name}={value!r} must be a positive integer")
        if priority not in (known := ("uniform", "rank", "reward", "weight")):
            raise ValueError(f"priority={priority!r} is unknown; known: {', '.join(known)}")
        for name, value, high in (("rank_weight", rank_weight, 1e9), ("temper_ess", temper_ess, 1)):
            if not 0 < value <= high:
                raise ValueError(f"{name}={value!r} must be above 0 and at most {high:g}")
        self.settings = counts | {"condition_dim": condition_dim, "priority": priority}
        self.settings |= {"rank_weight": rank_weight, "temper_ess": temper_ess}
        self.capacity, self.device = capacity, torch.device(device)
        self._shapes = {"x": (dim,), "log_reward": (), "log_weight": ()}
        if condition_dim:
            self._shapes["condition"] = (condition_dim,)
        self._columns: dict[str, Tensor] = {}
        # Entries ever, those known to the law, those known to its last rebuild; draws since then.
        self._added = self._known = self._base = self._draws = 0
        self._law: RankLaw | PowerLaw | None = None

    def __len__(self):
        return min(self._added, self.capacity)

    def add(
        self, x: Tensor, log_reward: Tensor, log_weight: Tensor | None = None,
        condition: Tensor | None = None,
    ) -> None:  # fmt: skip
        """Keep x (B, d), log R (B,), and log w (B,) and c (B, c) where there are any.

        Raises:
            ValueError: for a wrong shape; a condition or log_weight that is missing, or that the
                buffer does not keep; and on the CPU, log R or log w that is not finite.
        """
        given = {"x": x, "log_reward": log_reward, "log_weight": log_weight, "condition": condition}
        given = {name: value.detach() for name, value in given.items() if value is not None}
        self._check(given)
        self._allocate(given)
        self._added += len(x)
        slots = self._slots(self._added - min(len(x), self.capacity))
        for name, new in given.items():
            self._columns[name][slots] = new[-self.capacity :]

    def sample(self, n: int, generator: torch.Generator | None = None) -> ReplayBatch:
        """Draw n entries with replacement, by the priority.

        Raises:
            ValueError: if the buffer is empty or n is below 1.
        """
        if not (size := len(self)) or n < 1:
            raise ValueError(f"cannot draw n={n} samples from a buffer of {size}")
        if self._law is None:  # uniform
            slots = torch.randint(size, (n,), generator=generator, device=self.device)
            log_prob = torch.full((n,), -math.log(size), device=self.device)
        else:
            self._update_law()
            slots, log_prob = self._law.draw(n, size, generator)
        return ReplayBatch(**{k: v[slots] for k, v in self._columns.items()}, log_prob=log_prob)

    def state_dict(self) -> dict:
        """All that future draws depend on, as tensors and numbers; the used part of the ring."""
        columns = {name: column[: len(self)].clone() for name, column in self._columns.items()}
        law = vars(self._law).items() if self._law else ()
        law = {name: value.clone() for name, value in law if name not in ("key", "strength")}
        counts = {name: getattr(self, name) for name in ("_added", "_known", "_base", "_draws")}
        return {"settings": self.settings, "counts": counts, "columns": columns, "law": law}

    def load_state_dict(self, state: dict) -> None:
        """Go on from the `state_dict()` of a buffer with the same settings.

        Raises:
            ValueError: if the settings differ.
        """
        if state["settings"] != self.settings:
            raise ValueError(f"buffer has settings {self.settings}, its state {state['settings']}")
        self._columns, self._law = {}, None
        vars(self).update(state["counts"])
        self._allocate(state["columns"])
        for name, column in state["columns"].items():
            self._columns[name][: len(self)] = column
        for name, value in state["law"].items():
            setattr(self._law, name, value.to(self.device, copy=True))

    def _update_law(self) -> None:
        tail = self._added - self._base
        if tail and (tail * TAIL > len(self) or self._draws >= self.settings["refresh"]):
            self._law.rebuild(len(self))
            self._base, self._draws = self._added, 0
        elif self._added > self._known:
            self._law.extend(self._slots(self._known))
        self._known = self._added
        self._draws += 1

    def _slots(self, start: int) -> Tensor:  # of the entries from number `start` on
        return torch.arange(start, self._added, device=self.device) % self.capacity

    def _allocate(self, names) -> None:
        if self._columns or not names:
            return
        shapes = {name: (self.capacity, *self._shapes[name]) for name in names}
        self._columns = {k: torch.empty(shape, device=self.device) for k, shape in shapes.items()}
        kind = self.settings["priority"]
        if kind == "rank":
            self._law = RankLaw(self._columns["log_reward"], self.settings["rank_weight"])
        elif kind != "uniform":
            self._law = PowerLaw(self._columns[f"log_{kind}"], self.settings["temper_ess"])

    def _check(self, given: dict[str, Tensor]) -> None:
        wanted = set(self._columns) or set(self._shapes)
        if not self._columns and self.settings["priority"] != "weight":
            wanted -= {"log_weight"} - set(given)  # the first batch decides if there are weights
        for name in sorted(wanted ^ set(given)):
            verb = "needs" if name in wanted else "keeps no"
            raise ValueError(f"buffer with priority={self.settings['priority']!r} {verb} {name}")
        for name, value in given.items():
            shape = (len(given["x"]), *self._shapes[name])
            if value.shape != shape or not len(value):
                raise ValueError(f"{name} must have shape {shape}, got {tuple(value.shape)}")
            if name[:4] == "log_" and value.device.type == "cpu" and not value.isfinite().all():
                raise ValueError(f"{name} is not finite: {int((~value.isfinite()).sum())} values")
