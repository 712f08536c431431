"""Part `profile`: which operations a training step spends its time in, plain and ours."""

from collections.abc import Iterator

from torch.profiler import ProfilerActivity, profile

from .measure import Progress
from .sizes import Sizes
from .tasks import Step, ours, sampler, trainer

__all__ = ["KINDS", "kind_of", "measure"]

# By what a profiler's name contains, the first that fits; what fits none is "bookkeeping": Python,
# views, autograd's own work.
KINDS = {
    "matrix products": ("mm", "matmul", "linear", "bmm"),
    "activations": ("gelu",),
    "time features": ("aten::sin", "aten::cos"),
    "noise": ("normal", "rand"),
    "optimiser": ("adam", "Optimizer", "foreach"),
    "copies": ("copy_", "aten::cat", "stack", "fill_", "zero_", "clone"),
    "elementwise and sums": (
        "aten::add", "aten::sub", "aten::mul", "aten::div", "aten::pow", "aten::sum", "aten::exp",
        "aten::log", "aten::clamp", "aten::square", "aten::neg", "aten::where", "softmax",
        "hardtanh", "aten::lt", "aten::ge", "aten::le", "aten::eq", "aten::all", "norm", "cumsum",
        "aten::mean", "aten::sqrt", "aten::max", "argmax", "isfinite", "aten::abs", "aten::ne",
    ),
}  # fmt: skip


def measure(sizes: Sizes, progress: Progress) -> Iterator[dict]:
    """An entry for each task and implementation: milliseconds of a step by kind of operation."""
    steps = 1 if sizes.small else 4
    for task in sizes.tasks:
        plain = trainer(task, Step(), sizes)
        calls = {
            "plain": lambda p=plain: p.forward_step(Step().exploration),
            "ours": ours([sampler(task, Step(), sizes)]),
        }
        for name, call in calls.items():
            progress.start(f"{task}, operations of {name}")
            for _ in range(3):
                call()
            with profile(activities=[ProfilerActivity.CPU]) as profiler:
                for _ in range(steps):
                    call()
            spent, operations = dict.fromkeys([*KINDS, "bookkeeping"], 0.0), 0
            for event in profiler.key_averages():
                spent[kind_of(event.key)] += 1e-3 * event.self_cpu_time_total / steps
                operations += event.count / steps if event.key.startswith("aten::") else 0
            yield {
                "task": task, "step": "TB+Expl forward", "variant": name, "unit": "ms",
                "milliseconds": spent, "operations": round(operations),
            }  # fmt: skip


def kind_of(name: str) -> str:
    """The kind of an operation, by the profiler's name for it."""
    if not name.startswith("aten::") and "dam" not in name and "Optimizer" not in name:
        return "bookkeeping"
    fits = (kind for kind, parts in KINDS.items() if any(part in name for part in parts))
    return next(fits, "bookkeeping")
