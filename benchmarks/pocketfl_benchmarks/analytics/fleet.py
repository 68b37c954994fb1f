"""The flights fleet as devices that answer queries, and what is exactly true of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pocketfl.features.pipeline import Selection
from pocketfl.features.transforms import FeatureSpec, FieldSpec, LabelSpec
from pocketfl.queries import Quantiles, QuerySet, label_histogram
from pocketfl.queries.reading import QueryColumns, QueryReader
from pocketfl.store import Examples
from pocketfl_benchmarks.flights.data import FlightTable
from pocketfl_benchmarks.flights.statistics import FEATURE_QUERIES
from pocketfl_benchmarks.flights.stores import COLLECTION

LATE_MINUTES: Final = (30.0, 60.0)
"""The two labels: later than half an hour (15.7 % of all flights), and than an hour (8.5 %)."""


@dataclass(frozen=True)
class Aircraft:
    """One device's flights.

    Attributes
    ----------
    columns : dict of str to list
        Its own fields, as its store has them; ``None`` where missing.
    """

    columns: dict[str, list[Any]]

    def __len__(self) -> int:
        return len(self.columns["hour"])


def read_aircraft(table: FlightTable, names: Sequence[str]) -> list[Aircraft]:
    """Return the flights of some aircraft, device by device."""
    spans = table.spans
    fields = [query.field for query in FEATURE_QUERIES] + ["arrival_delay"]
    records = table.records(fields)
    return [
        Aircraft({field: [row[field] for row in records[spans[n]]] for field in fields})
        for n in names
    ]


def answer_columns(aircraft: Sequence[Aircraft], queries: QuerySet) -> list[QueryColumns]:
    """Return what each device's queries look at."""
    fields = tuple(
        FieldSpec(
            name=name, type=COLLECTION.fields[name].type, optional=COLLECTION.fields[name].optional
        )
        for name in aircraft[0].columns
    )
    reader = QueryReader(FeatureSpec(collection=COLLECTION.name, fields=fields), queries)
    made = []
    for device in aircraft:
        count = len(device)
        examples = Examples(np.arange(count), np.zeros(count), device.columns)
        everything = Selection(rows=list(range(count)), target=None, server=None)
        made.append(reader.read(examples, everything))
    return made


def label_queries() -> QuerySet:
    """Return the queries that count the classes of both labels, in one release."""
    return QuerySet(
        queries=tuple(
            label_histogram(
                LabelSpec(field="arrival_delay", above=minutes),
                name=f"late_{minutes:.0f}",
                share=len(LATE_MINUTES) ** -0.5,
            )
            for minutes in LATE_MINUTES
        )
    )


def shares_below(aircraft: Sequence[Aircraft], query: Quantiles) -> NDArray[np.float64]:
    """Return each device's share of flights below each upper edge of the finest bins.

    Returns
    -------
    ndarray of float64, shape (devices, bins)
        NaN for a device that does not know the field.
    """
    edges = query.low + (query.high - query.low) * np.arange(1, query.bins + 1) / query.bins
    rows = np.full((len(aircraft), query.bins), np.nan)
    for place, device in enumerate(aircraft):
        known = [value for value in device.columns[query.field] if value is not None]
        if known:
            ordered = np.sort(np.array(known, dtype=np.float64))
            rows[place] = np.searchsorted(ordered, edges, side="left") / len(ordered)
            # The last bin holds everything from its lower edge on.
            rows[place, -1] = 1.0
    return rows


def late_shares(aircraft: Sequence[Aircraft], minutes: float) -> NDArray[np.float64]:
    """Return each device's share of late flights, shape (devices,)."""
    return np.array(
        [float(np.mean(np.array(device.columns["arrival_delay"]) > minutes)) for device in aircraft]
    )
