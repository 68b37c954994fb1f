"""From examples to the columns that queries look at, read as every plan reads its fields."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pocketfl.features.pipeline import Selection
from pocketfl.features.reading import FieldReader, Reading
from pocketfl.features.transforms import FeatureSpec, FieldSpec, Source
from pocketfl.queries.query_set import QuerySet
from pocketfl.queries.spec import Funnel
from pocketfl.store import Examples

_NUMERIC: Final = ("float", "int", "bool")


@dataclass(frozen=True, kw_only=True)
class QueryColumns:
    """What queries look at: some examples, field by field.

    Attributes
    ----------
    rows : int
        Number of examples that count.
    target : ndarray or None
        Class of each, where the plan has a label.
    outputs : dict of str to ndarray
        What the model says about each, where the plan has one.
    """

    rows: int
    readings: dict[Source, Reading]
    places: dict[tuple[Source, str], int]
    target: NDArray[np.generic] | None
    outputs: dict[str, NDArray[np.generic]]

    def numbers(self, source: Source, field: str) -> NDArray[np.float64]:
        """Return a float, int or bool field; NaN where it is missing."""
        matrix: NDArray[np.float64] = self.readings[source].numbers
        return matrix[self.places[source, field], :]

    def values(self, source: Source, field: str) -> Sequence[Any]:
        """Return a field as the app wrote it; None where it is missing."""
        return self.readings[source].columns[field]


class QueryReader:
    """Reads what a plan's queries name, and nothing else.

    Parameters
    ----------
    features : FeatureSpec
        The plan's fields.
    queries : QuerySet
        Checked against them.
    """

    def __init__(self, features: FeatureSpec, queries: QuerySet) -> None:
        wanted = {
            place
            for query in queries.queries
            if not isinstance(query, Funnel)
            for place in query.sources
        }
        table = features.server_table
        declared: dict[Source, tuple[FieldSpec, ...]] = {
            "device": features.fields,
            "server": () if table is None else table.fields,
        }
        self._readers: dict[Source, FieldReader] = {}
        self._places: dict[tuple[Source, str], int] = {}
        for source, fields in declared.items():
            used = tuple(field for field in fields if (source, field.name) in wanted)
            numeric = {field.name for field in used if field.type in _NUMERIC}
            may_lack = source == "server" and table is not None and not table.required
            reader = FieldReader(used, numeric=numeric, source=source, row_may_lack=may_lack)
            self._readers[source] = reader
            self._places |= {(source, name): reader.place(name) for name in numeric}

    def read(
        self,
        examples: Examples,
        selection: Selection,
        *,
        outputs: dict[str, NDArray[np.generic]] | None = None,
    ) -> QueryColumns:
        """Read the fields of the examples that count.

        Parameters
        ----------
        examples : Examples
            Those looked at.
        selection : Selection
            Those of them that count, with what belongs to each.
        outputs : dict of str to ndarray, optional
            What the model says about those that count.

        Raises
        ------
        FeatureError
            Naming field and row, if a value is not of the type that the plan states.
        """
        columns = {
            name: [values[row] for row in selection.rows]
            for name, values in examples.columns.items()
            if self._readers["device"].reads(name)
        }
        readings: dict[Source, Reading] = {
            "device": self._readers["device"].from_columns(columns, selection.rows)
        }
        if selection.server is not None:
            readings["server"] = self._readers["server"].from_rows(selection.server, selection.rows)
        return QueryColumns(
            rows=len(selection.rows),
            readings=readings,
            places=self._places,
            target=selection.target,
            outputs=outputs or {},
        )
