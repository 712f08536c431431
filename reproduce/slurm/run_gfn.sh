#!/usr/bin/env bash
# One run from environment variables, under Slurm or not:
#
#   ENERGY=many_well T=50 BATCH_SIZE=512 EPOCHS=5000 LOCAL_SEARCH="" USE_AMP="" \
#     sbatch reproduce/slurm/run_gfn.sh
#
# A switch is on if it says so (LOCAL_SEARCH=1, USE_AMP=--use_amp); empty, or not set, it is off. For
# a GPU: sbatch --gres=gpu:1 …; preempted or out of time, the run goes on from its
# checkpoint. More options of `python -m reproduce train` may follow the script's name.
#SBATCH --job-name=gfn
#SBATCH --cpus-per-task=1
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@90
set -euo pipefail

# Slurm runs a copy of this file from elsewhere, but says where it was submitted.
root=
for here in "$(dirname "${BASH_SOURCE[0]}")" "${SLURM_SUBMIT_DIR:-.}"; do
  here=$(cd "$here" && pwd -P)
  while [ -n "$here" ] && [ ! -f "$here/reproduce/environment.sh" ]; do
    here=${here%/*}
  done
  root=${root:-$here}
done
if [ -z "$root" ]; then
  echo "run_gfn.sh: '${SLURM_SUBMIT_DIR:-$PWD}' is not in the repository: submit from inside of it" >&2
  exit 2
fi
if [ ! -d "$root/.venv" ]; then
  echo "run_gfn.sh: '$root' has no .venv: run 'source reproduce/environment.sh' there first, once" >&2
  exit 2
fi
source "$root/reproduce/environment.sh" # enters the repository

export OMP_NUM_THREADS=${OMP_NUM_THREADS:-${SLURM_CPUS_PER_TASK:-1}}
# The values stay in the environment and are read there: none becomes part of a command.
exec python -m reproduce train --from-environment "$@" # in place of the shell: it gets the signal
