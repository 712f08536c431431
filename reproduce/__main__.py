"""`python -m reproduce`: the book's experiments, from one run on a laptop to a cluster's grid."""

from . import cli_results, cli_runs, cli_slurm
from .cli import entry, main

__all__ = ["cli_results", "cli_runs", "cli_slurm", "entry", "main"]

if __name__ == "__main__":
    entry()
