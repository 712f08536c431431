"""By how much one training makes its process grow: `memory` runs this once for each training.

`python -m reproduce.bench.growth WHO TASK SIZES ITERATIONS`, the sizes as JSON, prints MiB. Two
tiny steps come first, so that what libraries allocate once is not counted. The plain baseline has
glibc's memory as it is by default, without what gfnlite asks of it.
"""

import json
import resource
import sys
from pathlib import Path

from .allocator import import_without_mallopt

__all__ = ["peak"]


def peak() -> float:
    """The most memory that this process has had resident at a time, in MiB."""
    status = Path("/proc/self/status")
    if status.exists():  # there getrusage counts what the parent had when it started this one
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def main(who: str, task: str, sizes: str, iterations: str) -> None:
    """Train a little, then as asked; print the growth of the peak."""
    if who == "plain":
        import_without_mallopt()
    from .sizes import SMALL, Sizes
    from .tasks import Step, ours, sampler, trainer

    def train(sizes: Sizes, iterations: int) -> None:
        if who == "ours":
            call = ours([sampler(task, Step(), sizes)])
        else:
            baseline = trainer(task, Step(), sizes)

            def call():
                return baseline.forward_step(Step().exploration)

        for _ in range(iterations):
            call()

    train(SMALL, 2)
    before = peak()
    train(Sizes(**json.loads(sizes)), int(iterations))
    print(peak() - before)


if __name__ == "__main__":
    main(*sys.argv[1:])
