"""From the app's values to arrays: every value of a field is checked once, for a whole column.

Training and prediction come through the same door, so that what a model learnt from is what it sees.
Messages name field and row, never the value: see :mod:`pocketfl.store.schema`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, Final, NoReturn

import numpy as np
from numpy.typing import NDArray

from pocketfl.errors import FeatureError
from pocketfl.features.transforms import FieldSpec, Source
from pocketfl.store.schema import are_tensors, value_checker

_MISSING_TYPE: Final = type(None)
_TYPES: Final[dict[str, frozenset[type]]] = {
    "float": frozenset({float, int}),
    "int": frozenset({int}),
    "bool": frozenset({bool}),
    "str": frozenset({str}),
}


@dataclass(frozen=True)
class Reading:
    """The checked values of one source for some rows.

    Attributes
    ----------
    numbers : ndarray of float64, shape (number fields, rows)
        NaN exactly where missing.
    missing : ndarray of bool, shape (number fields, rows), or None
        None when nothing is missing.
    columns : dict of str to sequence
        Values of every field; ``None`` where missing.
    rows : sequence of int
        What the caller calls each row, for messages.
    """

    numbers: NDArray[np.float64]
    missing: NDArray[np.bool_] | None
    columns: dict[str, Sequence[Any]]
    rows: Sequence[int]


class FieldReader:
    """Reads the fields of one source that a plan uses.

    Parameters
    ----------
    fields : sequence of FieldSpec
        Those to read.
    numeric : set of str
        Names of those to read as numbers.
    source : {"device", "server"}
        For messages.
    row_may_lack : bool
        Whether a whole row may be missing, as in an optional join.
    """

    def __init__(
        self,
        fields: Sequence[FieldSpec],
        *,
        numeric: set[str],
        source: Source,
        row_may_lack: bool,
    ) -> None:
        self._what = "field" if source == "device" else "server field"
        self._row_may_lack = row_may_lack
        self._fields = {field.name: field for field in fields}
        self._names = tuple(self._fields)
        self._numeric = [name for name in self._names if name in numeric]
        self._place = {name: place for place, name in enumerate(self._numeric)}
        # Even a table without a used field may be joined, for the sake of leaving rows out.
        self._get: Callable[[Any], Any] | None = itemgetter(*self._names) if self._names else None

    def reads(self, name: str) -> bool:
        """Whether a field is among those to read."""
        return name in self._fields

    def place(self, name: str) -> int:
        """Return the row of ``Reading.numbers`` that holds a field."""
        return self._place[name]

    def from_rows(
        self, rows: Sequence[Mapping[str, object] | None], numbers: Sequence[int]
    ) -> Reading:
        """Read examples that come row by row; ``None`` is a row that lacks altogether."""
        columns = self._turn(rows)
        lacking = {i for i, row in enumerate(rows) if row is None} if self._row_may_lack else set()
        return self._read(columns, numbers, lacking=lacking)

    def _turn(self, rows: Sequence[Mapping[str, object] | None]) -> dict[str, Sequence[Any]]:
        if rows and self._get is not None:
            try:
                found = list(map(self._get, rows))
            except (KeyError, TypeError):
                # A field or a row is absent somewhere, so ask row by row.
                pass
            else:
                turned = [found] if len(self._names) == 1 else zip(*found, strict=True)
                return dict(zip(self._names, turned, strict=True))
        return {
            name: [None if row is None else row.get(name) for row in rows] for name in self._names
        }

    def from_columns(self, columns: Mapping[str, Sequence[Any]], numbers: Sequence[int]) -> Reading:
        """Read examples that come column by column.

        Parameters
        ----------
        columns : mapping of str to sequence
            One value per row for each field.
        numbers : sequence of int
            What the caller calls each row, for messages.
        """
        absent = [name for name in self._names if name not in columns]
        if absent:
            raise FeatureError(f"{self._what} {absent[0]!r}: the examples do not have it")
        return self._read(columns, numbers, lacking=set())

    def _read(
        self, columns: Mapping[str, Sequence[Any]], numbers: Sequence[int], *, lacking: set[int]
    ) -> Reading:
        checked = {}
        holes = False
        for name in self._names:
            values, has_holes = self._check(self._fields[name], columns[name], numbers, lacking)
            checked[name] = values
            holes |= has_holes and name in self._place
        picked = [checked[name] for name in self._numeric]
        try:
            matrix = np.array(picked, dtype=np.float64).reshape(len(picked), len(numbers))
        except OverflowError:
            self._refuse_number(checked, numbers)
        missing: NDArray[np.bool_] | None = None
        finite = np.isfinite(matrix)
        if holes:
            # NumPy reads None as NaN; a NaN that the app wrote is an error, not a missing value.
            missing = np.array([[value is None for value in values] for values in picked])
            finite |= missing
        if not finite.all():
            self._refuse_number(checked, numbers)
        return Reading(matrix, missing, checked, numbers)

    def _check(
        self,
        field: FieldSpec,
        values: Sequence[Any],
        numbers: Sequence[int],
        lacking: set[int],
    ) -> tuple[Sequence[Any], bool]:
        types = set(map(type, values))
        holes = _MISSING_TYPE in types
        if holes:
            types.discard(_MISSING_TYPE)
            if not field.optional:
                for place, value in enumerate(values):
                    if value is None and place not in lacking:
                        raise self._error(field.name, numbers[place], "expected a value, got none")
        if field.type != "tensor" and types <= _TYPES[field.type]:
            return values, holes
        if field.type == "tensor" and are_tensors(values, field.shape):
            return values, holes
        # NumPy scalars, tensors of other types, and mistakes.
        check = value_checker(field.type, field.shape)
        result = []
        for place, value in enumerate(values):
            try:
                result.append(None if value is None else check(value))
            except ValueError as error:
                raise self._error(field.name, numbers[place], str(error)) from None
        return result, holes

    def _refuse_number(
        self, checked: Mapping[str, Sequence[Any]], numbers: Sequence[int]
    ) -> NoReturn:
        for name in self._numeric:
            check = value_checker(self._fields[name].type, None)
            for place, value in enumerate(checked[name]):
                try:
                    if value is not None:
                        check(value)
                except ValueError as error:
                    raise self._error(name, numbers[place], str(error)) from None
        raise FeatureError(f"{self._what}: a number is out of range")

    def _error(self, name: str, row: int, reason: str) -> FeatureError:
        return FeatureError(f"{self._what} {name!r}, row {row}: {reason}")
