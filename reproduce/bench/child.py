"""Stages of `ideas` in a process whose allocator has seen nothing else: see `waterfall`.

It reads the name of a stage a line, takes one training step in that way, and writes how many
milliseconds that took. `python -m reproduce.bench.child TASK SIZES MEMORY`, the sizes as JSON;
unless MEMORY is "kept", glibc hands out memory as it does by default.
"""

import json
import sys

from .allocator import import_without_mallopt


def main(task: str, sizes: str, memory: str) -> None:
    """Answer until the input ends."""
    if memory != "kept":
        import_without_mallopt()
    from . import ideas
    from .measure import milliseconds
    from .sizes import Sizes

    rig = ideas.Rig(task, Sizes(**json.loads(sizes)))
    calls = {}
    for line in sys.stdin:
        name = line.rstrip("\n")
        if name not in calls:
            calls[name] = ideas.step(rig, name)
        print(milliseconds(calls[name]), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
