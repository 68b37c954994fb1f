"""Example stores of the whole fleet, built once in parallel and copied for every run.

A store is what an app would have filled over the year: one SQLite file per aircraft with the flights
that this aircraft flew, and the server-side features that its app had fetched until a few days before
the end. A run works on copies, because devices write into their stores (their coin, participations,
tokens, what else they fetch), and no run should see another one's.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from pocketfl.device.guardrails import prepare_tables
from pocketfl.protocol import FeatureRow
from pocketfl.store import Collection, ExampleStore, Field, FileKeyVault
from pocketfl_benchmarks.flights.data import DEVICE_FIELDS, SERVER_FIELDS, FlightTable

COLLECTION: Final = Collection(
    "flights",
    {
        "leg": Field("str"),
        "carrier": Field("str"),
        "distance": Field("float"),
        "built": Field("int", optional=True),
        "seats": Field("int", optional=True),
        "engines": Field("int", optional=True),
        "hour": Field("int"),
        "minute": Field("int"),
        "weekday": Field("int"),
        "arrival_delay": Field("float"),
    },
)
"""What an aircraft keeps of a flight."""

TABLE: Final = "route_and_weather"
"""The back end's table of server-side features."""
FRESH_FROM: Final = 1_388_275_200.0
"""Unix time (29 December 2013, UTC) up to which stores hold server-side features when they are built.

A device syncs as its app runs, so by the time of a round it lacks only the last days; those it fetches
from the back end when it first takes part.
"""

STORE_FORMAT: Final = 4
"""Raised whenever what is written below changes, so that older caches are not taken for it."""

_CHUNK: Final = 50


@dataclass(frozen=True)
class _Contents:
    """What goes into one store."""

    aircraft: str
    examples: list[dict[str, Any]]
    times: list[float]
    features: list[FeatureRow]


Progress = Callable[[int], None]
"""Told how many more are done."""


def store_path(folder: Path, aircraft: str) -> Path:
    """Return where an aircraft's store lies in a folder of stores."""
    return folder / f"{aircraft}.sqlite"


def fleet_vault(folder: Path) -> FileKeyVault:
    """Return the vault that all stores of a folder share, as no phone would; read once per fleet."""
    return FileKeyVault(folder / "fleet.key")


def prepare_stores(
    table: FlightTable, cache: Path, *, progress: Progress | None = None, workers: int | None = None
) -> Path:
    """Build the stores of all aircraft, unless the cache has them.

    Parameters
    ----------
    table : FlightTable
        All flights.
    cache : Path
        Existing directory.
    progress : callable, optional
        Told after every few stores.
    workers : int, optional
        Processes; one per core by default.

    Returns
    -------
    Path
        Folder with one file per aircraft and the key of all (:func:`fleet_vault`), not to be written
        to.
    """
    key = sha256(f"{table.archive_sha256} {STORE_FORMAT} {COLLECTION!r}".encode()).hexdigest()[:16]
    folder = cache / f"flights-stores-{key}"
    if folder.is_dir():
        return folder
    partial = Path(tempfile.mkdtemp(prefix="flights-stores-", suffix=".partial", dir=cache))
    try:
        _build(table, partial, progress=progress, workers=workers or os.cpu_count() or 1)
        partial.chmod(0o755)
        # A folder is complete or it does not exist; when two runs race, the first one wins.
        try:
            partial.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def _build(table: FlightTable, folder: Path, *, progress: Progress | None, workers: int) -> None:
    examples = table.records(DEVICE_FIELDS)
    times = table.rows["time"].astype("float64").tolist()
    known = server_rows(table, until=FRESH_FROM)
    flights = [
        _Contents(name, examples[span], times[span], known[name])
        for name, span in table.spans.items()
    ]
    chunks = [flights[start : start + _CHUNK] for start in range(0, len(flights), _CHUNK)]
    template = folder / "template"
    vault = fleet_vault(folder)
    # The collection gets its key with its first example, so every aircraft has another one.
    with ExampleStore(template, vault=vault) as store:
        store.create_collection(COLLECTION)
        # As an app does at install.
        prepare_tables(store.database)
    # A fresh interpreter per worker: forking a process that runs torch's threads is not safe.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(chunks)), mp_context=context) as pool:
        for future in as_completed(
            [pool.submit(_build_chunk, template, folder, c) for c in chunks]
        ):
            done = future.result()
            if progress is not None:
                progress(done)
    template.unlink()


def _build_chunk(template: Path, folder: Path, fleet: list[_Contents]) -> int:
    vault = fleet_vault(folder)
    for contents in fleet:
        path = store_path(folder, contents.aircraft)
        shutil.copyfile(template, path)
        with ExampleStore(path, vault=vault) as store:
            # A folder that is not finished is thrown away, so nothing here need wait for the disk.
            store.database.query("PRAGMA synchronous=OFF")
            store.append(COLLECTION.name, contents.examples, times=contents.times)
            store.put_server_features(TABLE, contents.features)
    return len(fleet)


def copy_stores(folder: Path, destination: Path, aircraft: Iterable[str]) -> None:
    """Copy the stores of some aircraft, and their key, into a new folder that a run may write to."""
    destination.mkdir()
    shutil.copyfile(fleet_vault(folder).path, fleet_vault(destination).path)
    for name in aircraft:
        shutil.copyfile(store_path(folder, name), store_path(destination, name))


def server_rows(
    table: FlightTable, *, since: float = -math.inf, until: float = math.inf
) -> dict[str, list[FeatureRow]]:
    """Return what the back end knows of each aircraft's flights, by tail number.

    There is one row per flight, valid from the full hour of its departure, when its weather was
    observed; ``since`` and ``until`` (excluded) bound that hour, in Unix seconds.
    """
    hours = table.rows["hour_start"]
    part = FlightTable(table.rows[(hours >= since) & (hours < until)], table.archive_sha256)
    rows = [
        FeatureRow(key=leg, valid_from=float(hour), values=values)
        for leg, hour, values in zip(
            part.rows["leg"].tolist(),
            part.rows["hour_start"].tolist(),
            part.records(SERVER_FIELDS),
            strict=True,
        )
    ]
    found = {aircraft: rows[span] for aircraft, span in part.spans.items()}
    return {aircraft: found.get(aircraft, []) for aircraft in table.aircraft}
