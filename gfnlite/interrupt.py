"""Ctrl-C at the end of a step: a training that is interrupted stops where its state is whole."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["Interrupt", "deferred_interrupt"]


class Interrupt:
    """Whether an interrupt has come."""

    came = False


@contextmanager
def deferred_interrupt() -> Iterator[Interrupt]:
    """Within, SIGINT is noted and not raised; a second one is raised at once.

    What runs within looks at `came` where it can stop. Signals reach the main thread only: in
    another, or where somebody else handles SIGINT, nothing changes.
    """
    interrupt, before = Interrupt(), signal.getsignal(signal.SIGINT)
    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or before is not signal.default_int_handler:
        yield interrupt
        return

    def note(number, frame):
        if interrupt.came:
            signal.default_int_handler(number, frame)
        interrupt.came = True

    signal.signal(signal.SIGINT, note)
    try:
        yield interrupt
    finally:
        signal.signal(signal.SIGINT, before)
