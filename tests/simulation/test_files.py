"""Fleets from files: the same examples in every format, and a clear word about what is no fleet."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tests.simulation.visits import DEVICES, examples_of

from pocketfl.plan.manifest import Manifest
from pocketfl_simulation import FactoryData, PackedData, SimulationTask
from pocketfl_simulation.errors import SimulationError
from pocketfl_simulation.files import load_data


class People:
    """What MODULE:FACTORY may name."""

    def __len__(self) -> int:
        return 3

    def __getitem__(self, device: int) -> dict[str, np.ndarray]:
        return {
            "x": np.ones((device + 1, 5), np.float32),
            "target": np.ones(device + 1, np.float32),
        }


class Nothing:
    """What it may not."""


@pytest.fixture(scope="module")
def manifest(task: SimulationTask) -> Manifest:
    return task.plan.manifest


def table() -> pd.DataFrame:
    rows = [{"user": f"user{n:02}", **row} for n in range(DEVICES) for row in examples_of(n)]
    # Users' examples stand among each other, as in an app's logs; each user's order is kept.
    return pd.DataFrame(rows).sample(frac=1, random_state=0).sort_values("minutes", kind="stable")


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_tables_are_grouped_by_user_and_go_through_the_plan_s_features(
    suffix: str, tmp_path: Path, manifest: Manifest
) -> None:
    """Each user is a device with his own rows, those without a label among the stored ones only."""
    path = tmp_path / f"visits{suffix}"
    written = table()
    written.to_csv(path, index=False) if suffix == ".csv" else written.to_parquet(path)
    data = load_data(str(path), manifest)
    assert len(data) == DEVICES
    arrays, holdings = data.fetch(range(DEVICES))
    for number, holding in enumerate(holdings):
        examples = sorted(examples_of(number), key=lambda row: row["minutes"])
        assert holding.stored == len(examples)
        rated = [row for row in examples if row["rating"] is not None]
        assert arrays["target"][holding.rows].tolist() == [row["rating"] > 3 for row in rated]
        minutes = np.array([row["minutes"] / 600 for row in rated])
        np.testing.assert_allclose(arrays["x"][holding.rows].max(axis=1) >= minutes - 1e-6, True)
    assert data.name(3) == "user03"


def test_arrays_are_taken_as_they_are(tmp_path: Path, manifest: Manifest) -> None:
    """An .npz file with the model's own tensors needs no features; whole users keep their order."""
    path = tmp_path / "tensors.npz"
    x = np.arange(20, dtype=np.float64).reshape(4, 5)
    np.savez(path, user=np.array([7, 3, 7, 3]), x=x, target=np.array([0, 1, 1, 0]))
    data = load_data(str(path), manifest)
    arrays, holdings = data.fetch([0, 1])
    assert [data.name(0), data.name(1)] == ["3", "7"]
    assert arrays["x"].dtype == np.float32
    assert np.array_equal(arrays["x"][holdings[0].rows], x[[1, 3]])
    assert arrays["target"][holdings[1].rows].tolist() == [0.0, 1.0]


def test_a_factory_is_asked_for_the_devices_at_work(manifest: Manifest) -> None:
    """By its name; what has neither a length nor devices is refused."""
    data = load_data(f"{__name__}:People", manifest)
    assert isinstance(data, FactoryData)
    assert data.fetch([2, 0])[1][0].rows == slice(0, 3)
    with pytest.raises(SimulationError, match="gives Nothing"):
        load_data(f"{__name__}:Nothing", manifest)


def _arrays(**changes: object) -> Callable[[Path], None]:
    given = {
        "user": np.array([1, 1, 2]),
        "x": np.ones((3, 5), np.float32),
        "target": np.array([0.0, 1.0, 0.0]),
        **changes,
    }
    return lambda path: np.savez(path, **given)


def _text(text: str) -> Callable[[Path], None]:
    return lambda path: path.write_text(text)


WRONG: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "no file": ("a.csv", lambda _: None, "cannot read"),
    "empty csv": ("a.csv", _text(""), "cannot read"),
    "no user column": ("a.csv", _text("place,minutes\nhome,3\n"), "no column 'user'"),
    "no rows": ("a.csv", _text("user,place,minutes,rating\n"), "no examples"),
    "no field": ("a.csv", _text("user,place,rating\nann,home,3\n"), "no column 'minutes'"),
    "twice": ("a.parquet", lambda path: path.write_bytes(b"PAR1 and no more"), "cannot read"),
    "nobody's": ("a.csv", _text("user,place,minutes,rating\n,home,1,2\n"), "row 0 has no 'user'"),
    "words": ("a.csv", _text("user,place,minutes,rating\nann,home,long,2\n"), "minutes"),
    "not a csv": ("a.csv", lambda path: path.write_bytes(b"\xff\xfe\x00\x01" * 9), "cannot read"),
    "not an archive": ("a.npz", lambda path: path.write_bytes(b"PK\x03\x04 no"), "no .npz file"),
    "an array alone": ("a.npz", lambda path: path.write_bytes(b"\x93NUMPY"), "no .npz file"),
    "a pickle": ("a.npz", lambda path: path.write_bytes(pickle.dumps({"user": 1})), "no .npz file"),
    "objects": ("a.npz", _arrays(user=np.array([{}, 1, 2], dtype=object)), "cannot read"),
    "lengths": ("a.npz", _arrays(target=np.zeros(2)), "'target' has 2 rows, and 'user' has 3"),
    "a number": ("a.npz", _arrays(target=np.float32(1)), "'target' is one value"),
    "shape": ("a.npz", _arrays(x=np.ones((3, 4))), "takes \\(5,\\)"),
    "not finite": ("a.npz", _arrays(x=np.full((3, 5), np.nan)), "not finite"),
    "letters": ("a.npz", _arrays(target=np.array(["a", "b", "c"])), "holds <U1"),
    "users by two": ("a.npz", _arrays(user=np.ones((3, 2))), "one user for each example"),
}


@pytest.mark.parametrize("case", sorted(WRONG))
def test_what_is_no_fleet_is_named(case: str, tmp_path: Path, manifest: Manifest) -> None:
    """The file and what it lacks, whatever bytes it has; nothing in it is run."""
    name, write, message = WRONG[case]
    path = tmp_path / name
    write(path)
    with pytest.raises(SimulationError, match=message) as found:
        load_data(str(path), manifest)
    assert name in str(found.value)


def test_a_damaged_archive_is_named(tmp_path: Path, manifest: Manifest) -> None:
    """One bit of an array that was turned on the way is found, before anything is trained on it."""
    path = tmp_path / "a.npz"
    _arrays()(path)
    content = bytearray(path.read_bytes())
    content[content.index(b"\x93NUMPY") + 130] ^= 1
    path.write_bytes(content)
    with pytest.raises(SimulationError, match="damaged"):
        load_data(str(path), manifest)


def test_times_that_are_none_are_named(tmp_path: Path, manifest: Manifest) -> None:
    """``--time`` names a column of Unix times."""
    path = tmp_path / "visits.csv"
    table().assign(when="yesterday").to_csv(path, index=False)
    with pytest.raises(SimulationError, match="'when' holds what is no Unix time"):
        load_data(str(path), manifest, time="when")
    with pytest.raises(SimulationError, match="no column 'at'"):
        load_data(str(path), manifest, time="at")
    assert isinstance(load_data(str(path), manifest), PackedData)
