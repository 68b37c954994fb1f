"""One model input, compiled: its columns grouped by kind, so that each kind is one vectorised step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pocketfl.errors import FeatureError
from pocketfl.features.reading import FieldReader, Reading
from pocketfl.features.transforms import (
    Buckets,
    Cyclic,
    FieldSpec,
    Index,
    InputSpec,
    IsMissing,
    LogScale,
    OneHot,
    Scale,
    Source,
    Standardise,
    Tensor,
    Transform,
)
from pocketfl.plan.models import TensorSpec

Readings: TypeAlias = Mapping[Source, Reading]
Matrix: TypeAlias = NDArray[np.float32]
_Step: TypeAlias = Callable[[Readings, Matrix], None]
"""Writes its own columns of one input."""
_Places: TypeAlias = NDArray[np.intp]
_Compiler: TypeAlias = Callable[[Source, _Places, _Places, Sequence[Transform]], _Step]
"""Takes source, rows of ``Reading.numbers``, first columns of the input, and the transforms."""

NUMERIC_KINDS: Final = (Scale, Standardise, LogScale, Cyclic, Buckets)
"""Columns that need a number; a ``tensor`` column takes one as well."""


def is_numeric(column: Transform, field: FieldSpec) -> bool:
    """Whether a column reads its field as a number."""
    return isinstance(column, NUMERIC_KINDS) or (
        isinstance(column, Tensor) and field.type in ("float", "int", "bool")
    )


def check_column(column: Transform, field: FieldSpec, *, tensor: str, may_lack: bool) -> None:
    """Refuse a column that its field cannot feed.

    Raises
    ------
    FeatureError
        Naming the input, the column, and what would do.
    """
    what = f"input {tensor!r}: {column.kind!r} of {column.source} field {field.name!r}"
    if isinstance(column, NUMERIC_KINDS) and field.type not in ("float", "int", "bool"):
        raise FeatureError(f"{what} needs a float, int or bool field, not {field.type}")
    if isinstance(column, OneHot | Index):
        check_words(field, column.vocabulary, what=what)
    if isinstance(column, Tensor):
        if field.type == "str":
            raise FeatureError(f"{what} cannot be a number; use 'one_hot' or 'index'")
        if field.optional or may_lack:
            raise FeatureError(
                f"{what} may be missing, and 'tensor' has no value for that: make it required, or use "
                "'scale' with its 'missing'"
            )


def check_words(field: FieldSpec, vocabulary: Sequence[str | int], *, what: str) -> None:
    """Refuse a vocabulary whose words are not of the field's type."""
    kinds = {"str": str, "int": int}
    if field.type not in kinds:
        raise FeatureError(f"{what} needs a str or int field, not {field.type}")
    if not all(type(word) is kinds[field.type] for word in vocabulary):
        raise FeatureError(f"{what}: every word of its vocabulary must be {field.type}")


class InputAssembler:
    """Makes one input of the model.

    Parameters
    ----------
    spec : InputSpec
        Its columns.
    fields : mapping of (source, name) to FieldSpec
        Declarations of the fields that they read.
    readers : mapping of source to FieldReader
        Where each field's numbers will be.
    tensor : TensorSpec or None
        What the model takes; None for the natural shape.

    Raises
    ------
    FeatureError
        If the columns do not make what the model takes.
    """

    def __init__(
        self,
        spec: InputSpec,
        *,
        fields: Mapping[tuple[Source, str], FieldSpec],
        readers: Mapping[Source, FieldReader],
        tensor: TensorSpec | None,
    ) -> None:
        self.name: Final = spec.tensor
        self.dtype: Final = (
            np.dtype(np.int64) if isinstance(spec.columns[0], Index) else np.dtype(np.float32)
        )
        self._readers = readers
        self._fields = fields
        placed: list[tuple[int, Transform]] = []
        self.width = 0
        for column in spec.columns:
            placed.append((self.width, column))
            self.width += self._column_width(column)
        lone = fields[(spec.columns[0].source, spec.columns[0].field)]
        natural: tuple[int, ...] = (self.width,)
        if len(spec.columns) == 1 and lone.shape is not None:
            natural = lone.shape
        self.shape: Final = natural if tensor is None else tensor.shape
        if tensor is not None:
            size = int(np.prod(tensor.shape, dtype=np.int64))
            if size != self.width or tensor.dtype != self.dtype.name:
                raise FeatureError(
                    f"input {self.name!r}: its columns make {self.width} numbers of type "
                    f"{self.dtype.name} per example, the model takes {size} of type {tensor.dtype} "
                    f"(shape {tensor.shape})"
                )
        self._indices = [column for _, column in placed if isinstance(column, Index)]
        self._lookups = [_lookup(column.vocabulary) for column in self._indices]
        self._steps = [] if self._indices else self._compile(placed)

    def _column_width(self, column: Transform) -> int:
        match column:
            case Cyclic():
                return 2
            case OneHot():
                return len(column.vocabulary) + 1
            case Buckets():
                return len(column.boundaries) + 2
            case Tensor():
                shape = self._fields[(column.source, column.field)].shape
                return 1 if shape is None else int(np.prod(shape))
            case _:
                return 1

    def assemble(self, readings: Readings, *, rows: int) -> NDArray[np.generic]:
        """Return the input, shape ``(rows, *shape)``."""
        if self._indices:
            codes = np.array(
                [
                    _codes(readings[column.source].columns[column.field], lookup)
                    for column, lookup in zip(self._indices, self._lookups, strict=True)
                ],
                dtype=np.int64,
            )
            return np.ascontiguousarray(codes.T).reshape(rows, *self.shape)
        out = np.zeros((rows, self.width), dtype=np.float32)
        if rows:
            for step in self._steps:
                step(readings, out)
        return out.reshape(rows, *self.shape)

    def _compile(self, placed: Sequence[tuple[int, Transform]]) -> list[_Step]:
        groups: dict[tuple[str, Source], list[tuple[int, Transform]]] = {}
        steps: list[_Step] = []
        for start, column in placed:
            field = self._fields[(column.source, column.field)]
            if isinstance(column, Tensor) and field.shape is not None:
                steps.append(_flat_tensor(column, start, self._column_width(column)))
            elif isinstance(column, IsMissing):
                steps.append(_is_missing(column, start))
            else:
                groups.setdefault((column.kind, column.source), []).append((start, column))
        for (kind, source), members in groups.items():
            starts = np.array([start for start, _ in members])
            if kind == "one_hot":
                steps.append(_one_hot(source, starts, [c for _, c in members]))
                continue
            reader = self._readers[source]
            places = np.array([reader.place(column.field) for _, column in members])
            steps.append(_NUMERIC[kind](source, places, starts, [c for _, c in members]))
        return steps


def _lookup(vocabulary: Sequence[str | int]) -> dict[str | int, int]:
    return {word: place for place, word in enumerate(vocabulary)}


def _codes(values: Sequence[Any], lookup: Mapping[str | int, int]) -> list[int]:
    get = lookup.get
    other = len(lookup)
    # A missing value is no word, so it goes where unknown words go.
    return [get(value, other) for value in values]


def _flat_tensor(column: Tensor, start: int, width: int) -> _Step:
    def step(readings: Readings, out: Matrix) -> None:
        values = readings[column.source].columns[column.field]
        out[:, start : start + width] = np.stack(values).reshape(len(out), width)

    return step


def _is_missing(column: IsMissing, start: int) -> _Step:
    def step(readings: Readings, out: Matrix) -> None:
        values = readings[column.source].columns[column.field]
        out[:, start] = [value is None for value in values]

    return step


def _one_hot(source: Source, starts: _Places, columns: Sequence[Transform]) -> _Step:
    words = [(c.field, _lookup(c.vocabulary)) for c in columns if isinstance(c, OneHot)]

    def step(readings: Readings, out: Matrix) -> None:
        values = readings[source].columns
        codes = np.array([_codes(values[field], lookup) for field, lookup in words])
        out[np.arange(len(out)), codes + starts[:, None]] = 1

    return step


def _pick(
    readings: Readings, source: Source, places: _Places
) -> tuple[NDArray[np.float64], NDArray[np.bool_] | None]:
    reading = readings[source]
    missing = None if reading.missing is None else reading.missing[places]
    return reading.numbers[places], missing


def _column_of(values: Sequence[float]) -> NDArray[np.float64]:
    return np.array(values, dtype=np.float64)[:, None]


def _numbers(
    source: Source, places: _Places, starts: _Places, columns: Sequence[Transform]
) -> _Step:
    names = [column.field for column in columns]

    def step(readings: Readings, out: Matrix) -> None:
        numbers, _ = _pick(readings, source, places)
        with np.errstate(over="ignore"):
            result = numbers.astype(np.float32)
        if not np.isfinite(result).all():
            column, row = np.argwhere(~np.isfinite(result))[0]
            raise FeatureError(
                f"{source} field {names[column]!r}, row {readings[source].rows[row]}: the number is "
                "beyond float32; use 'scale' or 'log_scale'"
            )
        out[:, starts] = result.T

    return step


def _scale(source: Source, places: _Places, starts: _Places, columns: Sequence[Transform]) -> _Step:
    scales = [column for column in columns if isinstance(column, Scale)]
    low = _column_of([column.low for column in scales])
    high = _column_of([column.high for column in scales])
    fallback = _column_of([column.missing for column in scales])

    def step(readings: Readings, out: Matrix) -> None:
        numbers, missing = _pick(readings, source, places)
        # Dividing, not multiplying by a reciprocal: the ends map to exactly -1 and 1.
        result = (np.clip(numbers, low, high) - low) / (high - low) * 2 - 1
        if missing is not None:
            result = np.where(missing, fallback, result)
        out[:, starts] = result.T

    return step


def _standardise(
    source: Source, places: _Places, starts: _Places, columns: Sequence[Transform]
) -> _Step:
    scales = [column for column in columns if isinstance(column, Standardise)]
    mean = _column_of([column.mean for column in scales])
    deviation = _column_of([column.deviation for column in scales])
    limit = _column_of([column.limit for column in scales])
    fallback = _column_of([column.missing for column in scales])

    def step(readings: Readings, out: Matrix) -> None:
        numbers, missing = _pick(readings, source, places)
        result = np.clip((numbers - mean) / deviation, -limit, limit)
        if missing is not None:
            result = np.where(missing, fallback, result)
        out[:, starts] = result.T

    return step


def _log_scale(
    source: Source, places: _Places, starts: _Places, columns: Sequence[Transform]
) -> _Step:
    scales = [column for column in columns if isinstance(column, LogScale)]
    high = _column_of([column.high for column in scales])
    fallback = _column_of([column.missing for column in scales])
    top = np.log1p(high)

    def step(readings: Readings, out: Matrix) -> None:
        numbers, missing = _pick(readings, source, places)
        result = np.log1p(np.clip(numbers, 0, high)) / top * 2 - 1
        if missing is not None:
            result = np.where(missing, fallback, result)
        out[:, starts] = result.T

    return step


def _cyclic(
    source: Source, places: _Places, starts: _Places, columns: Sequence[Transform]
) -> _Step:
    period = _column_of([column.period for column in columns if isinstance(column, Cyclic)])

    def step(readings: Readings, out: Matrix) -> None:
        numbers, missing = _pick(readings, source, places)
        # Reduced first: the sine of a large argument loses the digits that matter.
        angle = np.mod(numbers, period) / period * (2 * np.pi)
        for offset, wave in enumerate((np.sin(angle), np.cos(angle))):
            out[:, starts + offset] = (wave if missing is None else np.where(missing, 0, wave)).T

    return step


def _buckets(
    source: Source, places: _Places, starts: _Places, columns: Sequence[Transform]
) -> _Step:
    boundaries = [np.array(c.boundaries) for c in columns if isinstance(c, Buckets)]
    last = np.array([len(edges) + 1 for edges in boundaries])[:, None]

    def step(readings: Readings, out: Matrix) -> None:
        numbers, missing = _pick(readings, source, places)
        codes = np.array(
            [
                np.searchsorted(edges, values, side="right")
                for edges, values in zip(boundaries, numbers, strict=True)
            ]
        )
        if missing is not None:
            codes = np.where(missing, last, codes)
        out[np.arange(len(out)), codes + starts[:, None]] = 1

    return step


_NUMERIC: Final[Mapping[str, _Compiler]] = {
    "tensor": _numbers,
    "scale": _scale,
    "standardise": _standardise,
    "log_scale": _log_scale,
    "cyclic": _cyclic,
    "buckets": _buckets,
}
