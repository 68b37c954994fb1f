"""Training quality on real data: what a model reaches in a few hundred steps, on torch and runtimes.

All start from the same numbers and see the same batches, so that they differ by rounding alone. What
such a short training reaches says little about a model and much about a runtime that trains wrongly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, roc_auc_score
from torch import Tensor, nn

from pocketfl.plan import Plan
from pocketfl.runtimes import open_runtime
from pocketfl_benchmarks.datasets import fashion, motion
from pocketfl_benchmarks.flights import data as flights
from pocketfl_benchmarks.flights.cache import cache_directory
from pocketfl_benchmarks.models import ClickModel
from pocketfl_benchmarks.packages import ArchiveError

if TYPE_CHECKING:
    from pocketfl_benchmarks.zoo.models import RealTask, ZooModel

CLIP_NORM: Final = 2.0
"""Of a batch's gradient."""
TRAINING_ROWS: Final = 8000
HELD_OUT_ROWS: Final = 2000
"""At most so many are drawn from either part."""

Metric = Literal["accuracy", "AUC"]
Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True, kw_only=True)
class RealData:
    """Rows to train on, and others to see what was learnt.

    Attributes
    ----------
    about : str
        What they are and what is held out.
    metric : {"accuracy", "AUC"}
        Of the held-out rows.
    train, held_out : dict of str to ndarray
        Inputs by name, and ``target``; shapes ``(rows, ...)``.
    """

    about: str
    metric: Metric
    train: Arrays
    held_out: Arrays


@dataclass(frozen=True, kw_only=True)
class Quality:
    """What a model reached.

    Attributes
    ----------
    about, metric : str
        Of :class:`RealData`.
    steps : int
        Of training.
    reached : dict of str to float
        By ``torch`` and by runtime.
    """

    about: str
    metric: Metric
    steps: int
    reached: dict[str, float]


def measure_quality(
    entry: ZooModel, task: RealTask, plans: Mapping[str, Plan], *, batch_size: int
) -> Quality:
    """Train a fresh model in torch and in every runtime on the same batches.

    Parameters
    ----------
    entry, task
        Model and data.
    plans : mapping of str to Plan
        By runtime.
    batch_size : int
        Of the plans.

    Raises
    ------
    ArchiveError
        If the data cannot be had.
    """
    data = SOURCES[task.data]()
    order = np.random.default_rng(5).integers(
        len(data.train["target"]), size=(task.steps, batch_size)
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = entry.make()
    initial = torch.cat([p.detach().reshape(-1) for p in model.parameters()]).numpy().copy()
    reached = {"torch": _in_torch(entry, model, data, order, task.learning_rate)}
    for name, plan in plans.items():
        runtime = open_runtime(plan, name)
        try:
            runtime.set_parameters(initial)
            for rows in order:
                batch = {key: values[rows] for key, values in data.train.items()}
                runtime.train_step(batch, learning_rate=task.learning_rate, clip_norm=CLIP_NORM)
            (outputs,) = runtime.predict(_inputs(data.held_out)).values()
        finally:
            runtime.close()
        reached[name] = _score(data, outputs)
    return Quality(about=data.about, metric=data.metric, steps=task.steps, reached=reached)


def _in_torch(
    entry: ZooModel, model: nn.Module, data: RealData, order: NDArray[Any], learning_rate: float
) -> float:
    optimizer = torch.optim.SGD(model.parameters(), lr=learning_rate)
    for rows in order:
        inputs = _tensors(_inputs(data.train), rows)
        target = torch.from_numpy(data.train["target"][rows])
        optimizer.zero_grad()
        torch.autograd.backward(entry.loss(model(**inputs), target))
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
        optimizer.step()
    with torch.no_grad():
        outputs = model.eval()(**_tensors(_inputs(data.held_out), slice(None)))
    return _score(data, outputs.numpy())


def _inputs(arrays: Arrays) -> Arrays:
    return {name: values for name, values in arrays.items() if name != "target"}


def _tensors(arrays: Arrays, rows: Any) -> dict[str, Tensor]:
    return {name: torch.from_numpy(values[rows]) for name, values in arrays.items()}


def _score(data: RealData, outputs: NDArray[Any]) -> float:
    target = data.held_out["target"]
    if data.metric == "AUC":
        return float(roc_auc_score(target, outputs))
    return float(accuracy_score(target, outputs.argmax(1)))


def fetch_all(names: Iterable[str]) -> dict[str, str]:
    """Fetch what these sources need; return why, by source, where something cannot be had."""
    missing = {}
    for name in sorted(names):
        try:
            _FETCHES[name]()
        except ArchiveError as error:
            missing[name] = str(error)
    return missing


def _clothes(width: int, channels: int, name: str) -> Callable[[], RealData]:
    def load() -> RealData:
        images, labels = fashion.load_fashion()
        edge = (width - fashion.SIDE) // 2
        parts = []
        for rows in _draw(np.arange(len(labels)) >= 50_000):
            values = np.pad(images[rows], ((0, 0), (edge, edge), (edge, edge)))[:, None]
            # Mean and deviation of the training images.
            scaled = (np.repeat(values, channels, axis=1).astype(np.float32) / 255 - 0.286) / 0.353
            parts.append({name: scaled, "target": labels[rows]})
        return RealData(
            about="Fashion-MNIST, the last 10,000 of 60,000 images held out",
            metric="accuracy",
            train=parts[0],
            held_out=parts[1],
        )

    return load


def _activities(name: str) -> Callable[[], RealData]:
    def load() -> RealData:
        moved = motion.load_motion(cache_directory())
        values = moved.windows if name == "motion" else moved.features()
        axes = (0, 2) if name == "motion" else 0
        known = values[~moved.is_held_out]
        mean, deviation = (f(known, axis=axes, keepdims=True) for f in (np.mean, np.std))
        return _split(
            {name: (values - mean) / deviation, "target": moved.labels},
            moved.is_held_out,
            about=f"HAPT, {len(motion.HELD_OUT)} of 30 people held out",
            metric="accuracy",
        )

    return load


def _flights() -> RealData:
    table = flights.read_flights(flights.ARCHIVE.locate(cache_directory())).rows
    held_out = np.array([flights.is_held_out(name) for name in table["aircraft"].unique()])
    held_out = held_out[table["aircraft"].factorize()[0]]
    numbers = ["distance", "built", "seats", "minute", "temp", "wind_speed", "precip", "visib"]
    dense = table[numbers].to_numpy(np.float32)
    mean, deviation = (f(dense[~held_out], axis=0) for f in (np.nanmean, np.nanstd))
    # Routes, hours of the week, months and carriers: fewer than the model's tables have rows.
    groups = (["origin", "dest"], ["weekday", "hour"], ["month"], ["carrier"])
    categories = np.stack(
        [table.groupby(group, sort=True).ngroup().to_numpy(np.int64) for group in groups], axis=1
    )
    if (categories.max(0) >= ClickModel.VOCABULARIES).any():
        raise ArchiveError("the flights have more routes or hours than the model's tables")
    return _split(
        {
            "dense": np.nan_to_num((dense - mean) / deviation),
            "categories": categories,
            "target": (table["arrival_delay"].to_numpy() > 30).astype(np.float32),
        },
        held_out,
        about="flights that arrive 30 minutes late, a fifth of the aircraft held out",
        metric="AUC",
    )


def _split(arrays: Arrays, held_out: NDArray[np.bool_], *, about: str, metric: Metric) -> RealData:
    train, chosen = (
        {name: values[rows] for name, values in arrays.items()} for rows in _draw(held_out)
    )
    return RealData(about=about, metric=metric, train=train, held_out=chosen)


def _draw(held_out: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return rows to train on and rows to judge by."""
    order = np.random.default_rng(4).permutation(len(held_out))
    return order[~held_out[order]][:TRAINING_ROWS], order[held_out[order]][:HELD_OUT_ROWS]


SOURCES: Final[dict[str, Callable[[], RealData]]] = {
    "clothes": _clothes(28, 1, "image"),
    "colour clothes": _clothes(32, 3, "photo"),
    "motion": _activities("motion"),
    "motion features": _activities("features"),
    "flights": _flights,
}
_FETCHES: Final[dict[str, Callable[[], object]]] = {
    "clothes": fashion.fetch_fashion,
    "colour clothes": fashion.fetch_fashion,
    "motion": lambda: motion.ARCHIVE.locate(cache_directory()),
    "motion features": lambda: motion.ARCHIVE.locate(cache_directory()),
    "flights": lambda: flights.ARCHIVE.locate(cache_directory()),
}
