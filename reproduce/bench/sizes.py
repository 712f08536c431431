"""How large, and how often: of everything that is measured."""

from dataclasses import dataclass

__all__ = ["FULL", "SMALL", "TASKS", "Sizes"]

TASKS = ("25gmm", "manywell32")


@dataclass(frozen=True)
class Sizes:
    """The published benchmark's sizes are the defaults.

    Attributes:
        repeats: rounds of a comparison.
        steps, batch, hidden: T, B and the networks' width.
        search: MALA steps of a local search.
        held: samples in the buffer of a step that replays.
        full: samples in a full buffer.
        cycle: iterations from one local search to the next.
        small: leave out what takes long, however small.
        tasks: what is measured.
    """

    repeats: int = 30
    steps: int = 100
    batch: int = 300
    hidden: int = 64
    search: int = 200
    held: int = 20_000
    full: int = 600_000
    cycle: int = 100
    small: bool = False
    tasks: tuple[str, ...] = TASKS


FULL = Sizes()
# Seconds in all; the figures mean nothing.
SMALL = Sizes(
    repeats=2, steps=4, batch=20, hidden=8, search=4, held=200, full=2000, cycle=4, small=True,
    tasks=TASKS[:1],
)  # fmt: skip
