"""How a run is told to stop: its kernel is interrupted, saves its checkpoint, and ends."""

import ctypes
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["GRACE", "Stop", "Stopped", "end_with", "stoppable"]

GRACE = 60.0  # seconds that a step may take to its end, and a checkpoint to be written
# USR1 is what Slurm is asked to send ahead of a time limit.
CAUSES = {
    signal.SIGINT: "interrupted from the keyboard",
    signal.SIGTERM: "told to terminate",
    signal.SIGUSR1: "told that its time is nearly up",
}


class Stopped(BaseException):
    """Raised where a run can stop without a kernel to interrupt."""


class Stop:
    """What has come.

    Attributes:
        cause: in words; None as long as nothing has.
        kernel: process id of the kernel to interrupt; None if there is none.
        begun: whether it has been given a cell.
        grace: seconds between the interrupt and the kill.
    """

    cause: str | None = None
    kernel: int | None = None
    begun: bool = False

    def __init__(self, grace: float = GRACE):
        self.grace = grace

    def ask(self, cause: str) -> None:
        """First interrupt the kernel; asked again, or after the grace, kill it.

        One that has not begun has nothing to save and is killed at once: an interrupt amid its
        start can leave it alive and deaf. Where there is none, nothing happens but that `check`
        will raise.
        """
        again, self.cause = self.cause is not None, self.cause or cause
        if self.kernel is None:
            return
        signal.setitimer(signal.ITIMER_REAL, self.grace)
        try:  # it leads a process group of its own
            kill = again or not self.begun
            os.killpg(self.kernel, signal.SIGKILL if kill else signal.SIGINT)
        except ProcessLookupError:
            pass

    def check(self, **_cell) -> None:
        """For where no interrupt would be heard: before a kernel has begun, and between two cells.

        Raises:
            Stopped: if anything has come.
        """
        if self.cause is not None:
            raise Stopped(self.cause)
        self.begun = self.kernel is not None


@contextmanager
def stoppable(limit: float | None = None, grace: float = GRACE) -> Iterator[Stop]:
    """Within, signals and a time limit in seconds stop the run that is in `Stop.kernel`.

    Python delivers signals to its main thread: call it there.
    """
    stop = Stop(grace)
    causes = CAUSES | {signal.SIGALRM: f"its time limit of {limit or grace:g} s is over"}
    before = {number: signal.getsignal(number) for number in causes}
    for number, cause in causes.items():
        signal.signal(number, lambda _number, _frame, cause=cause: stop.ask(cause))
    if limit is not None:
        signal.setitimer(signal.ITIMER_REAL, limit)
    try:
        yield stop
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)


def end_with(parent: int, number: int) -> None:
    """Have the system send this process a signal when its parent dies; only Linux does."""
    if _LIBC is not None:
        _LIBC.prctl(_PARENT_DEATH_SIGNAL, number)
        if os.getppid() != parent:  # it died before that
            os._exit(1)
