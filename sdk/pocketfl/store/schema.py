"""Typed collections: what an app declares about its examples, and the check of every value.

Messages name the place and the type that was found there, never the value: an app's crash reports
leave the device, and what its examples say must not.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, Literal, NoReturn, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pocketfl.decoding import decode_json, encode_json
from pocketfl.errors import DecodeError, StoreError
from pocketfl.features.transforms import FieldSpec

FieldType: TypeAlias = Literal["float", "int", "bool", "str", "tensor"]

MAX_FIELDS: Final = 1024
MAX_TEXT_BYTES: Final = 2**20
"""Longest text of one field in bytes of UTF-8."""
MAX_ROW_BYTES: Final = 64 * 2**20
SCHEMA_LIMIT: Final = 2**20
DEFAULT_MAX_BYTES: Final = 256 * 2**20

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}\Z")
_INT_RANGE: Final = range(-(2**63), 2**63)


@dataclass(frozen=True)
class Field:
    """One field of a collection.

    Attributes
    ----------
    type : {"float", "int", "bool", "str", "tensor"}
        Floats are finite 64-bit, ints are 64-bit, tensors are float32 of one fixed shape.
    optional : bool
        Whether a value may be missing (``None``, or absent from the example).
    shape : tuple of int or None
        For a tensor, and only for a tensor: its shape.

    Raises
    ------
    StoreError
        If type and shape do not go together.
    """

    type: FieldType
    optional: bool = False
    shape: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.type not in ("float", "int", "bool", "str", "tensor"):
            raise StoreError(
                f"unknown field type {self.type!r}; use float, int, bool, str or tensor"
            )
        if self.shape is not None:
            object.__setattr__(self, "shape", tuple(self.shape))
        try:
            FieldSpec(name="field", type=self.type, optional=self.optional, shape=self.shape)
        except ValueError as error:
            raise StoreError(f"field of type {self.type!r}: {error}") from None


@dataclass(frozen=True, kw_only=True)
class Retention:
    """How much of a collection is kept, and how long.

    Beyond a quota the oldest examples go first, in the order in which they were appended. That happens
    as others are appended, in bounded steps: see :meth:`ExampleStore.append`.

    Attributes
    ----------
    max_examples : int or None
        Row quota; None for no limit.
    max_bytes : int or None
        Quota in bytes of stored examples, encrypted; None for no limit.
    max_age_seconds : float or None
        Time from ``append`` until an example expires (not from its own ``time``); None for never.

    Raises
    ------
    StoreError
        If a limit is not positive.
    """

    max_examples: int | None = None
    max_bytes: int | None = DEFAULT_MAX_BYTES
    max_age_seconds: float | None = None

    def __post_init__(self) -> None:
        for name in ("max_examples", "max_bytes", "max_age_seconds"):
            limit = getattr(self, name)
            if limit is not None and not 0 < limit < math.inf:
                raise StoreError(f"retention: {name} must be above 0, or None for no limit")


@dataclass(frozen=True)
class Collection:
    """A named table of examples of one type.

    Attributes
    ----------
    name : str
        Letters, digits, ``.``, ``_``, ``-``; 128 at most.
    fields : dict of str to Field
        By name, in the order in which they are packed.
    retention : Retention
        How much is kept, and how long; 256 MiB and no age limit by default.

    Raises
    ------
    StoreError
        If a name or a field is not usable.
    """

    name: str
    fields: Mapping[str, Field]
    retention: Retention = dataclasses.field(default_factory=Retention)

    def __post_init__(self) -> None:
        if not _NAME.match(self.name):
            raise StoreError(
                f"collection name {self.name[:40]!r} needs letters, digits, '.', '_', '-'; 128 at most"
            )
        object.__setattr__(self, "fields", dict(self.fields))
        if not 0 < len(self.fields) <= MAX_FIELDS:
            raise StoreError(f"collection {self.name!r} needs 1 to {MAX_FIELDS} fields")
        for name, field in self.fields.items():
            if not 0 < len(name) <= 128:
                raise StoreError(
                    f"collection {self.name!r}: a field needs a name of 1 to 128 characters"
                )
            if not isinstance(field, Field):
                raise StoreError(
                    f"collection {self.name!r}, field {name!r}: expected a Field, "
                    f"got {type(field).__name__}"
                )

    def __hash__(self) -> int:
        return hash((self.name, frozenset(self.fields.items()), self.retention))


@dataclass(frozen=True, kw_only=True)
class _StoredSchema:
    # A list, because the order of packing matters and JSON objects are written with sorted keys.
    fields: tuple[FieldSpec, ...]


def encode_schema(collection: Collection) -> bytes:
    """Return the bytes that keep a collection's fields, in order."""
    return encode_json(
        _StoredSchema(
            fields=tuple(
                FieldSpec(name=name, type=field.type, optional=field.optional, shape=field.shape)
                for name, field in collection.fields.items()
            )
        )
    )


def decode_schema(name: str, data: bytes) -> Collection:
    """Rebuild a collection from :func:`encode_schema`'s bytes.

    Raises
    ------
    StoreError
        If the bytes are damaged.
    """
    what = f"schema of collection {name!r}"
    try:
        stored = decode_json(_StoredSchema, data, what=what, limit=SCHEMA_LIMIT)
    except DecodeError as error:
        raise StoreError(f"{error}; the store is damaged") from None
    fields = {f.name: Field(f.type, optional=f.optional, shape=f.shape) for f in stored.fields}
    if len(fields) != len(stored.fields):
        raise StoreError(f"{what}: the same field twice; the store is damaged")
    return Collection(name, fields)


@dataclass(frozen=True, kw_only=True)
class _StoredRetention:
    # What is None is left out of the JSON, so here no default may be another value.
    max_examples: int | None = None
    max_bytes: int | None = None
    max_age_seconds: float | None = None


def encode_retention(retention: Retention) -> bytes:
    """Return the bytes that keep a collection's retention."""
    return encode_json(_StoredRetention(**dataclasses.asdict(retention)))


def decode_retention(name: str, data: bytes) -> Retention:
    """Rebuild a retention from :func:`encode_retention`'s bytes.

    Raises
    ------
    StoreError
        If the bytes are damaged.
    """
    try:
        stored = decode_json(
            _StoredRetention, data, what=f"retention of collection {name!r}", limit=SCHEMA_LIMIT
        )
    except DecodeError as error:
        raise StoreError(f"{error}; the store is damaged") from None
    return Retention(**dataclasses.asdict(stored))


def evolve(existing: Collection, declared: Collection) -> Collection | None:
    """Return the collection that holds what exists and takes what is declared; None if unchanged.

    Raises
    ------
    StoreError
        If a field was taken away or changed, or a new one is not optional: old rows would not fit.
    """
    if existing.fields == declared.fields and existing.retention == declared.retention:
        return None
    wrong = sorted(
        name
        for name in existing.fields.keys() | declared.fields.keys()
        if existing.fields.get(name) != declared.fields.get(name)
        and (name in existing.fields or not declared.fields[name].optional)
    )
    if wrong:
        raise StoreError(
            f"collection {declared.name!r} exists with other fields ({', '.join(wrong)} differ): "
            "only optional fields can be added; keep the others, or use a new collection name"
        )
    # New fields go last, so that the rows that lack them keep their layout.
    fields = dict(existing.fields)
    fields.update(
        (name, field) for name, field in declared.fields.items() if name not in existing.fields
    )
    return Collection(declared.name, fields, declared.retention)


def _refuse(expected: str, value: object) -> NoReturn:
    raise ValueError(f"expected {expected}, got {type(value).__name__}")


def _check_float(value: Any) -> float:
    if type(value) is float and math.isfinite(value):
        return value
    if isinstance(value, (bool, np.bool_)) or not isinstance(
        value, (float, int, np.floating, np.integer)
    ):
        _refuse("a number", value)
    try:
        number = float(value)
    except OverflowError:
        raise ValueError("expected a 64-bit float, got an int beyond its range") from None
    if not math.isfinite(number):
        raise ValueError("expected a finite number, got NaN or infinity; a missing value is None")
    return number


def _check_int(value: Any) -> int:
    if type(value) is not int and (
        isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer))
    ):
        _refuse("a whole number", value)
    number = int(value)
    if number not in _INT_RANGE:
        raise ValueError("expected a 64-bit int, got an int beyond its range")
    return number


def _check_bool(value: Any) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        _refuse("true or false", value)
    return bool(value)


def _check_str(value: Any) -> str:
    if not isinstance(value, str):
        _refuse("text", value)
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise ValueError("expected text, got a str with lone surrogates") from None
    if size > MAX_TEXT_BYTES:
        raise ValueError(f"expected at most {MAX_TEXT_BYTES} bytes of text, got {size}")
    return str(value)


def _tensor_checker(shape: tuple[int, ...]) -> Callable[[object], NDArray[np.float32]]:
    expected = f"numbers of shape {shape}"

    def check(value: Any) -> NDArray[np.float32]:
        try:
            array = np.asarray(value)
        except (ValueError, TypeError):
            _refuse(expected, value)
        if array.dtype.kind not in "fiu":
            raise ValueError(f"expected {expected}, got elements of type {array.dtype}")
        if array.shape != shape:
            raise ValueError(f"expected {expected}, got shape {array.shape}")
        with np.errstate(over="ignore"):
            result = array.astype(np.float32, copy=False)
        if not np.isfinite(result).all():
            raise ValueError(f"expected {expected}, got values that are not finite in float32")
        return result

    return check


def are_tensors(values: Sequence[object], shape: tuple[int, ...] | None) -> bool:
    """Say whether all values are tensors as a :func:`value_checker` returns them; one look for all."""
    arrays = [
        value
        for value in values
        if isinstance(value, np.ndarray) and value.dtype == np.float32 and value.shape == shape
    ]
    return 0 < len(arrays) == len(values) and bool(np.isfinite(np.stack(arrays)).all())


@cache
def value_checker(kind: FieldType, shape: tuple[int, ...] | None) -> Callable[[object], Any]:
    """Return a function that turns an app's value into the stored type.

    NumPy scalars pass for their Python types and whole numbers for floats; nothing else is coerced.
    The function raises ``ValueError`` with "expected ..., got ..." and takes no ``None``.
    """
    if kind == "tensor":
        if shape is None:
            raise TypeError("a tensor has a shape")
        return _tensor_checker(shape)
    return {"float": _check_float, "int": _check_int, "bool": _check_bool, "str": _check_str}[kind]
