"""constraints.txt: all that requirements.txt brings, each file of it by its hash.

    pip install uv && python -m reproduce.constraints

in the environment that was tested, whose versions it takes. Hashes are those of the public index,
of wheels for Linux on x86-64 and Python 3.11 and of wheels for all systems.
"""

import re
import subprocess
import tempfile
import tomllib
from importlib.metadata import distributions
from pathlib import Path

from gfnlite.files import write_bytes

from .experiments import ROOT

__all__ = ["lines", "main"]

PATH = ROOT / "reproduce" / "constraints.txt"
HEAD = """\
# All of requirements.txt and what that needs, for Python 3.11 on Linux, x86-64 (on which PyTorch's
# default build includes CUDA). Made by `python -m reproduce.constraints`. To install this alone:
#   pip install --require-hashes --only-binary :all: -r reproduce/constraints.txt
#   pip install --no-deps --no-build-isolation -e ./gfnlite
"""
# For the platform that is named, not the machine that this runs on. 3.11 alone would be 3.11.0, on
# which not all of it runs.
RESOLVE = (
    "uv pip compile --python-version 3.11.7 --python-platform x86_64-manylinux_2_28 --no-config "
    "--format pylock.toml --quiet"
).split()


def lines(lock: str) -> list[str]:
    """A line for each package of a lock file (PEP 751), with the hashes of its wheels.

    Raises:
        ValueError: for a package without a wheel, which would be built by code of its own.
    """
    made = []
    for package in tomllib.loads(lock)["packages"]:
        if "directory" in package:  # gfnlite itself
            continue
        pin = f"{package['name']}=={package['version']}"
        hashes = sorted({wheel["hashes"]["sha256"] for wheel in package.get("wheels", ())})
        if not hashes:
            raise ValueError(f"{pin} has no wheel for this platform")
        made.append(" \\\n    ".join([pin, *(f"--hash=sha256:{digest}" for digest in hashes)]))
    return made


def main() -> None:
    """Write the file anew."""
    here = [(re.sub(r"[-_.]+", "-", one.name).lower(), one.version) for one in distributions()]
    with tempfile.TemporaryDirectory() as folder:
        tested, lock = Path(folder) / "tested.txt", Path(folder) / "pylock.toml"
        # A build of PyTorch for CPUs is of the same version, as far as the index knows.
        pins = [f"{name}=={version.partition('+')[0]}" for name, version in here]
        tested.write_text("\n".join(pin for pin in pins if not pin.startswith("gfnlite==")))
        words = [*RESOLVE, "requirements.txt", "-c", str(tested), "-o", str(lock)]
        subprocess.run(words, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        text = HEAD + "\n".join(lines(lock.read_text())) + "\n"
        write_bytes(PATH, text.encode())


if __name__ == "__main__":
    main()
