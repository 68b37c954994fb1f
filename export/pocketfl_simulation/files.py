"""Fleets from files: tables go through the plan's features, tensors are taken as they are."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pocketfl.errors import PocketFLError
from pocketfl.features.pipeline import FeaturePipeline
from pocketfl.plan.manifest import Manifest
from pocketfl.plan.models import TensorSpec
from pocketfl.runtimes.batches import TARGET
from pocketfl.store.examples import Examples
from pocketfl_export.configuration import import_named
from pocketfl_simulation.data import FactoryData, FleetData, PackedData
from pocketfl_simulation.errors import SimulationError

_ROWS_AT_ONCE: Final = 8192
Columns = Mapping[str, Sequence[Any] | NDArray[Any]]


def load_data(
    source: str, manifest: Manifest, *, user: str = "user", time: str | None = None
) -> FleetData:
    """Read what ``--data`` names.

    Parameters
    ----------
    source : str
        ``.parquet`` or ``.csv``: one example a row, columns by the names of the plan's fields, those of
        its server table too. ``.npz``: arrays by the names of the plan's fields or of the model's
        inputs and ``target``. ``MODULE:FACTORY``: a function that returns a :class:`FleetData`, or
        anything with ``len()`` whose elements are a device's inputs and ``target``.
    manifest : Manifest
        Of the plan.
    user : str
        The column that says whose an example is; its order within a user is kept.
    time : str, optional
        The column with Unix times in seconds, for features that depend on them.

    Raises
    ------
    SimulationError
        Naming the file and what it lacks.
    """
    if source.endswith((".parquet", ".csv", ".npz")):
        columns = _read(Path(source))
        if user not in columns:
            raise SimulationError(
                f"{source} has no column {user!r} (it has {', '.join(columns)}): name it with --user"
            )
        try:
            return from_columns(columns, manifest, user=user, time=time)
        except PocketFLError as error:
            raise SimulationError(f"{source}: {error}") from error
    factory = import_named(source)
    made: Any = factory() if callable(factory) else factory
    if hasattr(made, "fetch"):
        fleet: FleetData = made
        return fleet
    if not (hasattr(made, "__len__") and hasattr(made, "__getitem__")):
        raise SimulationError(
            f"{source} gives {type(made).__name__}; give something with len() and [device]"
        )
    return FactoryData(made)


def _read(path: Path) -> Columns:
    try:
        if path.suffix == ".npz":
            return _read_arrays(path)
        import pandas as pd

        table = pd.read_csv(path) if path.suffix == ".csv" else pd.read_parquet(path)
    except (OSError, ValueError, MemoryError) as error:
        raise SimulationError(f"cannot read {path}: {error}") from None
    names = [str(name) for name in table.columns]
    if len(set(names)) != len(names):
        raise SimulationError(f"{path} has two columns of one name: {', '.join(names)}")
    return {name: _plain(table.iloc[:, number]) for number, name in enumerate(names)}


def _read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Read an .npz file; never a pickle, which would run whatever its author wrote.

    Raises
    ------
    ValueError
        If it is none, or is damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise ValueError(f"{damaged} is damaged")
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (zipfile.BadZipFile, zlib.error, RuntimeError) as error:
        raise ValueError(f"it is no .npz file: {error}") from None


def _plain(column: Any) -> list[Any]:
    """Return a column's values as an app would write them, None where one is missing."""
    return [
        None if missing else value
        for value, missing in zip(column.tolist(), column.isna(), strict=True)
    ]


def from_columns(
    columns: Columns, manifest: Manifest, *, user: str, time: str | None = None
) -> PackedData:
    """Group examples by user, and make tensors of them as the plan's features do.

    Parameters
    ----------
    columns : mapping of str to sequence
        One value per example.
    manifest, user, time
        As for :func:`load_data`.

    Raises
    ------
    SimulationError
        If a column is missing, of another length or of another kind, or an example is nobody's.
    FeatureError
        Naming field and row, counted after sorting by user.
    """
    if user not in columns:
        raise SimulationError(f"no column {user!r} says whose an example is")
    users = _users(columns[user], user)
    for name in (user, *columns) if time is None else (user, time, *columns):
        rows = _count(columns, name)
        if rows != len(users):
            raise SimulationError(f"{name!r} has {rows} rows, and {user!r} has {len(users)}")
    if len(users) == 0:
        raise SimulationError("there are no examples")
    names, numbers = np.unique(users, return_inverse=True)
    order = np.argsort(numbers, kind="stable")
    owners = numbers[order]
    model = manifest.required_model
    tensors = {spec.name for spec in model.inputs} | {TARGET}
    stored = np.bincount(owners, minlength=len(names))
    if tensors <= set(columns) and all(isinstance(columns[name], np.ndarray) for name in tensors):
        arrays = {
            spec.name: _as_tensor(np.asarray(columns[spec.name]), spec)[order]
            for spec in (*model.inputs, model.target)
        }
        return PackedData(arrays, np.cumsum(stored), names=names.tolist())
    arrays, usable = _transform(columns, manifest, order, time=time)
    places = (usable - (np.cumsum(stored) - stored)[owners[usable]]).astype(np.int64)
    kept = np.bincount(owners[usable], minlength=len(names))
    return PackedData(arrays, np.cumsum(kept), names=names.tolist(), stored=stored, places=places)


def _count(columns: Columns, name: str) -> int:
    if name not in columns:
        raise SimulationError(f"no column {name!r} (there are {', '.join(columns)})")
    values = columns[name]
    if isinstance(values, np.ndarray) and values.ndim == 0:
        raise SimulationError(f"{name!r} is one value and no column")
    return len(values)


def _users(values: Sequence[Any] | NDArray[Any], name: str) -> NDArray[np.str_]:
    """Return whose each example is.

    Raises
    ------
    SimulationError
        If an example is nobody's.
    """
    users = np.asarray(values)
    if users.ndim != 1:
        raise SimulationError(f"{name!r} has shape {users.shape}: give one user for each example")
    nobody = [
        row
        for row, value in enumerate(users.tolist())
        if value is None or (isinstance(value, float) and math.isnan(value))
    ]
    if nobody:
        raise SimulationError(f"row {nobody[0]} has no {name!r}: every example is somebody's")
    return users.astype(str)


def _as_tensor(array: NDArray[Any], spec: TensorSpec) -> NDArray[Any]:
    """Return an array in the form in which a model takes it.

    Raises
    ------
    SimulationError
        If its shape is another, it holds no numbers, or some that are not finite.
    """
    if array.shape[1:] != spec.shape:
        raise SimulationError(
            f"{spec.name!r} has shape {array.shape[1:]} for an example; the model takes {spec.shape}"
        )
    if array.dtype.kind not in "biuf":
        raise SimulationError(f"{spec.name!r} holds {array.dtype}; the model takes {spec.dtype}")
    if not np.isfinite(array).all():
        raise SimulationError(f"{spec.name!r} holds values that are not finite")
    made = array.astype(spec.dtype, copy=False)
    if spec.dtype != "float32" and not np.array_equal(made, array):
        raise SimulationError(f"{spec.name!r} holds values that are no {spec.dtype}")
    return made


def _times(values: Sequence[Any] | NDArray[Any], name: str) -> NDArray[np.float64]:
    try:
        times = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        times = np.array([np.nan])
    if times.ndim != 1 or not np.isfinite(times).all():
        raise SimulationError(f"{name!r} holds what is no Unix time in seconds")
    return times


def _transform(
    columns: Columns, manifest: Manifest, order: NDArray[np.int64], *, time: str | None
) -> tuple[dict[str, NDArray[Any]], NDArray[np.int64]]:
    """Return the tensors of all usable rows in this order, and which those are."""
    spec = manifest.features
    pipeline = FeaturePipeline(spec, model=manifest.required_model)
    table = spec.server_table
    own = [field.name for field in spec.fields if table is None or field.name != table.key_field]
    joined = [] if table is None else [field.name for field in table.fields]
    missing = [name for name in (*own, *joined) if name not in columns]
    if missing:
        raise SimulationError(
            f"no column {missing[0]!r}: the plan's features read {', '.join([*own, *joined])}"
        )
    sorted_columns = {
        name: [columns[name][row] for row in order.tolist()] for name in {*own, *joined}
    }
    times = np.zeros(len(order)) if time is None else _times(columns[time], time)[order]
    made: list[dict[str, NDArray[Any]]] = []
    usable: list[NDArray[np.int64]] = []
    for start in range(0, len(order), _ROWS_AT_ONCE):
        part = slice(start, min(start + _ROWS_AT_ONCE, len(order)))
        values = {name: sorted_columns[name][part] for name in own}
        known = None
        if table is not None:
            # What the server knows stands in the same row, so each row is a key of its own.
            keys = [str(row) for row in range(part.start, part.stop)]
            values[table.key_field] = keys
            known = {
                key: [(float(times[row]), {name: sorted_columns[name][row] for name in joined})]
                for row, key in enumerate(keys, start=part.start)
            }
        ids = np.arange(part.start, part.stop, dtype=np.int64)
        examples = Examples(ids, times[part], values)
        selection = pipeline.select(examples, known)
        made.append(pipeline.assemble(examples, selection))
        usable.append(part.start + np.array(selection.rows, dtype=np.int64))
    arrays = {name: np.concatenate([one[name] for one in made]) for name in made[0]}
    return arrays, np.concatenate(usable)
