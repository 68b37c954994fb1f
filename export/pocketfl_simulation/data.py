"""What the devices of a simulated fleet hold, as the plan's features made it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pocketfl.runtimes.batches import TARGET
from pocketfl.training.loop import count_rows
from pocketfl_simulation.errors import SimulationError

Arrays = Mapping[str, NDArray[np.generic]]


@dataclass(frozen=True, kw_only=True)
class Holding:
    """One device's examples within the arrays that it was fetched with.

    Attributes
    ----------
    rows : slice
        Its usable examples.
    stored : int
        How many examples its store has, those without a usable label included.
    places : ndarray of int64 or None
        Which of the stored ones are usable, rising; None when all are.
    """

    rows: slice
    stored: int
    places: NDArray[np.int64] | None = None


class FleetData(Protocol):
    """Examples by device; only those of the devices at work need to be in memory."""

    def __len__(self) -> int:
        """Return the number of devices."""

    def name(self, device: int) -> str:
        """Return what a device's user is called."""

    def fetch(self, devices: Sequence[int]) -> tuple[Arrays, list[Holding]]:
        """Return arrays that hold the examples of some devices, and where each has its own."""


class PackedData:
    """The examples of all devices, one device after the other, in arrays.

    Parameters
    ----------
    arrays : mapping of str to ndarray
        Inputs and ``target``, all with n rows; not copied, so they may be memory maps.
    ends : ndarray of int64, shape (D,)
        Where each device's rows end.
    names : sequence of str, optional
        Of the devices' users; their numbers by default.
    stored : ndarray of int64, shape (D,), optional
        How many examples each device's store has, if some are not usable.
    places : ndarray of int64, shape (n,), optional
        For each row its place among the stored ones of its device.

    Raises
    ------
    SimulationError
        If these do not fit together.
    """

    def __init__(
        self,
        arrays: Arrays,
        ends: NDArray[np.int64],
        *,
        names: Sequence[str] | None = None,
        stored: NDArray[np.int64] | None = None,
        places: NDArray[np.int64] | None = None,
    ) -> None:
        try:
            rows = count_rows(arrays)
        except ValueError as error:
            raise SimulationError(str(error)) from None
        if len(ends) == 0 or ends[-1] != rows or (np.diff(ends, prepend=0) < 0).any():
            raise SimulationError("the ends of devices must rise up to the number of rows")
        if names is not None and len(names) != len(ends):
            raise SimulationError(f"{len(names)} names for {len(ends)} devices")
        self.arrays = arrays
        self._ends = ends
        self._names = names
        self._stored = stored
        self._places = places

    def __len__(self) -> int:
        return len(self._ends)

    def name(self, device: int) -> str:
        """Return what a device's user is called."""
        return str(device) if self._names is None else self._names[device]

    def fetch(self, devices: Sequence[int]) -> tuple[Arrays, list[Holding]]:
        """Return all arrays, and where each device has its own rows."""
        return self.arrays, [self._holding(device) for device in devices]

    def _holding(self, device: int) -> Holding:
        start = int(self._ends[device - 1]) if device else 0
        rows = slice(start, int(self._ends[device]))
        count = rows.stop - rows.start
        stored = count if self._stored is None else int(self._stored[device])
        if stored == count or self._places is None:
            return Holding(rows=rows, stored=count)
        return Holding(rows=rows, stored=stored, places=self._places[rows])


class FactoryData:
    """Examples that are made when a device is at work: memory grows with the cohort, not the fleet.

    Parameters
    ----------
    source : object
        With ``len()`` for the number of devices, and ``source[device]`` for a mapping of inputs and
        ``target`` by name; called in several threads.
    """

    def __init__(self, source: Sequence[Arrays]) -> None:
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def name(self, device: int) -> str:
        """Return the device's number."""
        return str(device)

    def fetch(self, devices: Sequence[int]) -> tuple[Arrays, list[Holding]]:
        """Make the arrays of some devices and put them one after the other.

        Raises
        ------
        SimulationError
            If a device's arrays have no ``target`` or differ in their number of rows.
        """
        made = [self._source[device] for device in devices]
        holdings, end = [], 0
        for device, arrays in zip(devices, made, strict=True):
            try:
                rows = count_rows(arrays)
            except ValueError as error:
                raise SimulationError(f"device {device}: {error}") from None
            if TARGET not in arrays:
                raise SimulationError(f"device {device} has no {TARGET!r}")
            holdings.append(Holding(rows=slice(end, end + rows), stored=rows))
            end += rows
        names = made[0].keys() if made else ()
        return {name: np.concatenate([arrays[name] for arrays in made]) for name in names}, holdings


class SelectedData:
    """Some devices of a fleet, each perhaps several times: a part of it, or a larger one like it.

    Parameters
    ----------
    data : FleetData
        Holds the examples.
    devices : ndarray of int64, shape (D,)
        Which of its devices each device is.
    """

    def __init__(self, data: FleetData, devices: NDArray[np.int64]) -> None:
        self._data = data
        self._devices = devices
        self._repeats = len(np.unique(devices)) < len(devices)

    def __len__(self) -> int:
        return len(self._devices)

    def name(self, device: int) -> str:
        """Return what a device's user is called, with its number where it is one of several."""
        name = self._data.name(int(self._devices[device]))
        return f"{name}/{device}" if self._repeats else name

    def fetch(self, devices: Sequence[int]) -> tuple[Arrays, list[Holding]]:
        """Return what the devices behind these hold."""
        return self._data.fetch([int(self._devices[device]) for device in devices])


def pooled(data: FleetData, devices: Iterable[int]) -> dict[str, NDArray[np.generic]]:
    """Return the usable examples of some devices, one after the other."""
    arrays, holdings = data.fetch(list(devices))
    spans = [np.arange(holding.rows.start, holding.rows.stop) for holding in holdings]
    rows = np.concatenate([np.zeros(0, np.int64), *spans])
    return {name: array[rows] for name, array in arrays.items()}
