"""All queries of a plan as one vector: its length, whose coordinates are whose, its bound."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pocketfl.checks import require
from pocketfl.features.transforms import FeatureSpec, FieldSpec, LabelSpec, Source
from pocketfl.queries.spec import (
    MAX_LENGTH,
    Filter,
    Funnel,
    Histogram,
    Moments,
    Quantiles,
    Query,
    ScoreHistogram,
    Sum,
)

MAX_QUERIES: Final = 256
MAX_DELAY_SECONDS: Final = 86_400.0
_TOLERANCE: Final = 1e-9
"""Room for the rounding of shares such as ``1 / sqrt(6)``; the integers of a report are exact again."""


@dataclass(frozen=True, kw_only=True)
class QuerySet:
    """The queries of a plan, side by side in one vector of L2 norm at most 1.

    A query's coordinates are at most its ``share``, so all together are at most the root of the sum of
    squares of the shares, which is at most 1.

    Attributes
    ----------
    queries : tuple of Query
        In the order of their coordinates.
    max_examples_read : int
        Most examples that a device looks at, chosen by its own seed.
    upload_delay_seconds : float
        A device sends its report after a random wait of a tenth of this to all of it, whatever it
        holds, so that the time says nothing about how much there was to work on; 0 for none.
    """

    queries: tuple[Query, ...]
    max_examples_read: int = 10_000
    upload_delay_seconds: float = 300.0

    def __post_init__(self) -> None:
        require(0 < len(self.queries) <= MAX_QUERIES, f"a plan has 1 to {MAX_QUERIES} queries")
        names = [query.name for query in self.queries]
        require(len(set(names)) == len(names), "two queries have the same name")
        total = sum(query.share**2 for query in self.queries)
        require(
            total <= 1 + _TOLERANCE,
            f"the squares of the shares sum to {total:.6g}, 1 at most: {len(names)} equal shares are "
            f"{1 / math.sqrt(len(names)):.6g} each",
        )
        require(
            self.length <= MAX_LENGTH, f"{self.length} coordinates in all, {MAX_LENGTH} at most"
        )
        require(
            1 <= self.max_examples_read <= 1_000_000, "max_examples_read must be 1 to 1,000,000"
        )
        require(
            0 <= self.upload_delay_seconds <= MAX_DELAY_SECONDS,
            f"upload_delay_seconds must be 0 to {MAX_DELAY_SECONDS:g}",
        )

    @property
    def length(self) -> int:
        """Number of coordinates of a report."""
        return sum(query.length for query in self.queries)

    @property
    def slices(self) -> dict[str, slice]:
        """Where each query's coordinates are in the vector, by name."""
        places, start = {}, 0
        for query in self.queries:
            places[query.name] = slice(start, start + query.length)
            start += query.length
        return places

    @property
    def scales(self) -> NDArray[np.float64]:
        """Natural units per unit of the report's norm, shape (length,)."""
        return np.concatenate([np.full(query.length, query.scale) for query in self.queries])

    @property
    def daily(self) -> bool:
        """Whether all that is asked for is a day's log, each day of which is reported once."""
        return all(isinstance(query, Funnel) for query in self.queries)

    @property
    def asks_for_logs(self) -> bool:
        """Whether any query asks for a day's log."""
        return any(isinstance(query, Funnel) for query in self.queries)

    def find(self, name: str) -> Query:
        """Return a query by name, or raise ``KeyError`` with the names that there are."""
        for query in self.queries:
            if query.name == name:
                return query
        raise KeyError(f"no query {name!r}; there are: {', '.join(self.slices)}")

    def split(self, vector: NDArray[np.floating]) -> dict[str, NDArray[np.float64]]:
        """Turn a vector in units of the report's norm into one per query in natural units.

        Parameters
        ----------
        vector : ndarray of float, shape (length,)
            A report, a sum of reports, or noise; such as a release's values times its ``grid_step``.

        Returns
        -------
        dict of str to ndarray of float64
            By name: shape ``(query.length,)`` each.
        """
        if vector.shape != (self.length,):
            raise ValueError(f"shape {vector.shape}; these queries have {self.length} coordinates")
        natural = vector.astype(np.float64) * self.scales
        return {name: natural[place] for name, place in self.slices.items()}

    def check(self, features: FeatureSpec, *, outputs: Mapping[str, int] | None) -> None:
        """Refuse queries over what the plan does not declare.

        Parameters
        ----------
        features : FeatureSpec
            The plan's fields.
        outputs : mapping of str to int, or None
            Numbers per example of each of the model's outputs; None in a plan without a model.

        Raises
        ------
        ValueError
            Naming the query.
        """
        fields: dict[tuple[Source, str], FieldSpec] = {
            ("device", field.name): field for field in features.fields
        }
        if features.server_table is not None:
            fields |= {("server", field.name): field for field in features.server_table.fields}
        for query in self.queries:
            if not isinstance(query, Funnel):
                for source, name in query.sources:
                    require(
                        (source, name) in fields,
                        f"query {query.name!r} reads the {source} field {name!r}, which is not "
                        "declared",
                    )
                for condition in query.where:
                    field = fields[condition.source, condition.field]
                    _check_filter(condition, field, what=f"query {query.name!r}")
            match query:
                case Sum() | Moments() | Quantiles():
                    _check_number(fields[query.source, query.field], what=f"query {query.name!r}")
                case Histogram():
                    _check_histogram(query, fields[query.source, query.field])
                case ScoreHistogram():
                    _check_score(query, outputs)
                case _:
                    pass


def label_histogram(label: LabelSpec, *, name: str = "label", share: float = 1.0) -> Histogram:
    """Return the query that counts the classes of a label, weighing every device alike.

    Raises
    ------
    ValueError
        If the label is a number and not a class.
    """
    if label.vocabulary is not None:
        return Histogram(name=name, share=share, field=label.field, categories=label.vocabulary)
    require(label.above is not None, f"the label {label.field!r} has no classes")
    # The target is 1 above the threshold, and 0 where the field equals it.
    boundaries = () if label.above is None else (label.above,)
    return Histogram(
        name=name, share=share, field=label.field, boundaries=boundaries, closed="right"
    )


def _check_number(field: FieldSpec, *, what: str) -> None:
    require(
        field.type in ("float", "int", "bool"),
        f"{what} needs a float, int or bool field; {field.name!r} is {field.type}",
    )


def _check_words(field: FieldSpec, words: tuple[str | int, ...], *, what: str) -> None:
    wanted = {"str": str, "int": int}.get(field.type)
    require(
        wanted is not None and all(type(word) is wanted for word in words),
        f"{what}: values of {field.name!r} have to be of the field's own type, str or int; it is "
        f"{field.type}",
    )


def _check_filter(condition: Filter, field: FieldSpec, *, what: str) -> None:
    if condition.values is None:
        _check_number(field, what=f"the range of {what}")
    else:
        _check_words(field, condition.values, what=what)


def _check_histogram(query: Histogram, field: FieldSpec) -> None:
    what = f"query {query.name!r}"
    if query.categories is None:
        _check_number(field, what=what)
    else:
        _check_words(field, query.categories, what=what)


def _check_score(query: ScoreHistogram, outputs: Mapping[str, int] | None) -> None:
    what = f"query {query.name!r}"
    require(outputs is not None, f"{what} needs a model: use a plan of kind 'evaluation'")
    size = (outputs or {}).get(query.output)
    require(
        size is not None,
        f"{what}: the model has no output {query.output!r}, only {sorted(outputs or {})}",
    )
    require(
        query.index < (size or 0), f"{what}: output {query.output!r} has {size} numbers per example"
    )
