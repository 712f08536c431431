#!/usr/bin/env bash
# Every test, on the installed package. `--all` adds the long ones; other arguments go to pytest.
set -euo pipefail
source "$(dirname "$0")/../reproduce/environment.sh"

PATH=$PATH:/usr/sbin:/sbin # where the daemons of Slurm are
declare -A programs=([chromium]=chromium [slurmctld]=slurm-wlm [slurmd]=slurm-wlm [munged]=munge)
packages=()
for program in "${!programs[@]}"; do
  command -v "$program" >/dev/null || packages+=("${programs[$program]}")
done
if [ ${#packages[@]} -gt 0 ] && command -v apt-get >/dev/null; then
  as_root=() # or sudo, where it asks for no password
  [ "$(id -u)" = 0 ] || as_root=(sudo -n)
  "${as_root[@]}" apt-get update -qq && "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null || true
fi
command -v chromium >/dev/null || echo "NO BROWSER: the tests of the built pages will be SKIPPED" >&2
command -v slurmctld >/dev/null || echo "NO SLURM: the tests on a cluster will be SKIPPED" >&2

ruff check .
ruff format --check .

# From outside the root: at the root the folder gfnlite would stand in for a broken installation.
root=$PWD
export OMP_NUM_THREADS=1
cd "$(mktemp -d)"
exec python -m pytest -n 2 --dist loadgroup "$root/tests" -c "$root/.pytest.ini" --rootdir "$root" "$@"
