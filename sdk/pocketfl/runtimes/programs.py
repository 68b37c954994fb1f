"""What an ExecuTorch program says about its tensors, read from its bytes before anything loads it.

ExecuTorch's Java interface does not tell dtypes and shapes, and a program that is not the one the
manifest describes must not run. The field numbers are those of the public schema,
``schema/program.fbs``.
"""

from __future__ import annotations

import struct
from typing import Final

from flatbuffers import number_types
from flatbuffers.table import Table

from pocketfl.errors import PlanError
from pocketfl.runtimes.graphs import Signature

_IDENTIFIER: Final = b"ET12"
# Programs take booleans as bytes; older ones of this package's exporter take them as they are, which
# ExecuTorch's Java interface cannot give.
_DTYPES: Final = {0: "bool", 4: "int64", 6: "float32", 11: "boolean"}
_MAX_TENSORS: Final = 4096
_MAX_DIMENSIONS: Final = 16

# Place of each field in its table.
_PROGRAM_PLANS: Final = 1
_PLAN_NAME, _PLAN_VALUES, _PLAN_INPUTS, _PLAN_OUTPUTS = 0, 2, 3, 4
_VALUE_TYPE, _VALUE = 0, 1
_TENSOR_DTYPE, _TENSOR_SIZES = 0, 2
_TENSOR_TYPE: Final = 5
"""Number of ``Tensor`` in the union of kinds of values."""


def read_signatures(program: bytes, method: str) -> tuple[Signature, Signature]:
    """Return the dtypes and shapes of a method's inputs and outputs.

    Parameters
    ----------
    program : bytes
        A ``.pte`` file; may come from anywhere.
    method : str
        Name of the method.

    Raises
    ------
    PlanError
        If these bytes are not a program, or it has no such method, or takes or gives other things than
        tensors.
    """
    if program[4:8] != _IDENTIFIER:
        raise PlanError("it is not an ExecuTorch program")
    try:
        (root,) = struct.unpack_from("<I", program, 0)
        plan = _method(Table(program, root), method)
        values = _vector(plan, _PLAN_VALUES)
        return (
            _signature(plan, _PLAN_INPUTS, values),
            _signature(plan, _PLAN_OUTPUTS, values),
        )
    except (struct.error, IndexError, ValueError, OverflowError, TypeError) as error:
        raise PlanError(f"the program is damaged: {error}") from error


def _method(program: Table, name: str) -> Table:
    plans = _vector(program, _PROGRAM_PLANS)
    for index in range(_length(plans)):
        plan = _table_at(plans, index)
        offset = _offset(plan, _PLAN_NAME)
        if offset and plan.String(plan.Pos + offset) == name.encode():
            return plan
    raise PlanError(f"the program has no method {name!r}")


def _signature(plan: Table, field: int, values: tuple[Table, int]) -> Signature:
    indices = _vector(plan, field)
    return tuple(
        _tensor(values, _integer_at(indices, position)) for position in range(_length(indices))
    )


def _tensor(values: tuple[Table, int], index: int) -> tuple[str, tuple[int, ...]]:
    if not 0 <= index < _count(values):
        raise PlanError(f"the program has no value {index}")
    value = _table_at(values, index)
    kind = value.GetSlot(_slot(_VALUE_TYPE), 0, number_types.Uint8Flags)
    offset = _offset(value, _VALUE)
    if kind != _TENSOR_TYPE or not offset:
        raise PlanError("the program takes or gives something else than tensors")
    tensor = Table(value.Bytes, value.Indirect(value.Pos + offset))
    dtype = tensor.GetSlot(_slot(_TENSOR_DTYPE), 0, number_types.Int8Flags)
    if not _offset(tensor, _TENSOR_SIZES):  # A scalar's sizes may be left out.
        return _DTYPES.get(dtype, str(dtype)), ()
    sizes = _vector(tensor, _TENSOR_SIZES)
    dimensions = _length(sizes, most=_MAX_DIMENSIONS)
    shape = tuple(_integer_at(sizes, axis) for axis in range(dimensions))
    return _DTYPES.get(dtype, str(dtype)), shape


def _slot(field: int) -> int:
    return 4 + 2 * field


def _offset(table: Table, field: int) -> int:
    return int(table.Offset(_slot(field)))


def _vector(table: Table, field: int) -> tuple[Table, int]:
    """Return a vector as its table and the offset of the field in it."""
    offset = _offset(table, field)
    if not offset:
        raise PlanError("the program is damaged: a list is missing")
    return table, offset


def _count(vector: tuple[Table, int]) -> int:
    table, offset = vector
    return int(table.VectorLen(offset))


def _length(vector: tuple[Table, int], *, most: int = _MAX_TENSORS) -> int:
    count = _count(vector)
    if count > most:
        raise PlanError(f"the program is damaged: a list of {count}")
    return count


def _integer_at(vector: tuple[Table, int], index: int) -> int:
    table, offset = vector
    return int(table.Get(number_types.Int32Flags, table.Vector(offset) + 4 * index))


def _table_at(vector: tuple[Table, int], index: int) -> Table:
    table, offset = vector
    return Table(table.Bytes, table.Indirect(table.Vector(offset) + 4 * index))
