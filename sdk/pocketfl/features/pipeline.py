"""From examples to the model's batch, compiled once per plan: the same code trains and predicts."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pocketfl.errors import FeatureError
from pocketfl.features.assembly import InputAssembler, check_column, check_words, is_numeric
from pocketfl.features.reading import FieldReader, Reading
from pocketfl.features.transforms import FeatureSpec, FieldSpec, LabelSpec, ServerTable, Source
from pocketfl.plan.models import ModelSpec, TensorSpec
from pocketfl.store import Examples, ServerFeatures
from pocketfl.store.schema import Collection

ServerRow: TypeAlias = Mapping[str, object]

_valid_from = itemgetter(0)


@dataclass(frozen=True)
class Selection:
    """The examples that count, with what belongs to each.

    Attributes
    ----------
    rows : list of int
        Their places among all, in order.
    target : ndarray or None
        One per row; None where the plan has no label.
    server : list of mapping or None
        The server row of each, None where it has none; None as a whole without a server table.
    """

    rows: list[int]
    target: NDArray[np.generic] | None
    server: list[ServerRow | None] | None


class FeaturePipeline:
    """Turns examples into arrays as a :class:`FeatureSpec` says.

    Parameters
    ----------
    spec : FeatureSpec
        The plan's features.
    model : ModelSpec, optional
        The plan's model: decides shapes and the target's type, and is checked against the columns.
        Without it an input has shape ``(rows, columns)`` (a lone tensor keeps its own), and the target
        is int64 for a label with a vocabulary and float32 otherwise.

    Raises
    ------
    FeatureError
        If a column cannot be made of its field, or the columns do not fit the model.
    """

    def __init__(self, spec: FeatureSpec, *, model: ModelSpec | None = None) -> None:
        self.spec: Final = spec
        table = spec.server_table
        may_lack = table is not None and not table.required
        fields: dict[tuple[Source, str], FieldSpec] = {("device", f.name): f for f in spec.fields}
        if table is not None:
            _check_table(table, fields[("device", table.key_field)])
            fields |= {("server", f.name): f for f in table.fields}
        numeric: dict[Source, set[str]] = {"device": set(), "server": set()}
        used: dict[Source, dict[str, FieldSpec]] = {"device": {}, "server": {}}
        for made in spec.inputs:
            for column in made.columns:
                field = fields[(column.source, column.field)]
                check_column(
                    column,
                    field,
                    tensor=made.tensor,
                    may_lack=may_lack and column.source == "server",
                )
                used[column.source][field.name] = field
                if is_numeric(column, field):
                    numeric[column.source].add(field.name)
        self._readers: dict[Source, FieldReader] = {
            source: FieldReader(
                tuple(used[source].values()),
                numeric=numeric[source],
                source=source,
                row_may_lack=may_lack and source == "server",
            )
            for source in used
        }
        tensors = {} if model is None else {t.name: t for t in model.inputs}
        if model is not None and set(tensors) != set(spec.tensor_names):
            raise FeatureError(
                f"features make the inputs {sorted(spec.tensor_names)}, "
                f"the model takes {sorted(tensors)}"
            )
        self._assemblers = [
            InputAssembler(
                made, fields=fields, readers=self._readers, tensor=tensors.get(made.tensor)
            )
            for made in spec.inputs
        ]
        self._target: _Target | None = None
        if spec.label is not None:
            field = fields["device", spec.label.field]
            self._target = _Target(spec.label, field, None if model is None else model.target)

    def check(self, collection: Collection, *, name: str | None = None) -> None:
        """Refuse a collection that does not hold what the plan reads.

        Parameters
        ----------
        collection : Collection
            As it was declared.
        name : str, optional
            Of another collection that is read instead of the plan's.

        Raises
        ------
        FeatureError
            Naming the field that is missing or of another type.
        """
        wanted_name = self.spec.collection if name is None else name
        if collection.name != wanted_name:
            raise FeatureError(
                f"the plan reads the collection {wanted_name!r}, not {collection.name!r}"
            )
        for wanted in self.spec.fields:
            what = f"collection {collection.name!r}, field {wanted.name!r}"
            field = collection.fields.get(wanted.name)
            if field is None:
                raise FeatureError(
                    f"{what}: the plan reads it, and the collection does not have it"
                )
            if field.type != wanted.type or field.shape != wanted.shape:
                raise FeatureError(
                    f"{what}: the plan expects {_describe(wanted.type, wanted.shape)}, the collection "
                    f"has {_describe(field.type, field.shape)}"
                )
            if field.optional and not wanted.optional:
                raise FeatureError(
                    f"{what}: the plan expects a value in every example, the collection lets it be "
                    "missing"
                )

    def keys(self, values: Iterable[object]) -> set[str]:
        """Return the keys that examples with these values of the key field join on."""
        return {key for value in values if (key := _key(value)) is not None}

    def arrays(
        self, examples: Examples, server_features: ServerFeatures | None = None
    ) -> dict[str, NDArray[np.generic]]:
        """Return the model's inputs and ``target`` for training or evaluation.

        Parameters
        ----------
        examples : Examples
            Of a collection that :meth:`check` accepts.
        server_features : mapping, optional
            What the store holds of the plan's server table.

        Returns
        -------
        dict of str to ndarray
            All with the same number of rows. An example without a usable label, or without a server row
            that the plan requires, is left out; the others keep their order.

        Raises
        ------
        FeatureError
            Naming field and row.
        """
        return self.assemble(examples, self.select(examples, server_features))

    def select(
        self, examples: Examples, server_features: ServerFeatures | None = None
    ) -> Selection:
        """Say which examples count, and join them with what the plan's server table has.

        Parameters
        ----------
        examples : Examples
            Of a collection that :meth:`check` accepts.
        server_features : mapping, optional
            What the store holds of the plan's server table.

        Raises
        ------
        FeatureError
            Naming field and row.
        """
        columns = examples.columns
        keep: list[int] = list(range(len(examples)))
        target: NDArray[np.generic] | None = None
        if self._target is not None:
            target, keep = self._target.make(columns, range(len(examples)))
        server: list[ServerRow | None] | None = None
        table = self.spec.server_table
        if table is not None:
            if table.key_field not in columns:
                raise FeatureError(f"field {table.key_field!r}: the examples do not have it")
            server = self.join(
                columns[table.key_field], examples.times.tolist(), server_features or {}
            )
            if table.required:
                keep = [row for row in keep if server[row] is not None]
        if len(keep) < len(examples):
            target = None if target is None else target[keep]
            server = None if server is None else [server[row] for row in keep]
        return Selection(rows=keep, target=target, server=server)

    def assemble(self, examples: Examples, selection: Selection) -> dict[str, NDArray[np.generic]]:
        """Return the inputs, and ``target`` where the plan has a label, of the examples that count."""
        columns, keep = examples.columns, selection.rows
        if len(keep) < len(examples):
            columns = {
                name: [values[row] for row in keep]
                for name, values in columns.items()
                if self._readers["device"].reads(name)
            }
        readings: dict[Source, Reading] = {
            "device": self._readers["device"].from_columns(columns, keep)
        }
        if selection.server is not None:
            readings["server"] = self._readers["server"].from_rows(selection.server, keep)
        arrays = self._assemble(readings, len(keep))
        if selection.target is not None:
            arrays["target"] = selection.target
        return arrays

    def inputs(
        self,
        rows: Sequence[Mapping[str, object]],
        server_rows: Sequence[ServerRow | None] | None = None,
    ) -> dict[str, NDArray[np.generic]]:
        """Return the model's inputs for prediction.

        Parameters
        ----------
        rows : sequence of mapping
            Examples as the app wrote them; the label is not read, nor is a field that no column uses.
        server_rows : sequence of mapping or None, optional
            For each example the server row to join, as :meth:`join` finds it.

        Returns
        -------
        dict of str to ndarray
            Exactly what :meth:`arrays` makes of the same examples.

        Raises
        ------
        FeatureError
            Naming field and row; also if a row that the plan requires is missing.
        """
        for row, example in enumerate(rows):
            if not isinstance(example, Mapping):
                raise FeatureError(
                    f"row {row}: expected a mapping of fields, got {type(example).__name__}"
                )
        names = range(len(rows))
        readings: dict[Source, Reading] = {"device": self._readers["device"].from_rows(rows, names)}
        table = self.spec.server_table
        if table is not None:
            joined = [None] * len(rows) if server_rows is None else list(server_rows)
            if len(joined) != len(rows):
                raise FeatureError(f"{len(rows)} examples, but {len(joined)} server rows")
            if table.required and None in joined:
                raise FeatureError(
                    f"row {joined.index(None)}: no row of server table {table.name!r} matches its "
                    f"{table.key_field!r} and is recent enough; download the server features first"
                )
            readings["server"] = self._readers["server"].from_rows(joined, names)
        elif server_rows is not None:
            raise FeatureError("the plan has no server table, but server rows were given")
        return self._assemble(readings, len(rows))

    def join(
        self,
        values: Sequence[object],
        times: Sequence[float],
        server_features: ServerFeatures,
    ) -> list[ServerRow | None]:
        """Find the server row of each example as of its own time.

        Parameters
        ----------
        values : sequence
            The examples' values of the key field.
        times : sequence of float
            Their times in Unix seconds.
        server_features : mapping
            Rows by key, in the order of ``valid_from``.

        Returns
        -------
        list of mapping or None
            The latest row that was valid at the example's time; never one from after it, nor one that
            is older than the plan allows.
        """
        table = self.spec.server_table
        max_age = math.inf if table is None or table.max_age is None else table.max_age
        joined: list[ServerRow | None] = []
        for value, moment in zip(values, times, strict=True):
            key = _key(value)
            history = None if key is None else server_features.get(key)
            place = bisect_right(history, moment, key=_valid_from) if history else 0
            row = history[place - 1] if history and place else None
            joined.append(row[1] if row is not None and moment - row[0] <= max_age else None)
        return joined

    def _assemble(
        self, readings: Mapping[Source, Reading], rows: int
    ) -> dict[str, NDArray[np.generic]]:
        return {
            assembler.name: assembler.assemble(readings, rows=rows)
            for assembler in self._assemblers
        }


class _Target:
    """Makes the target, and says which examples have one."""

    def __init__(self, label: LabelSpec, field: FieldSpec, tensor: TensorSpec | None) -> None:
        self._label = label
        what = f"label field {field.name!r}"
        words = label.vocabulary
        if words is not None:
            check_words(field, words, what=what)
        elif label.above is not None and field.type not in ("float", "int", "bool"):
            raise FeatureError(
                f"{what}: 'above' needs a float, int or bool field, not {field.type}"
            )
        elif field.type == "str":
            raise FeatureError(f"{what}: a str field needs a vocabulary to become a number")
        self._codes = None if words is None else {word: place for place, word in enumerate(words)}
        natural = () if field.shape is None else field.shape
        self._shape = natural if tensor is None else tensor.shape
        if tensor is None:
            self._dtype = np.dtype(np.float32 if words is None else np.int64)
        else:
            self._dtype = np.dtype(tensor.dtype)
            size, found = (int(np.prod(s, dtype=np.int64)) for s in (tensor.shape, natural))
            if size != found:
                raise FeatureError(
                    f"{what} makes {found} numbers per example, the model's target has {size}"
                )
            whole = words is not None or label.above is not None or field.type in ("int", "bool")
            if tensor.dtype == "bool" or (tensor.dtype == "int64" and not whole):
                raise FeatureError(
                    f"{what} cannot make a target of type {tensor.dtype}: use 'above' or a vocabulary "
                    "for int64, and float32 otherwise"
                )
        # Read like any other field, but an example may lack its label: it is left out.
        optional = FieldSpec(name=field.name, type=field.type, optional=True, shape=field.shape)
        self._reader = FieldReader(
            (optional,),
            numeric=set() if words is not None or field.shape is not None else {field.name},
            source="device",
            row_may_lack=False,
        )

    def make(
        self, columns: Mapping[str, Sequence[Any]], rows: Sequence[int]
    ) -> tuple[NDArray[np.generic], list[int]]:
        """Return the target of every row, whatever it is worth, and the rows that have one."""
        reading = self._reader.from_columns(columns, rows)
        values = reading.columns[self._label.field]
        keep = [row for row in rows if values[row] is not None]
        if self._codes is not None:
            codes = [self._codes.get(value, -1) if value is not None else -1 for value in values]
            keep = [row for row in keep if codes[row] >= 0]
            return self._shaped(np.array(codes, dtype=np.int64)), keep
        if len(reading.numbers):
            numbers = reading.numbers[0]
            if self._label.above is not None:
                return self._shaped(numbers > self._label.above), keep
            if self._dtype == np.int64:
                whole = [0 if value is None else int(value) for value in values]
                return self._shaped(np.array(whole, dtype=np.int64)), keep
            return self._shaped(self._finite(numbers, keep)), keep
        blank = np.zeros(self._shape, dtype=np.float32)
        filled = [blank if value is None else value.reshape(self._shape) for value in values]
        return self._shaped(np.array(filled)), keep

    def _finite(self, numbers: NDArray[np.float64], keep: Sequence[int]) -> NDArray[np.float32]:
        with np.errstate(over="ignore"):
            result = numbers.astype(np.float32)
        for row in keep:
            if not np.isfinite(result[row]):
                raise FeatureError(
                    f"label field {self._label.field!r}, row {row}: the number is beyond float32"
                )
        return result

    def _shaped(self, values: NDArray[Any]) -> NDArray[np.generic]:
        return values.astype(self._dtype, copy=False).reshape(len(values), *self._shape)


def _describe(kind: str, shape: tuple[int, ...] | None) -> str:
    return kind if shape is None else f"{kind} of shape {shape}"


def _key(value: object) -> str | None:
    return None if value is None else str(value)


def _check_table(table: ServerTable, key: FieldSpec) -> None:
    if key.type not in ("str", "int"):
        raise FeatureError(
            f"server table {table.name!r}: the key field {key.name!r} must be str or int, "
            f"not {key.type}"
        )
    for field in table.fields:
        if field.type == "tensor":
            raise FeatureError(
                f"server table {table.name!r}, field {field.name!r}: a server row holds no tensors"
            )
