"""A virtual environment for each peer, made from the package registry and kept in the cache."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pocketfl.errors import PocketFLError
from pocketfl_benchmarks.flights.cache import cache_directory

_SECONDS: Final = 1200


class PeerError(PocketFLError):
    """A peer cannot be installed, or fails at the work."""


@dataclass(frozen=True, kw_only=True)
class Peer:
    """What is installed for a peer.

    Attributes
    ----------
    name : str
        Of its program, ``with_NAME.py``.
    requirements : tuple of str
        Pinned.
    """

    name: str
    requirements: tuple[str, ...]

    def python(self) -> Path:
        """Return the interpreter of the peer's environment, which is made if it does not exist.

        torch is lent from this environment, so that all peers compute with the same build of it.

        Raises
        ------
        PeerError
            If it cannot be made.
        """
        folder = (
            cache_directory() / f"peer-{self.name}-{sys.version_info.major}{sys.version_info.minor}"
        )
        python = folder / "bin" / "python"
        complete = folder / "complete"
        wanted = "\n".join(self.requirements)
        if not complete.is_file() or complete.read_text() != wanted:
            shutil.rmtree(folder, ignore_errors=True)
            self._call([sys.executable, "-m", "venv", str(folder)])
            self._call([str(python), "-m", "pip", "install", "--quiet", *self.requirements])
            complete.write_text(wanted)
        # Each time, for the environment that lends may be another one.
        spec = importlib.util.find_spec("torch")
        if spec is None or spec.origin is None:
            raise PeerError("there is no torch to lend: pip install 'pocketfl[simulate]'")
        packages = next((folder / "lib").glob("python*/site-packages"))
        (packages / "lent.pth").write_text(f"{Path(spec.origin).parents[1]}\n")
        return python

    def _call(self, command: list[str]) -> None:
        done = subprocess.run(  # noqa: S603
            command, capture_output=True, text=True, timeout=_SECONDS, check=False
        )
        if done.returncode != 0:
            said = done.stderr.strip().splitlines()
            raise PeerError(
                f"cannot install {self.name}: {said[-1] if said else 'no reason given'}"
            )


PFL: Final = Peer(name="pfl", requirements=("pfl==0.6.0",))
FLOWER: Final = Peer(name="flower", requirements=("flwr[simulation]==1.41.0",))
