"""Callbacks for `GFNDiffusion.fit`: each is called as callback(sampler, entry), and needs an extra.

An entry is a dict with iteration, seconds, energy_calls, loss, log_z, elbo and eubo, as a line of
history.jsonl. Any function with these two arguments is a callback.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .sampler import GFNDiffusion

__all__ = ["tensorboard", "wandb"]


def tensorboard(folder: str):
    """Write each entry to TensorBoard event files in `folder`.

    Raises:
        ImportError: without the package tensorboard.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError("this callback needs tensorboard: pip install tensorboard") from error
    writer = SummaryWriter(str(folder))

    def write(sampler: "GFNDiffusion", entry: dict) -> None:
        for name, value in _numbers(entry).items():
            writer.add_scalar(name, value, entry["iteration"])
        writer.flush()

    return write


def wandb(**options):
    """Log each entry to Weights & Biases; `options` go to wandb.init (mode="offline" works).

    Raises:
        ImportError: without the package wandb.
    """
    try:
        import wandb as client
    except ImportError as error:
        raise ImportError("this callback needs wandb: pip install wandb") from error
    run = client.init(**options)

    def log(sampler: "GFNDiffusion", entry: dict) -> None:
        run.log(_numbers(entry), step=entry["iteration"])

    return log


def _numbers(entry: dict) -> dict:
    return {name: value for name, value in entry.items() if value is not None}
