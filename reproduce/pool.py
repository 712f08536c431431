"""Several runs at once on one machine: a process for each, on a core or a GPU.

The standard pools do not serve here: one worker that is killed breaks them. A process for each run
can die alone, and takes nothing with it but what it has done since its last checkpoint.
"""

import importlib
import multiprocessing
import os
import re
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from gfnlite.arguments import shown

from . import runner
from .experiments import BadInput, Run
from .lock import Busy
from .stopping import end_with

__all__ = ["Watcher", "cores", "gpus", "run_all", "threads"]

LOG = "log.txt"
SIGNALS = (signal.SIGINT, signal.SIGTERM)
TICK = 0.5  # seconds between two looks at how far the runs are

# Called as watcher(run, state): "started", None at each tick while it runs, then how it ended.
Watcher = Callable[[Run, str | None], None]


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def threads() -> int:
    """Threads that a run computes with: those of OMP_NUM_THREADS, or one.

    Raises:
        BadInput: if it says no number, at which a run would fail when it has begun.
    """
    text = os.environ.get("OMP_NUM_THREADS", "1")
    if not (re.fullmatch("[0-9]{1,4}", text) and int(text)):
        raise BadInput(f"OMP_NUM_THREADS={shown(text)} must be an integer from 1 to 9999")
    return int(text)


def gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them; none without CUDA."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [part for part in named.split(",") if part not in ("", "-1")]
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")  # CUDA does not survive a fork
    import torch

    return [str(index) for index in range(torch.cuda.device_count())]


def run_all(
    runs: Sequence[Run],
    jobs: int,
    devices: Sequence[str] = (),
    limit: float | None = None,
    watcher: Watcher = lambda run, state: None,
) -> dict[str, str]:
    """Execute runs, `jobs` at a time, worker k on device k modulo their number; status by name.

    A signal to this process is passed on: the runs save their checkpoints and end, and no other
    begins. If it is killed, its workers are told so by the system, and do the same.

    Raises:
        KeyboardInterrupt: if a signal came before all were done.
    """
    importlib.import_module(".papers", __package__)  # once, for all workers
    waiting, working, ended = list(runs), {}, {}
    with _noted() as stopping:
        free, passed = list(range(jobs))[::-1], 0
        while working or (waiting and not stopping):
            while waiting and free and not stopping:
                run, slot = waiting.pop(0), free.pop()
                device = devices[slot % len(devices)] if devices else None
                process, told = _start(run, device, limit)
                working[process.sentinel] = (process, run, slot, told)
                watcher(run, "started")
            ready = set(wait(list(working), timeout=TICK))
            if len(stopping) > passed:
                passed = len(stopping)
                for process, *_ in working.values():
                    process.terminate()
            for sentinel, (process, run, slot, told) in list(working.items()):
                if sentinel not in ready:
                    watcher(run, None)
                    continue
                del working[sentinel]
                process.join()
                free.append(slot)
                ended[run.name] = _end_of(run, process.exitcode, told)
                watcher(run, ended[run.name])
    if stopping and (waiting or set(ended.values()) != {"done"}):
        raise KeyboardInterrupt
    return ended


def _start(run: Run, device: str | None, limit: float | None) -> tuple[BaseProcess, Connection]:
    """The worker, and the end of a pipe that it tells through what it cannot write down."""
    # Forked, it has all modules at hand; spawned (where there is no fork) it takes seconds.
    kinds = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("fork" if "fork" in kinds else "spawn")
    told, tell = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(run, device, limit, os.getpid(), tell))
    with _signals_wait():  # until the worker has handlers of its own
        process.start()
    tell.close()
    return process, told


def _work(run: Run, device: str | None, limit: float | None, parent: int, tell: Connection) -> None:
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL)  # not the parent's
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    os.setsid()  # Ctrl-C reaches the parent alone, which passes it on
    end_with(parent, signal.SIGTERM)
    if device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = device
    try:
        run.folder.mkdir(parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
        log = os.open(run.folder / LOG, flags, 0o644)
        for stream in (1, 2):
            os.dup2(log, stream)
        runner.execute(run, limit)
    except Busy:
        tell.send("busy")
    except OSError as error:  # a full or read-only disk: run.json cannot say it
        tell.send(f"failed, {error.strerror}: {error.filename}")


def _end_of(run: Run, exit_code: int | None, told: Connection) -> str:
    """How a run ended, from its record; what killed its worker is written there for it."""
    with told:
        if told.poll():
            try:
                return told.recv()
            except EOFError:  # it is dead, and said nothing
                pass
    if exit_code:
        killed = (
            f"was killed by {signal.Signals(-exit_code).name}" if exit_code < 0 else "broke off"
        )
        try:
            runner.amend(run, f"its process {killed}")
        except Busy:
            return "busy"
    return runner.status(run)


@contextmanager
def _signals_wait() -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _noted() -> Iterator[list[int]]:
    """SIGINT and SIGTERM do nothing to this process but that they are in the list it yields."""
    came: list[int] = []
    before = [signal.signal(number, lambda n, _frame: came.append(n)) for number in SIGNALS]
    try:
        yield came
    finally:
        for number, handler in zip(SIGNALS, before, strict=True):
            signal.signal(number, handler)
