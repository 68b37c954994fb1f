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
from collections.abc import Mapping
from functools import cache
from typing import (
    Any,
    Final,
    Literal,
    NoReturn,
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
    _check_value(value, what=what, depth=0)
    return value


def _check_value(value: Any, *, what: str, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise DecodeError(f"{what}: nested deeper than {MAX_DEPTH}")
    if isinstance(value, dict):
        for key, item in value.items():
            _check_text(key, what=what)
            _check_value(item, what=what, depth=depth + 1)
    elif isinstance(value, list):
        for item in value:
            _check_value(item, what=what, depth=depth + 1)
    elif isinstance(value, float) and not math.isfinite(value):
        raise DecodeError(f"{what}: a number is too large")
    elif isinstance(value, str):
        _check_text(value, what=what)


def _check_text(value: str, *, what: str) -> None:
    # JSON can escape half a surrogate pair; such a text cannot be written to a file or database.
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
    return _convert(kind, value, what)  # type: ignore[no-any-return]


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


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _fail(path: str, expected: str, value: Any) -> NoReturn:
    shown = repr(value)
    raise DecodeError(f"{path}: expected {expected}, got {shown[:60]}")


def _convert(kind: Any, value: Any, path: str) -> Any:
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        return _convert_union(get_args(kind), value, path)
    if origin is Literal:
        allowed = get_args(kind)
        # bool is an int in Python: 1 must not pass for True, nor True for 1.
        if not any(value == item and type(value) is type(item) for item in allowed):
            _fail(path, "one of " + ", ".join(map(repr, allowed)), value)
        return value
    if origin is tuple:
        item_kind = get_args(kind)[0]
        if not isinstance(value, list):
            _fail(path, "a list", value)
        return tuple(_convert(item_kind, item, f"{path}[{i}]") for i, item in enumerate(value))
    if origin is dict:
        item_kind = get_args(kind)[1]
        if not isinstance(value, dict):
            _fail(path, "an object", value)
        return {key: _convert(item_kind, item, f"{path}.{key}") for key, item in value.items()}
    if dataclasses.is_dataclass(kind):
        return _convert_record(kind, value, path)
    if kind is type(None):
        if value is not None:
            _fail(path, "null", value)
        return None
    return _convert_scalar(kind, value, path)


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
    names = {
        str: "a string",
        int: "a whole number of 64 bits",
        float: "a number",
        bool: "true or false",
    }
    if kind not in names:
        raise TypeError(f"{path}: records cannot hold {kind!r}")
    _fail(path, names[kind], value)


def _convert_union(kinds: tuple[Any, ...], value: Any, path: str) -> Any:
    if value is None:
        if type(None) in kinds:
            return None
        _fail(path, "a value", value)
    records = [kind for kind in kinds if dataclasses.is_dataclass(kind)]
    if records and isinstance(value, dict):
        if len(records) == 1:
            return _convert(records[0], value, path)
        by_kind = {get_args(_hints(kind)["kind"])[0]: kind for kind in records}  # type: ignore[arg-type]
        tag = value.get("kind")
        if not isinstance(tag, str) or tag not in by_kind:
            _fail(f"{path}.kind", "one of " + ", ".join(sorted(by_kind)), tag)
        return _convert(by_kind[tag], value, path)
    failures = []
    for kind in kinds:
        if kind is type(None) or dataclasses.is_dataclass(kind):
            continue
        if kind is float and int in kinds and type(value) is int:
            # Where both are allowed, a whole number is never turned into a float.
            continue
        try:
            return _convert(kind, value, path)
        except DecodeError as error:
            failures.append(str(error))
    raise DecodeError("; or ".join(failures) or f"{path}: unexpected value")


def _convert_record(kind: Any, value: Any, path: str) -> Any:
    if not isinstance(value, dict):
        _fail(path, "an object", value)
    fields = {field.name: field for field in dataclasses.fields(kind)}
    unknown = sorted(set(value) - set(fields))
    if unknown:
        raise DecodeError(
            f"{path}: unknown field {unknown[0]!r}; a newer format may need a newer pocketfl"
        )
    hints = _hints(kind)
    arguments = {}
    for name, field in fields.items():
        if name in value:
            arguments[name] = _convert(hints[name], value[name], f"{path}.{name}")
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise DecodeError(f"{path}: the field {name!r} is missing")
    try:
        return kind(**arguments)
    except ValueError as error:
        raise DecodeError(f"{path}: {error}") from None
