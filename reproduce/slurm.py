"""Slurm: to be written."""


def queue() -> dict[str, str]:
    """What Slurm's queue says of runs, by their names; empty without Slurm."""
    return {}
