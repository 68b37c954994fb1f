"""Fashion-MNIST (MIT): 60,000 images of ten kinds of clothes, out of Debian's package."""

from __future__ import annotations

import gzip
import shutil
import subprocess
import tempfile
from hashlib import sha256
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pocketfl_benchmarks.flights.cache import cache_directory
from pocketfl_benchmarks.packages import ArchiveError

PACKAGE: Final = "dataset-fashion-mnist"
SHA256: Final = "39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0"
"""Of version 0.0~git20200523.55506a9-1; 31 MB."""
SIDE: Final = 28
"""Pixels of an image's side."""

_FOLDER: Final = "usr/share/datasets/fashion-mnist"
_FILES: Final = {
    "train-images-idx3-ubyte.gz": "b0564c3eedabfbf835052cff8503ea422014ce006caf5b757f851416ee8300c7",
    "train-labels-idx1-ubyte.gz": "0ae29f65d86684f32d1b9c85147786c547b9c6aebcaf235f0400a0cce308b056",
}
_PARTS: Final = "fashion-mnist"


def load_fashion() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return the images and their labels.

    Returns
    -------
    images : ndarray of uint8, shape (60000, 28, 28)
        0 is background.
    labels : ndarray of int64, shape (60000,)
        0 to 9.

    Raises
    ------
    ArchiveError
        If there is no such package here, or it is another one.
    """
    images, labels = (_read(name) for name in _FILES)
    return images[16:].reshape(-1, SIDE, SIDE), labels[8:].astype(np.int64)


def fetch_fashion() -> Path:
    """Fetch the files if they are not here; return their folder. Raises as :func:`load_fashion`."""
    kept = cache_directory() / _PARTS
    if not all((kept / name).is_file() for name in _FILES):
        _fetch(kept)
    return kept


def _read(name: str) -> NDArray[np.uint8]:
    kept = fetch_fashion()
    packed = (kept / name).read_bytes()
    if sha256(packed).hexdigest() != _FILES[name]:
        raise ArchiveError(
            f"{kept / name} is not the pinned one: delete it to have it fetched again"
        )
    return np.frombuffer(gzip.decompress(packed), dtype=np.uint8)


def _fetch(kept: Path) -> None:
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise ArchiveError(
            "Fashion-MNIST comes as a Debian package, and this machine has no apt-get: put its files "
            f"{' and '.join(_FILES)} into {kept}"
        )
    with tempfile.TemporaryDirectory(prefix="pocketfl-fashion-") as folder:
        if not _download(folder):
            # A fresh machine has no lists of packages; only an administrator may fetch them.
            subprocess.run(["apt-get", "update", "-qq"], capture_output=True, check=False)  # noqa: S607
            if not _download(folder):
                raise ArchiveError(
                    f"apt-get cannot download {PACKAGE}; run apt-get update and try again"
                )
        (package,) = Path(folder).glob("*.deb")
        found = sha256(package.read_bytes()).hexdigest()
        if found != SHA256:
            raise ArchiveError(f"{package.name} is another one: its sha256 is {found}")
        unpack = ["dpkg-deb", "-x", str(package), folder]
        subprocess.run(unpack, check=True)  # noqa: S603
        kept.mkdir(parents=True, exist_ok=True)
        for name in _FILES:
            partial = kept / f"{name}.partial"
            shutil.copyfile(Path(folder, _FOLDER, name), partial)
            partial.replace(kept / name)


def _download(folder: str) -> bool:
    command = ["apt-get", "download", "-qq", PACKAGE]
    done = subprocess.run(command, cwd=folder, capture_output=True, check=False)  # noqa: S603
    return done.returncode == 0
