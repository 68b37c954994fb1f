"""The work: devices with their examples, and who takes part in which round; the same for all."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pocketfl.errors import PocketFLError
from pocketfl_benchmarks.datasets.fashion import load_fashion
from pocketfl_benchmarks.flights.cache import cache_directory

DEVICES: Final = 1000
BATCH: Final = 16
MAX_EXAMPLES: Final = 192


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
    "cnn": Settings(kind="cnn", rounds=1, cohort=200, learning_rate=0.05),
}
"""What is measured, on a thousand devices: rounds long enough to be timed, and no longer."""


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
    images, target = load_fashion()
    features = images[:, None].astype(np.float32) / 255
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
