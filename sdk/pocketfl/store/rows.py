"""The binary form of one example: compact, typed, and read back with suspicion.

A row is a bitmap of missing values, then a fixed block with one slot per field (float64, int64, one
byte for a bool, the byte length of a text, nothing for a tensor), then texts and tensors one after the
other. All little-endian. There is exactly one encoding of a row: the slot of a missing value is zero.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from pocketfl.errors import StoreDamagedError, StoreError
from pocketfl.store.schema import MAX_ROW_BYTES, MAX_TEXT_BYTES, Collection, Field, value_checker

_SLOTS: Final = {"float": "d", "int": "q", "bool": "B", "str": "I", "tensor": ""}
_FLOAT32: Final = np.dtype("<f4")


class _Column:
    """What packing needs to know of one field."""

    def __init__(self, name: str, field: Field, *, position: int, slot: int | None) -> None:
        self.name = name
        self.type = field.type
        self.optional = field.optional
        self.shape = field.shape or ()
        self.bit = 1 << position
        self.slot = slot
        self.check = value_checker(field.type, field.shape)
        self.elements = math.prod(self.shape)


class RowCodec:
    """Packs and unpacks the rows of one collection.

    Parameters
    ----------
    collection : Collection
        Decides the layout.
    """

    def __init__(self, collection: Collection) -> None:
        self._name = collection.name
        self._columns: list[_Column] = []
        # Slot 0 is the bitmap.
        slots = 1
        for position, (name, field) in enumerate(collection.fields.items()):
            slot = None if field.type == "tensor" else slots
            slots += slot is not None
            self._columns.append(_Column(name, field, position=position, slot=slot))
        self._bitmap_bytes = (len(self._columns) + 7) // 8
        self._nothing_missing = bytes(self._bitmap_bytes)
        self._may_miss = sum(column.bit for column in self._columns if column.optional)
        form = "".join(_SLOTS[column.type] for column in self._columns)
        self._fixed = struct.Struct(f"<{self._bitmap_bytes}s{form}")

    def encode(self, example: Mapping[str, object], *, row: int) -> bytes:
        """Check one example and pack it.

        Parameters
        ----------
        example : mapping
            Field name to value; an optional field may be ``None`` or absent.
        row : int
            Its place in what the app appends, for messages.

        Raises
        ------
        StoreError
            Naming collection, field, row, and what was expected and found.
        """
        if not isinstance(example, Mapping):
            raise StoreError(
                f"collection {self._name!r}, row {row}: expected a mapping of fields, "
                f"got {type(example).__name__}"
            )
        slots: list[Any] = []
        tail: list[bytes] = []
        missing = 0
        found = 0
        for column in self._columns:
            value = example.get(column.name)
            if value is None:
                if not column.optional:
                    raise self._error(row, column.name, "expected a value, got None or nothing")
                found += column.name in example
                missing |= column.bit
                if column.slot is not None:
                    slots.append(0)
                continue
            found += 1
            try:
                value = column.check(value)
            except ValueError as error:
                raise self._error(row, column.name, str(error)) from None
            if column.type == "str":
                data = value.encode()
                tail.append(data)
                slots.append(len(data))
            elif column.type == "tensor":
                tail.append(value.astype(_FLOAT32, copy=False).tobytes())
            else:
                slots.append(value)
        if found != len(example):
            known = [column.name for column in self._columns]
            unknown = next(name for name in example if name not in known)
            raise self._error(row, unknown, f"no such field; the collection has {', '.join(known)}")
        bitmap = missing.to_bytes(self._bitmap_bytes, "little")
        data = b"".join((self._fixed.pack(bitmap, *slots), *tail))
        if len(data) > MAX_ROW_BYTES:
            raise StoreError(
                f"collection {self._name!r}, row {row}: expected at most {MAX_ROW_BYTES} bytes, "
                f"got {len(data)}"
            )
        return data

    def decode(self, payloads: Sequence[bytes]) -> dict[str, list[Any]]:
        """Unpack rows into columns.

        Parameters
        ----------
        payloads : sequence of bytes
            What :meth:`encode` made, from a file that may have been damaged or forged.

        Returns
        -------
        dict of str to list
            One list per field, in the collection's order; missing values are ``None``, tensors are
            read-only float32 arrays.

        Raises
        ------
        StoreDamagedError
            If a payload is not exactly what :meth:`encode` makes.
        """
        if not payloads:
            return {column.name: [] for column in self._columns}
        unpack = self._fixed.unpack_from
        try:
            slots = list(zip(*map(unpack, payloads), strict=True))
        except (struct.error, TypeError):
            raise self._damaged(self._first_short(payloads), "is too short") from None
        missing = self._decode_bitmaps(slots[0])
        # The cursor of every row moves on column by column, so that the inner loops stay tight.
        cursors = [self._fixed.size] * len(payloads)
        columns: dict[str, list[Any]] = {}
        for column in self._columns:
            absent = (
                [row for row, bits in enumerate(missing) if bits & column.bit]
                if missing is not None and column.optional
                else []
            )
            values = slots[column.slot] if column.slot is not None else ()
            if any(values[row] or math.copysign(1, values[row]) < 0 for row in absent if values):
                raise self._damaged(None, f"has a value in the missing field {column.name!r}")
            if column.type == "str":
                result, cursors = self._decode_texts(column, payloads, values, cursors)
            elif column.type == "tensor":
                result, cursors = self._decode_tensors(column, payloads, set(absent), cursors)
            else:
                result = self._decode_numbers(column, values)
            for row in absent:
                result[row] = None
            columns[column.name] = result
        for row, (payload, end) in enumerate(zip(payloads, cursors, strict=True)):
            if len(payload) != end:
                raise self._damaged(row, f"has {len(payload)} bytes, not {end}")
        return columns

    def _decode_bitmaps(self, bitmaps: tuple[bytes, ...]) -> list[int] | None:
        if set(bitmaps) == {self._nothing_missing}:
            return None
        missing = [int.from_bytes(bitmap, "little") for bitmap in bitmaps]
        for row, bits in enumerate(missing):
            if bits & ~self._may_miss:
                raise self._damaged(row, "lacks a value that is not optional")
        return missing

    def _decode_numbers(self, column: _Column, values: tuple[Any, ...]) -> list[Any]:
        if column.type == "float" and not all(map(math.isfinite, values)):
            raise self._damaged(None, f"is not finite in field {column.name!r}")
        if column.type == "bool":
            if max(values) > 1:
                raise self._damaged(None, f"is neither true nor false in field {column.name!r}")
            return list(map(bool, values))
        return list(values)

    def _decode_texts(
        self,
        column: _Column,
        payloads: Sequence[bytes],
        lengths: tuple[int, ...],
        cursors: list[int],
    ) -> tuple[list[Any], list[int]]:
        if max(lengths) > MAX_TEXT_BYTES:
            raise self._damaged(
                lengths.index(max(lengths)), f"has too long a text in field {column.name!r}"
            )
        ends = list(map(int.__add__, cursors, lengths))
        try:
            texts = [
                payload[start:end].decode()
                for payload, start, end in zip(payloads, cursors, ends, strict=True)
            ]
        except UnicodeDecodeError:
            raise self._damaged(None, f"is not UTF-8 in field {column.name!r}") from None
        return texts, ends

    def _decode_tensors(
        self, column: _Column, payloads: Sequence[bytes], absent: set[int], cursors: list[int]
    ) -> tuple[list[Any], list[int]]:
        tensors: list[Any] = []
        ends = list(cursors)
        for row, payload in enumerate(payloads):
            if row in absent:
                tensors.append(None)
                continue
            ends[row] += _FLOAT32.itemsize * column.elements
            if ends[row] > len(payload):
                raise self._damaged(row, f"is cut off in field {column.name!r}")
            array = np.frombuffer(payload, _FLOAT32, column.elements, cursors[row])
            tensors.append(array.reshape(column.shape))
        present = [tensor for tensor in tensors if tensor is not None]
        # All at once: a call for each of them would take longer than the look itself.
        if present and not np.isfinite(np.stack(present)).all():
            row = next(
                row
                for row, tensor in enumerate(tensors)
                if tensor is not None and not np.isfinite(tensor).all()
            )
            raise self._damaged(row, f"is not finite in field {column.name!r}")
        return tensors, ends

    def _first_short(self, payloads: Sequence[bytes]) -> int | None:
        for row, payload in enumerate(payloads):
            if not isinstance(payload, bytes) or len(payload) < self._fixed.size:
                return row
        return None

    def _damaged(self, row: int | None, reason: str) -> StoreDamagedError:
        which = "a stored row" if row is None else f"stored row {row} of those read"
        return StoreDamagedError(f"collection {self._name!r}: {which} is damaged: it {reason}")

    def _error(self, row: int, field: str, reason: str) -> StoreError:
        return StoreError(f"collection {self._name!r}, field {field!r}, row {row}: {reason}")
