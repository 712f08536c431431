"""Replay: samples kept on the device, drawn again uniformly or by rank, reward or weight.

Every draw has the exact probability of what is there at that moment: nothing is stale, and what was
added can be drawn at once. Yet adding costs O(batch), and a draw neither sorts nor sums all of it.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .arguments import device as device_of
from .arguments import floats, positive, shown
from .config import integer
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
    """First-in first-out memory of samples, drawn with probabilities proportional to one of these.

    - "uniform": 1;
    - "rank": 1 / (rank_weight N + rank), the best of the N rewards having rank 0 (Tripp et al.,
      arXiv:2006.09191; Sendera et al., arXiv:2402.05098);
    - "reward": R^(1 / tau);
    - "weight": w^(1 / tau), importance-weighted replay (cf. arXiv:2510.11711).

    Here tau >= 1 is the least with an effective sample size of at least temper_ess N.

    Args:
        capacity: most samples held; the oldest make room.
        dim, condition_dim: d; and c, or 0 if the samples have no condition.
        group: K: so many neighbours share a condition, and are kept and drawn together, a group by
            its mean reward or weight.
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
        rank_weight: float = 0.01, temper_ess: float = 0.1, refresh: int = 100, group: int = 1,
        device: torch.device | str = "cpu",
    ):  # fmt: skip
        counts = {"capacity": capacity, "dim": dim, "refresh": refresh, "group": group}
        counts = {name: integer(name, value, 1) for name, value in counts.items()}
        capacity, dim, refresh, group = counts.values()
        condition_dim = integer("condition_dim", condition_dim, 0)
        if capacity < group:
            raise ValueError(f"capacity={capacity} must be at least group={group}")
        if priority not in (known := ("uniform", "rank", "reward", "weight")):
            raise ValueError(f"priority={shown(priority)} is unknown; known: {', '.join(known)}")
        for name, value, high in (("rank_weight", rank_weight, 1e9), ("temper_ess", temper_ess, 1)):
            if not positive(name, value) <= high:
                raise ValueError(f"{name}={shown(value)} must be above 0 and at most {high:g}")
        self.settings = counts | {"condition_dim": condition_dim, "priority": priority}
        self.settings |= {"rank_weight": rank_weight, "temper_ess": temper_ess}
        self.group, self.slots, self.device = group, capacity // group, device_of(device)
        self._shapes = {"x": (dim,), "log_reward": (), "log_weight": ()}
        if condition_dim:
            self._shapes["condition"] = (condition_dim,)
        self._columns: dict[str, Tensor] = {}
        # Entries ever, those known to the law, those known to its last rebuild; draws since then.
        self._added = self._known = self._base = self._draws = 0
        self._law: RankLaw | PowerLaw | None = None

    def __len__(self):
        return self._filled * self.group

    @property
    def _filled(self) -> int:  # slots, a group in each
        return min(self._added, self.slots)

    def add(
        self, x: Tensor, log_reward: Tensor, log_weight: Tensor | None = None,
        condition: Tensor | None = None,
    ) -> None:  # fmt: skip
        """Keep x (B, d), log R (B,), and log w (B,) and c (B, c) where there are any.

        Raises:
            ValueError: for a wrong shape or a B that is no multiple of `group`; a condition or
                log_weight that is missing, or that the buffer does not keep; and on the CPU, log R
                or log w that is not finite.
        """
        given = {"x": x, "log_reward": log_reward, "log_weight": log_weight, "condition": condition}
        given = {
            name: floats(name, value, self.device, torch.get_default_dtype()).detach()
            for name, value in given.items()
            if value is not None
        }
        self._check(given)
        self._allocate(given)
        count = len(given["x"]) // self.group
        self._added += count
        slots = self._slots(self._added - min(count, self.slots))
        groups = {name: new.unflatten(0, (count, self.group)) for name, new in given.items()}
        if condition is not None:
            groups["condition"] = groups["condition"][:, 0]
        for name, new in groups.items():
            self._columns[name][slots] = new[-self.slots :]
        if self._law is not None:
            self._law.key[slots] = self._key(slots)

    def sample(self, n: int, generator: torch.Generator | None = None) -> ReplayBatch:
        """Draw n entries with replacement, by the priority: n / K groups of K neighbours.

        Raises:
            ValueError: if the buffer is empty or n is below 1, or no multiple of K.
        """
        if not (size := self._filled) or n < 1 or n % self.group:
            groups = "" if self.group == 1 else f" in groups of {self.group}"
            raise ValueError(f"cannot draw n={n} samples from a buffer of {len(self)}{groups}")
        count = n // self.group
        if self._law is None:  # uniform
            slots = torch.randint(size, (count,), generator=generator, device=self.device)
            log_prob = torch.full((count,), -math.log(size), device=self.device)
        else:
            self._update_law()
            slots, log_prob = self._law.draw(count, size, generator)
        drawn = {name: column[slots] for name, column in self._columns.items()}
        shared = {"log_prob": log_prob - math.log(self.group)}
        if "condition" in drawn:
            shared["condition"] = drawn.pop("condition")
        each = {name: value.flatten(0, 1) for name, value in drawn.items()}
        return ReplayBatch(
            **each, **{k: v.repeat_interleave(self.group, 0) for k, v in shared.items()}
        )

    def state_dict(self) -> dict:
        """All that future draws depend on, as tensors and numbers; the used part of the ring."""
        columns = {name: column[: self._filled].clone() for name, column in self._columns.items()}
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
            self._columns[name][: self._filled] = column
        if self._law is not None:
            every = slice(self._filled)
            self._law.key[every] = self._key(every)
        for name, value in state["law"].items():
            setattr(self._law, name, value.to(self.device, copy=True))

    def _update_law(self) -> None:
        tail = self._added - self._base
        if tail and (tail * TAIL > self._filled or self._draws >= self.settings["refresh"]):
            self._law.rebuild(self._filled)
            self._base, self._draws = self._added, 0
        elif self._added > self._known:
            self._law.extend(self._slots(self._known))
        self._known = self._added
        self._draws += 1

    def _slots(self, start: int) -> Tensor:  # of the entries from number `start` on
        return torch.arange(start, self._added, device=self.device) % self.slots

    def _allocate(self, names) -> None:
        if self._columns or not names:
            return
        for name in names:
            each = () if name == "condition" else (self.group,)
            shape = (self.slots, *each, *self._shapes[name])
            self._columns[name] = torch.empty(shape, device=self.device)
        kind, key = self.settings["priority"], torch.empty(self.slots, device=self.device)
        if kind == "rank":
            self._law = RankLaw(key, self.settings["rank_weight"])
        elif kind != "uniform":
            self._law = PowerLaw(key, self.settings["temper_ess"])

    def _key(self, slots) -> Tensor:
        """What the law goes by: log of a group's mean reward, or weight."""
        name = "log_weight" if self.settings["priority"] == "weight" else "log_reward"
        return self._columns[name][slots].logsumexp(1) - math.log(self.group)

    def _check(self, given: dict[str, Tensor]) -> None:
        wanted = set(self._columns) or set(self._shapes)
        if not self._columns and self.settings["priority"] != "weight":
            wanted -= {"log_weight"} - set(given)  # the first batch decides if there are weights
        for name in sorted(wanted ^ set(given)):
            verb = "needs" if name in wanted else "keeps no"
            raise ValueError(f"buffer with priority={self.settings['priority']!r} {verb} {name}")
        for name, value in given.items():
            count = len(given["x"]) if given["x"].ndim else 0
            shape = (count, *self._shapes[name])
            if value.shape != shape or not count or count % self.group:
                groups = f", B a multiple of {self.group}" if self.group > 1 else ""
                got = tuple(value.shape)
                raise ValueError(f"{name} must have shape {shape}{groups}, got {got}")
            if name[:4] == "log_" and value.device.type == "cpu" and not value.isfinite().all():
                raise ValueError(f"{name} is not finite: {int((~value.isfinite()).sum())} values")
