"""Laws by which a buffer is drawn: by rank, or by a tempered power of a key, each draw exact.

A law knows the entries as they were at its last rebuild, and accounts for what came since (the
tail) and for what the tail overwrote (the lost).
"""

import math

import numpy as np
import torch
from torch import Tensor

__all__ = ["PowerLaw", "RankLaw"]

HEAD = 1024  # so many best ranks, or largest weights, count one by one
TAIL = 50  # rebuild when the tail reaches 1 / TAIL of the entries
BLOCK = 128  # entries whose weights are summed together


class RankLaw:
    """p(slot) proportional to 1 / (k N + rank), by the order of the ring at the last rebuild.

    Entries since then are the tail, and what they have overwritten is lost: both shift the ranks.
    """

    def __init__(self, key: Tensor, k: float):
        self.key, self.strength = key, k

    def rebuild(self, size: int) -> None:
        """Look at all of the first `size` entries anew."""
        self.order = _sort(-self.key[:size], arg=True)  # slots, best first
        self.sorted = _sort(-self.key[:size])
        count = torch.arange(size, device=self.key.device)
        self.place = torch.empty_like(self.order).scatter_(0, self.order, count)
        self.tail = self.above = count[:0]
        self.extend(count[:0])

    def extend(self, slots: Tensor) -> None:
        """Take notice of new entries in these slots."""
        above = torch.searchsorted(self.sorted, -self.key[slots], right=True)
        self.tail, self.above = torch.cat((self.tail, slots)), torch.cat((self.above, above))
        first = _sort(-self.key[self.tail], arg=True)
        self.best, above = self.tail[first], self.above[first]
        lost = _sort(self.place[self.tail[len(self.key) - len(self.order) :]])  # the first fill up
        count = torch.arange(len(first), device=self.key.device)
        if lost.device.type == "cpu":  # a search by sorting, twice as fast
            both = _sort(torch.cat((2 * lost + 1, 2 * above)))
            below = (both & 1).cumsum(0)[both & 1 == 0]
        else:
            below = torch.searchsorted(lost, above)
        self.ranks = above + count - below  # of `best`
        self.gaps = lost - count[: len(lost)]  # survivors above each loss

    def draw(self, n: int, size: int, generator) -> tuple[Tensor, Tensor]:
        """Slots (n,) and their log probabilities (n,)."""
        rank, log_prob = _draw_ranks(n, size, self.strength * size, generator, self.key.device)
        above = torch.searchsorted(self.ranks, rank, right=True)  # of the tail, down to this rank
        survivor = rank - above
        slots = self.order[survivor + torch.searchsorted(self.gaps, survivor, right=True)]
        if len(self.tail):
            last = (above - 1).clamp_(min=0)
            slots = torch.where(self.ranks[last] == rank, self.best[last], slots)
        return slots, log_prob


class PowerLaw:
    """p(slot) proportional to exp(beta key), by the log sums of blocks of slots."""

    def __init__(self, key: Tensor, ess: float):
        self.key, self.strength = key, ess

    def rebuild(self, size: int) -> None:
        """Look at all of the first `size` entries anew."""
        room = min(len(self.key), size + size // (TAIL - 1) + 1)  # until the next rebuild
        self.blocks = self.key.new_full((-(-room // BLOCK), BLOCK), -math.inf)
        self.blocks.view(-1)[:size] = self.key[:size]
        self.beta = _temper(self.key[:size], self.strength)
        self.sums = (self.beta * self.blocks).logsumexp(1)

    def extend(self, slots: Tensor) -> None:
        """Take notice of new entries in these slots."""
        self.blocks.view(-1)[slots] = self.key[slots]
        # A block has at least one of every BLOCK slots in turn, or else it is the last, or first.
        fresh = torch.cat((slots[::BLOCK], slots[-1:], slots.amax(0, True), slots.amin(0, True)))
        fresh //= BLOCK
        self.sums[fresh] = (self.beta * self.blocks[fresh]).logsumexp(1)

    def draw(self, n: int, size: int, generator) -> tuple[Tensor, Tensor]:
        """Slots (n,) and their log probabilities (n,)."""
        u, v = self.sums.new_empty((2, n, 1), dtype=torch.float64).uniform_(generator=generator)
        block = _invert(self.sums.double(), u[:, 0])
        within = _invert((self.beta * self.blocks[block]).double(), v)[:, 0]
        slots = block * BLOCK + within
        return slots, self.beta * self.key[slots] - self.sums.logsumexp(0)


def _invert(log_p: Tensor, u: Tensor) -> Tensor:
    """Indices drawn from softmax(log_p) along the last axis, by uniform numbers u."""
    sums = log_p.softmax(-1).cumsum(-1)
    return torch.searchsorted(sums, u * sums[..., -1:], right=True).clamp_(max=sums.shape[-1] - 1)


def _draw_ranks(n: int, size: int, a: float, generator, device) -> tuple[Tensor, Tensor]:
    """Ranks below `size` with p proportional to 1 / (a + rank), and their log probabilities."""
    # Beyond HEAD, 1 / (a + r) is log((a + r + 1/2) / (a + r - 1/2)) to one part in 10^7, and the
    # sum of these is inverted in closed form.
    head = min(HEAD, size)
    sums = (a + torch.arange(head, dtype=torch.float64, device=device)).reciprocal_().cumsum(0)
    total = sums[-1] + math.log((size + a - 0.5) / (head + a - 0.5) if size > head else 1)
    u = total * torch.rand(n, dtype=torch.float64, generator=generator, device=device)
    beyond = ((head + a - 0.5) * (u - sums[-1]).exp() - (a - 0.5)).long()
    rank = torch.where(u < sums[-1], torch.searchsorted(sums, u, right=True), beyond)
    rank.clamp_(max=size - 1)  # u may round up
    return rank, -((a + rank) * total).log().float()


def _temper(key: Tensor, ess: float) -> Tensor:
    """The largest beta <= 1 with which weights exp(beta key) have an ESS of `ess` of their number.

    The largest weights decide, and count one by one; evenly spread ones stand for the others.
    """
    n, key = len(key), (key - key.max()).double()
    share = torch.ones_like(key)
    if n > 4 * HEAD:
        # Golden-ratio places: entries that came in batches repeat, and no stride may fall in step.
        golden = torch.arange(HEAD, device=key.device, dtype=torch.float64) * 0.6180339887498949
        best, key = key.topk(HEAD, sorted=False).values, key[(golden % 1 * n).long()]
        share = (key <= best.min()).double()
        share = torch.cat((torch.ones_like(best), share * (n - HEAD) / share.sum()))
        key = torch.cat((best, key))
    low, high = torch.zeros_like(key[0]), torch.ones_like(key[0])
    for _ in range(40):
        beta = (low + high) / 2
        w = (beta * key).exp_()
        enough = (share @ w).square() >= ess * n * (share @ w.square())
        low, high = torch.where(enough, beta, low), torch.where(enough, high, beta)
    return low.clamp(min=1e-12).float()  # 1 - 2^-40 is 1


def _sort(x: Tensor, arg: bool = False) -> Tensor:
    if x.device.type != "cpu":
        return x.argsort() if arg else x.sort().values
    return torch.from_numpy((np.argsort if arg else np.sort)(x.numpy()))  # 6 times torch's speed
