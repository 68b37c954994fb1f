"""Opening, checking and summing the reports of a round, exactly.

A sum of whole numbers does not depend on the order or on who adds what, so pages of reports may be
summed in several processes (:mod:`.workers`) and the parts put together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pocketfl.clipping import squared_norm
from pocketfl.encoding.packing import unpack_halves
from pocketfl.errors import DecodeError
from pocketfl.reports import decode_vector, packed_coordinates
from pocketfl.sealing import KEY_BYTES, ReportContext
from pocketfl_server.trusted.noise import SUM_BOUND
from pocketfl_server.trusted.opening import Opener
from pocketfl_server.trusted.releases import IntegerVector

WRONG_LENGTH: Final = "wrong_length"
"""The sealed report has another length than every report of the plan has."""
CANNOT_OPEN: Final = "cannot_open"
"""Changed, or sealed to another key, task, round, model version, plan, policy or lease."""
DUPLICATE: Final = "duplicate"
"""Does not open, and its encapsulated key is that of another lease's report: a replay."""
MALFORMED: Final = "malformed"
"""Opened, but what is inside is not a report of this plan."""
NORM_ABOVE_BOUND: Final = "norm_above_bound"
"""The integer norm is above the plan's bound."""
STALE: Final = "stale"
"""From a round too far back, or yet to come; of asynchronous rounds only."""

_NARROW: Final = 2**15
"""Reports that are added up in 32 bits before they go to the sum: of 16 bits each they fit."""

Page = list[tuple[str, bytes | None]]
"""Leases with their sealed reports, None where one was refused on arrival."""


@dataclass(frozen=True, kw_only=True, repr=False)
class RoundOfReports:
    """What it takes to open and check the reports of one round; never printed.

    Attributes
    ----------
    private_key : bytes
        The task's.
    context : ReportContext
        Of any of them.
    length, bits, norm_bound : int
        As the plan has them.
    count_weight : int
        Size of the last coordinate, where that is a vote of plus or minus so much; else 0.
    """

    private_key: bytes
    context: ReportContext
    length: int
    bits: int
    norm_bound: int
    count_weight: int = 0


@dataclass(kw_only=True, repr=False)
class PartialSum:
    """The sum of some reports of a round, and what is known of the others; never printed.

    Attributes
    ----------
    total : ndarray of int64, shape (length,)
        Of those that were accepted.
    accepted : int
        How many.
    rejected : Counter of str
        The others by reason, but for those that do not open.
    opened : set of bytes
        Encapsulated keys of reports that opened.
    unopened : list of bytes
        Those of reports that did not.
    """

    total: IntegerVector
    accepted: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    opened: set[bytes] = field(default_factory=set)
    unopened: list[bytes] = field(default_factory=list)

    def add(self, other: PartialSum) -> None:
        """Add what another part of the round came to."""
        self.total += other.total
        self.accepted += other.accepted
        self.rejected += other.rejected
        self.opened |= other.opened
        self.unopened += other.unopened

    def reasons(self) -> dict[str, int]:
        """Return how many reports were left out, by reason; of the whole round only."""
        rejected = Counter(self.rejected)
        for encapsulated, times in Counter(self.unopened).items():
            # Whoever copies a report under another lease cannot open either; one original may.
            copies = times if encapsulated in self.opened else times - 1
            rejected[DUPLICATE] += copies
            rejected[CANNOT_OPEN] += times - copies
        return dict(+rejected)


def sum_pages(reports: RoundOfReports, pages: Iterable[Page]) -> PartialSum:
    """Open, check and sum reports.

    Parameters
    ----------
    reports : RoundOfReports
        How.
    pages : iterable of Page
        Sealed reports; one page at a time is held.

    Raises
    ------
    OverflowError
        If so many reports could leave int64.
    """
    opener = Opener(reports.private_key, reports.context)
    adder: _Adder = _HalvesAdder(reports) if reports.bits == 4 else _Adder(reports)
    part = PartialSum(total=np.zeros(reports.length, dtype=np.int64))
    for lease, sealed in _each(pages):
        if sealed is None:
            part.rejected[WRONG_LENGTH] += 1
            continue
        plaintext = opener.open(lease, sealed)
        if plaintext is None:
            part.unopened.append(sealed[:KEY_BYTES])
            continue
        part.opened.add(sealed[:KEY_BYTES])
        try:
            within = adder.add(plaintext)
        except DecodeError:
            part.rejected[MALFORMED] += 1
            continue
        if not within:
            part.rejected[NORM_ABOVE_BOUND] += 1
            continue
        part.accepted += 1
        require_room(part.accepted, reports.norm_bound)
    part.total += adder.total()
    return part


def require_room(accepted: int, norm_bound: int) -> None:
    """Refuse to go on where the sum of so many reports might leave int64."""
    if accepted * norm_bound > SUM_BOUND:
        raise OverflowError("the sum of so many reports may leave int64")


def _each(pages: Iterable[Page]) -> Iterator[tuple[str, bytes | None]]:
    for page in pages:
        yield from page


class _Adder:
    """Checks and adds up vectors, in 32 bits as long as they fit."""

    def __init__(self, reports: RoundOfReports) -> None:
        self._reports = reports
        self._limit = reports.norm_bound**2
        self._narrow = np.zeros(reports.length, dtype=np.int32)
        self._wide = np.zeros(reports.length, dtype=np.int64)
        self._added = 0

    def add(self, plaintext: bytes) -> bool:
        """Add an opened report if its norm is within the bound, and return whether it is.

        Raises
        ------
        DecodeError
            If it is no report of this plan.
        """
        values = decode_vector(plaintext, length=self._reports.length, bits=self._reports.bits)
        weight = self._reports.count_weight
        if weight and abs(int(values[-1])) != weight:
            raise DecodeError("report: its last coordinate is not one vote")
        if squared_norm(values) > self._limit:
            return False
        np.add(self._narrow, values, out=self._narrow)
        self._count()
        return True

    def total(self) -> IntegerVector:
        """Return the sum."""
        self._widen()
        return self._wide

    def _count(self) -> None:
        self._added += 1
        if self._added == _NARROW:
            self._widen()

    def _widen(self) -> None:
        self._wide += self._narrow
        self._narrow[...] = 0
        self._added = 0


class _HalvesAdder(_Adder):
    """The same for two coordinates in a byte, which need not be put in order for every report."""

    def __init__(self, reports: RoundOfReports) -> None:
        super().__init__(reports)
        size = -(-reports.length // 2)
        self._halves = np.zeros((2, size), dtype=np.int32)

    def add(self, plaintext: bytes) -> bool:
        """Add an opened report if its norm is within the bound, and return whether it is."""
        length = self._reports.length
        packed = packed_coordinates(plaintext, length=length, bits=4)
        halves: tuple[NDArray[np.int8], NDArray[np.int8]]
        try:
            halves = unpack_halves(packed, length=length)
        except ValueError as error:
            raise DecodeError(f"report: {error}") from None
        low, high = halves
        # Two squares of at most 49 fit a byte.
        if int((low * low + high * high).sum(dtype=np.int64)) > self._limit:
            return False
        for sums, values in zip(self._halves, halves, strict=True):
            np.add(sums, values, out=sums)
        self._count()
        return True

    def _widen(self) -> None:
        self._narrow[...] = self._halves.T.reshape(-1)[: self._narrow.size]
        self._halves[...] = 0
        super()._widen()
