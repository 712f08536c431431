"""Part `ideas`, measured: each stage in a process of its own, one step of each in turn.

How glibc hands out memory depends on all that a process has allocated before, so a stage must not
share one with the others; the rounds are still interleaved, since the processes wait for each
other.
"""

import json
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import asdict

from . import ideas
from .measure import Progress, interleaved, ratio, summary
from .process import ROOT, command
from .sizes import Sizes

__all__ = ["measure"]


def measure(sizes: Sizes, progress: Progress) -> Iterator[dict]:
    """An entry for each task and stage, with its gain over the one before and over the first."""
    for task in sizes.tasks:
        progress.start(f"{task}, TB+Expl forward, idea by idea")
        with ExitStack() as stack:
            variants = {name: call for name, call in _children(task, sizes, stack)}
            times = interleaved(
                variants, sizes.repeats, progress=progress.round, clock=lambda call: call()
            )
        before = first = times["plain"]
        for name, values in times.items():
            yield {
                "task": task, "stage": name, "step": summary(values),
                "gain": ratio(before, values), "total": ratio(first, values),
            }  # fmt: skip
            before = values


def _children(task: str, sizes: Sizes, stack: ExitStack):
    """(stage, call) of each; a call has one step taken, and returns its milliseconds."""
    started = {}
    for name, (_, _, keep) in ideas.STAGES.items():
        if name == "compiled" and (sizes.small or not ideas.can_compile()):
            continue  # it takes a minute, and a compiler
        memory = "kept" if keep else "default"
        key = memory if sizes.small else name  # a process takes seconds to start
        if key not in started:
            words = command("child", task, json.dumps(asdict(sizes)), memory)
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
            child = subprocess.Popen(words, text=True, cwd=ROOT, **pipes)
            stack.callback(_end, child)
            started[key] = child
        yield name, lambda child=started[key], name=name: _ask(child, name)


def _ask(child: subprocess.Popen, name: str) -> float:
    with suppress(BrokenPipeError):
        child.stdin.write(name + "\n")
        child.stdin.flush()
    answer = child.stdout.readline()
    if not answer:
        raise RuntimeError(f"the process of stage {name!r} ended with code {child.wait()}")
    return float(answer)


def _end(child: subprocess.Popen) -> None:
    with suppress(BrokenPipeError):
        child.stdin.close()
    child.stdout.close()
    child.wait()
