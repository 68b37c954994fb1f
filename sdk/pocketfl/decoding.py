"""Strict JSON to frozen dataclasses, for bytes that nobody vouches for.

The standard ``json`` module accepts NaN, duplicate keys and any depth; ``dataclasses`` check no types.
This module closes those gaps: a value has exactly the annotated type, an unknown key is refused with
its path, and nothing is ever coerced. Only the shapes that our own records use are supported.
"""

from __future__ import annotations

import dataclasses
import json
import math
import types
from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import (
    Any,
    Final,
    Literal,
    NoReturn,
    TypeAlias,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from pocketfl.errors import DecodeError

T = TypeVar("T")

MAX_DEPTH = 24
"""Deepest nesting of JSON that :func:`parse_json` accepts; our own records need 7."""


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"the number {name} is not allowed")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("an object has the same key twice")
    return result


# One decoder for all: `json.loads` would build a new one for every call that brings hooks.
_JSON: Final = json.JSONDecoder(parse_constant=_refuse_constant, object_pairs_hook=_unique)


def parse_json(data: bytes, *, what: str, limit: int) -> Any:
    """Parse JSON from an untrusted source.

    Parameters
    ----------
    data : bytes
        UTF-8 encoded JSON.
    what : str
        Name of the thing, for messages ("manifest", "assignment").
    limit : int
        Largest accepted length in bytes.

    Returns
    -------
    object
        Dictionaries, lists, strings, numbers, booleans and None.

    Raises
    ------
    DecodeError
        If it is too long, not UTF-8 or JSON, nested deeper than :data:`MAX_DEPTH`, or has duplicate
        keys, numbers that are not finite, or text that is not Unicode.
    """
    if len(data) > limit:
        raise DecodeError(f"{what}: {len(data)} bytes, more than the {limit} allowed")

    try:
        value = _JSON.decode(data.decode("utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError, ValueError) as error:
        raise DecodeError(f"{what}: not valid JSON ({error})") from None
    # JSON can escape half a surrogate pair, and such a text cannot be written to a file or database;
    # UTF-8 without escapes cannot.
    _check_values(value, what=what, texts=b"\\u" in data)
    return value


def _check_values(value: Any, *, what: str, texts: bool) -> None:
    """Check everything in a parsed value, one level of nesting after the other."""
    level, depth = [value], 0
    while level:
        if depth > MAX_DEPTH:
            raise DecodeError(f"{what}: nested deeper than {MAX_DEPTH}")
        deeper: list[Any] = []
        for item in level:
            kind = type(item)
            if kind is dict:
                deeper.extend(item.values())
                if texts:
                    deeper.extend(item)
            elif kind is list:
                deeper.extend(item)
            elif kind is float and not math.isfinite(item):
                raise DecodeError(f"{what}: a number is too large")
            elif texts and kind is str:
                _check_text(item, what=what)
        level, depth = deeper, depth + 1


def _check_text(value: str, *, what: str) -> None:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise DecodeError(f"{what}: a text has half of a surrogate pair") from None


def decode(kind: type[T], value: Any, *, what: str) -> T:
    """Build a frozen dataclass from parsed JSON, checking every field.

    Parameters
    ----------
    kind : type
        A dataclass whose fields are ``str``, ``int``, ``float``, ``bool``, ``None``, ``Literal``,
        ``tuple[X, ...]``, ``dict[str, X]``, other such dataclasses, or unions of these. Dataclasses in
        a union are told apart by a ``kind`` field of type ``Literal``.
    value : object
        What :func:`parse_json` returned.
    what : str
        Name of the thing, for messages.

    Returns
    -------
    kind
        The record; its own ``__post_init__`` has run.

    Raises
    ------
    DecodeError
        Naming the path and what was expected there.
    """
    return _converter(kind)(value, what)  # type: ignore[arg-type, no-any-return]


def decode_json(kind: type[T], data: bytes, *, what: str, limit: int) -> T:
    """Parse and decode in one go; see :func:`parse_json` and :func:`decode`."""
    return decode(kind, parse_json(data, what=what, limit=limit), what=what)


def encode(record: Any) -> Any:
    """Turn a record into what ``json.dumps`` takes, dropping fields that are ``None``."""
    if dataclasses.is_dataclass(record) and not isinstance(record, type):
        return {
            field.name: encode(getattr(record, field.name))
            for field in dataclasses.fields(record)
            if getattr(record, field.name) is not None
        }
    if isinstance(record, Mapping):
        return {key: encode(item) for key, item in record.items()}
    if isinstance(record, (list, tuple)):
        return [encode(item) for item in record]
    return record


def encode_json(record: Any) -> bytes:
    """Encode a record as compact JSON with sorted keys (one record, one byte string)."""
    return json.dumps(
        encode(record), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


_Converter: TypeAlias = Callable[[Any, str], Any]
"""Checks one parsed value, whose path is given for messages, and returns what the record holds."""

_SCALARS: Final = {
    str: "a string",
    int: "a whole number of 64 bits",
    float: "a number",
    bool: "true or false",
}


def _fail(path: str, expected: str, value: Any) -> NoReturn:
    shown = repr(value)
    raise DecodeError(f"{path}: expected {expected}, got {shown[:60]}")


@cache
def _converter(kind: Any) -> _Converter:
    """Return the converter of an annotation; looking at annotations costs more than at values."""
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        return _union_converter(get_args(kind))
    if origin is Literal:
        return _literal_converter(get_args(kind))
    if origin is tuple:
        return _tuple_converter(get_args(kind)[0])
    if origin is dict:
        return _dict_converter(get_args(kind)[1])
    if dataclasses.is_dataclass(kind):
        return _record_converter(kind)
    if kind is type(None):
        return _convert_none
    if kind in _SCALARS:
        return partial(_convert_scalar, kind)
    raise TypeError(f"records cannot hold {kind!r}")


def _convert_none(value: Any, path: str) -> None:
    if value is not None:
        _fail(path, "null", value)


def _convert_scalar(kind: Any, value: Any, path: str) -> Any:
    if kind is float and type(value) in (int, float):
        try:
            return float(value)
        except OverflowError:
            _fail(path, "a number", value)
    if kind in (str, bool) and type(value) is kind:
        return value
    # Wider ones fit no database and no tensor.
    if kind is int and type(value) is int and -(2**63) <= value < 2**63:
        return value
    _fail(path, _SCALARS[kind], value)


def _literal_converter(allowed: tuple[Any, ...]) -> _Converter:
    # bool is an int in Python: 1 must not pass for True, nor True for 1.
    typed = {(type(item), item) for item in allowed}

    def convert(value: Any, path: str) -> Any:
        if isinstance(value, (dict, list)) or (type(value), value) not in typed:
            _fail(path, "one of " + ", ".join(map(repr, allowed)), value)
        return value

    return convert


def _tuple_converter(item_kind: Any) -> _Converter:
    convert_item = _converter(item_kind)

    def convert(value: Any, path: str) -> Any:
        if not isinstance(value, list):
            _fail(path, "a list", value)
        return tuple([convert_item(item, f"{path}[{i}]") for i, item in enumerate(value)])

    return convert


def _dict_converter(item_kind: Any) -> _Converter:
    convert_item = _converter(item_kind)

    def convert(value: Any, path: str) -> Any:
        if not isinstance(value, dict):
            _fail(path, "an object", value)
        return {key: convert_item(item, f"{path}.{key}") for key, item in value.items()}

    return convert


def _union_converter(kinds: tuple[Any, ...]) -> _Converter:
    records: list[Any] = [kind for kind in kinds if dataclasses.is_dataclass(kind)]
    others = [k for k in kinds if k is not type(None) and not dataclasses.is_dataclass(k)]
    by_kind = (
        {get_args(get_type_hints(kind)["kind"])[0]: _converter(kind) for kind in records}
        if len(records) > 1
        else {}
    )

    def convert_record(value: dict[str, Any], path: str) -> Any:
        if len(records) == 1:
            return _converter(records[0])(value, path)
        tag = value.get("kind")
        if not isinstance(tag, str) or tag not in by_kind:
            _fail(f"{path}.kind", "one of " + ", ".join(sorted(by_kind)), tag)
        return by_kind[tag](value, path)

    def convert(value: Any, path: str) -> Any:
        if value is None:
            if type(None) in kinds:
                return None
            _fail(path, "a value", value)
        if records and isinstance(value, dict):
            return convert_record(value, path)
        failures = []
        for kind in others:
            if kind is float and int in kinds and type(value) is int:
                # Where both are allowed, a whole number is never turned into a float.
                continue
            try:
                return _converter(kind)(value, path)
            except DecodeError as error:
                failures.append(str(error))
        raise DecodeError("; or ".join(failures) or f"{path}: unexpected value")

    return convert


def _record_converter(kind: Any) -> _Converter:
    fields = dataclasses.fields(kind)
    hints = get_type_hints(kind)
    converters = {field.name: _converter(hints[field.name]) for field in fields}
    required = [
        field.name
        for field in fields
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]

    def convert(value: Any, path: str) -> Any:
        if not isinstance(value, dict):
            _fail(path, "an object", value)
        if not value.keys() <= converters.keys():
            unknown = sorted(value.keys() - converters.keys())
            raise DecodeError(
                f"{path}: unknown field {unknown[0]!r}; a newer format may need a newer pocketfl"
            )
        for name in required:
            if name not in value:
                raise DecodeError(f"{path}: the field {name!r} is missing")
        arguments = {name: converters[name](item, f"{path}.{name}") for name, item in value.items()}
        try:
            return kind(**arguments)
        except ValueError as error:
            raise DecodeError(f"{path}: {error}") from None

    return convert
