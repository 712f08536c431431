"""What is kept of a finished sampler: its evaluation, and the paper's cells beside it."""

from pathlib import Path
from typing import TYPE_CHECKING

from .files import write_json
from .metrics import Evaluation

if TYPE_CHECKING:
    from .sampler import GFNDiffusion

__all__ = ["keep_metrics", "record"]


def record(
    sampler: "GFNDiffusion",
    folder: str | Path | None = None,
    n_samples: int = 20_000,
    paper_samples: int = 2000,
) -> Evaluation:
    """Evaluate a sampler by its own seed and keep the metrics, once, in `folder`/metrics.json.

    The file has all of the evaluation, seed, seconds, n_modes and true_log_z; and, from other
    samples as few as the paper's tables use (arXiv:2402.05098), paper_elbo, paper_log_z_is, w2,
    delta_log_z = log Z - paper_elbo, delta_log_z_rw = log Z - paper_log_z_is with its sign. What
    needs a truth that the target does not know is None. A file that is there stays as it is.

    Args:
        sampler: of a target without a condition.
        folder: where to write; None: nowhere.
        n_samples: trajectories of the evaluation, at least 2.
        paper_samples: of the paper's cells; never more than `n_samples`.

    Raises:
        ValueError: as `GFNDiffusion.evaluate`.
    """
    evaluation = sampler.evaluate(n_samples, seed=sampler.seed)
    if folder is not None and not (Path(folder) / "metrics.json").exists():
        paper = sampler.evaluate(min(paper_samples, n_samples), seed=sampler.seed + 1000)
        keep_metrics(folder, evaluation, paper, sampler.seed, sampler.seconds)
    return evaluation


def keep_metrics(
    folder: str | Path, evaluation: Evaluation, paper: Evaluation, seed: int, seconds: float
) -> None:
    """Write `folder`/metrics.json as `record` describes it, unless it is there."""
    path = Path(folder) / "metrics.json"
    if path.exists():
        return
    truth, weights = evaluation["log_z"], evaluation["mode_weights"]
    metrics = evaluation | {
        "seed": seed,
        "seconds": seconds,
        "n_modes": None if weights is None else len(weights),
        "true_log_z": truth,
        "paper_elbo": paper["elbo"],
        "paper_log_z_is": paper["log_z_is"],
        "delta_log_z": _error(truth, paper["elbo"]),
        "delta_log_z_rw": _error(truth, paper["log_z_is"]),
        "w2": paper["w2"],
    }
    write_json(path, metrics)


def _error(truth: float | None, estimate: float | None) -> float | None:
    return None if truth is None or estimate is None else truth - estimate
