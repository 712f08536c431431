# Sourced by quickstart.sh and tests/run.sh: enters the repository and makes its .venv, once.
# shellcheck shell=bash
cd "$(dirname "${BASH_SOURCE[0]}")/.."

wanted="${STRICT:+strict }$(cat requirements.txt gfnlite/pyproject.toml ${STRICT:+reproduce/constraints.txt} | cksum)"
if [ "$(cat .venv/.installed 2>/dev/null)" != "$wanted" ]; then
  python=${PYTHON:-python3}
  if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    echo "Python 3.11 or newer is needed, and '$python' is not: set PYTHON=/path/to/python3.11" >&2
    exit 1
  fi
  if [ ! -x .venv/bin/pip ] && ! "$python" -m venv .venv; then
    rm -rf .venv
    echo "'$python -m venv' failed: install your system's python3-venv package" >&2
    exit 1
  fi
  echo "Installing requirements.txt into .venv (about 2 GB, once)"
  if [ -n "${STRICT:-}" ]; then # every file by its hash, none built by code that is fetched for it
    .venv/bin/pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: \
      -r reproduce/constraints.txt
    .venv/bin/pip install --quiet --disable-pip-version-check --no-index --no-deps \
      --no-build-isolation -e ./gfnlite
  else
    # Where there is no NVIDIA driver the CPU build of PyTorch saves gigabytes; where its index is
    # out of reach, the ordinary one below serves.
    if [ "$(uname -s)" = Linux ] && ! command -v nvidia-smi >/dev/null && ! .venv/bin/python -c 'import torch' 2>/dev/null; then
      .venv/bin/pip install --quiet --retries 0 --timeout 10 "$(grep '^torch==' requirements.txt)" \
        --index-url https://download.pytorch.org/whl/cpu 2>/dev/null || true
    fi
    .venv/bin/pip install --quiet --disable-pip-version-check -r requirements.txt
  fi
  echo "$wanted" > .venv/.installed # last, so that an interrupted installation is done again
fi
export PATH="$PWD/.venv/bin:$PATH"
