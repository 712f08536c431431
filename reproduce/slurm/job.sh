#!/usr/bin/env bash
# A batch job of `python -m reproduce submit`, which starts it in the repository with these words.
set -euo pipefail
[ ! -f .venv/bin/activate ] || source .venv/bin/activate
export OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-1}
# In the shell's place, so that Slurm's warning before the time limit reaches Python itself.
exec python -m reproduce "$@"
