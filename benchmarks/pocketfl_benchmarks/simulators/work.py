"""The work: devices with their examples, and who takes part in which round; the same for all."""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess
import tempfile
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pocketfl.errors import PocketFLError
from pocketfl_benchmarks.flights.cache import cache_directory

DEVICES: Final = 1000
BATCH: Final = 16
MAX_EXAMPLES: Final = 192

FASHION_PACKAGE: Final = "dataset-fashion-mnist"
FASHION_SHA256: Final = "39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0"
_FASHION_FOLDER: Final = "usr/share/datasets/fashion-mnist"
_FASHION_NAMES: Final = ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz")
_FASHION_PARTS: Final = "fashion-mnist"


class WorkError(PocketFLError):
    """The data of a benchmark cannot be had."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How devices train; the same for every simulator.

    Attributes
    ----------
    kind : {"mlp", "cnn"}
        Which model.
    rounds, cohort : int
        That are timed, and devices in each; one round before them is not.
    learning_rate, clip_norm, noise_multiplier, max_gradient_norm : float
        Of SGD on the device, of its update, of the sum, of a batch's gradient.
    """

    kind: str
    rounds: int
    cohort: int
    learning_rate: float
    clip_norm: float = 0.2
    noise_multiplier: float = 0.8
    max_gradient_norm: float = 1000.0
    batch: int = BATCH


WORKS: Final = {
    "mlp": Settings(kind="mlp", rounds=1, cohort=500, learning_rate=0.4),
    "cnn": Settings(kind="cnn", rounds=1, cohort=500, learning_rate=0.05),
}
"""What is measured: half of a thousand devices in each round."""


def resized(settings: Settings, *, cohort: int | None, rounds: int | None) -> Settings:
    """Return the work with another number of devices a round, or of rounds; None keeps it."""
    return replace(settings, cohort=cohort or settings.cohort, rounds=rounds or settings.rounds)


def write_work(path: Path, settings: Settings) -> None:
    """Write the devices' arrays and the cohorts of all rounds to an .npz file."""
    features, target, counts = _flights() if settings.kind == "mlp" else _fashion()
    save_work(path, settings, features=features, target=target, counts=counts)


def save_work(
    path: Path,
    settings: Settings,
    *,
    features: NDArray[Any],
    target: NDArray[Any],
    counts: NDArray[np.int64],
) -> None:
    """Write devices' examples, laid end to end, and who takes part in which round.

    Parameters
    ----------
    path : Path
        Of the .npz file that every program reads.
    settings : Settings
        Of their training.
    features, target : ndarray, n rows
        Of all devices, one after the other.
    counts : ndarray of int64, shape (D,)
        How many each has.
    """
    np.savez(
        path,
        features=features,
        target=target,
        ends=np.cumsum(counts),
        cohorts=draw_cohorts(settings, devices=len(counts)),
        settings=json.dumps(asdict(settings)),
    )


def draw_cohorts(settings: Settings, *, devices: int) -> NDArray[np.int64]:
    """Return the devices of the round that is not timed and of those that are.

    Raises
    ------
    WorkError
        If a cohort is larger than the fleet.
    """
    if settings.cohort > devices:
        raise WorkError(f"a cohort of {settings.cohort} does not fit {devices} devices")
    generator = np.random.default_rng(7)
    return np.stack(
        [
            generator.choice(devices, size=settings.cohort, replace=False)
            for _ in range(settings.rounds + 1)
        ]
    )


def _flights() -> tuple[NDArray[Any], NDArray[Any], NDArray[np.int64]]:
    """Return the flights of 1,000 aircraft, at most 192 of each, as the demo's features make them."""
    from pocketfl_benchmarks.flights.baselines import pool_flights
    from pocketfl_benchmarks.flights.data import ARCHIVE, read_flights

    table = read_flights(ARCHIVE.locate(cache_directory()))
    generator = np.random.default_rng(0)
    chosen = sorted(generator.choice(len(table.aircraft), size=DEVICES, replace=False).tolist())
    names = [table.aircraft[number] for number in chosen]
    flights = pool_flights(table, names)
    rows, counts, start = [], [], 0
    for name in names:
        count = table.spans[name].stop - table.spans[name].start
        own = start + generator.permutation(count)[:MAX_EXAMPLES]
        rows.append(own)
        counts.append(len(own))
        start += count
    taken = np.concatenate(rows)
    return flights.features[taken], flights.target[taken], np.array(counts)


def _fashion() -> tuple[NDArray[Any], NDArray[Any], NDArray[np.int64]]:
    """Return Fashion-MNIST's 60,000 images among 1,000 devices; classes by Dirichlet(0.5) for each."""
    images, labels = (read_fashion(part) for part in _FASHION_NAMES)
    features = images[16:].reshape(-1, 1, 28, 28).astype(np.float32) / 255
    target = labels[8:].astype(np.int64)
    rows = deal(target, devices=DEVICES, concentration=0.5)
    return features[rows], target[rows], np.full(DEVICES, len(rows) // DEVICES)


def deal(target: NDArray[np.int64], *, devices: int, concentration: float) -> NDArray[np.int64]:
    """Deal rows to devices whose shares of the classes differ, the same number to each.

    Parameters
    ----------
    target : ndarray of int64, shape (n,)
        The class of each row, from 0 on.
    devices : int
        How many.
    concentration : float
        Of the Dirichlet distribution of a device's shares (Hsu et al. 2019, arXiv 1909.06335).

    Returns
    -------
    ndarray of int64, shape (devices * (n // devices),)
        Rows of the first device, of the second, and so on; no row twice.
    """
    classes, per_device = int(target.max()) + 1, len(target) // devices
    generator = np.random.default_rng(0)
    shares = generator.dirichlet(np.full(classes, concentration), size=devices)
    left = [generator.permutation(np.flatnonzero(target == k)).tolist() for k in range(classes)]
    rows: list[int] = []
    for share in shares:
        for _ in range(per_device):
            # A class that has run out leaves its place to the others.
            odds = np.where([bool(pool) for pool in left], share + 1e-9, 0.0)
            rows.append(left[generator.choice(classes, p=odds / odds.sum())].pop())
    return np.array(rows)


def read_fashion(name: str) -> NDArray[np.uint8]:
    """Return the bytes of a file of Debian's package of Fashion-MNIST (MIT), fetched by pinned hash.

    Raises
    ------
    WorkError
        If there is no such package here, or it is another one.
    """
    kept = cache_directory() / _FASHION_PARTS
    if not (kept / name).is_file():
        _fetch_fashion(kept)
    with gzip.open(kept / name) as stream:
        return np.frombuffer(stream.read(), dtype=np.uint8)


def _fetch_fashion(kept: Path) -> None:
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise WorkError(
            "Fashion-MNIST comes as a Debian package, and this machine has no apt-get: put its files "
            f"{' and '.join(_FASHION_NAMES)} into {kept}"
        )
    with tempfile.TemporaryDirectory(prefix="pocketfl-fashion-") as folder:
        if not _download(folder):
            # A fresh machine has no lists of packages; only an administrator may fetch them.
            subprocess.run(["apt-get", "update", "-qq"], capture_output=True, check=False)  # noqa: S607
            if not _download(folder):
                raise WorkError(
                    f"apt-get cannot download {FASHION_PACKAGE}; run apt-get update and try again"
                )
        (package,) = Path(folder).glob("*.deb")
        found = sha256(package.read_bytes()).hexdigest()
        if found != FASHION_SHA256:
            raise WorkError(f"{package.name} is another one: its sha256 is {found}")
        unpack = ["dpkg-deb", "-x", str(package), folder]
        subprocess.run(unpack, check=True)  # noqa: S603
        kept.mkdir(parents=True, exist_ok=True)
        for name in _FASHION_NAMES:
            partial = kept / f"{name}.partial"
            shutil.copyfile(Path(folder, _FASHION_FOLDER, name), partial)
            partial.replace(kept / name)


def _download(folder: str) -> bool:
    command = ["apt-get", "download", "-qq", FASHION_PACKAGE]
    done = subprocess.run(command, cwd=folder, capture_output=True, check=False)  # noqa: S603
    return done.returncode == 0
