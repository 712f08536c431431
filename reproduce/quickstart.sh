#!/usr/bin/env bash
# From nothing to a trained sampler, its table, and the book. Run again, it reuses what is done.
set -euo pipefail
source "$(dirname "$0")/environment.sh"

# Matrices this small gain little from more threads, and lose much on a busy machine.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

python -m reproduce run --only task=25gmm method=TB+Expl --profile quick --seeds 0
echo
python -m reproduce collect
echo
echo "Building the book (its pages in the smoke profile; the results page shows the run above)"
GFNLITE_PROFILE=smoke jupyter-book build . --path-output . -W -n --keep-going --quiet
echo
echo "Open $PWD/_build/html/index.html, or:  python3 -m http.server -d _build/html"
