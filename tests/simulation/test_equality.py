"""A simulated round is a real round: the same deltas, and the same exact sum before the noise."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvicorn
from tests.simulation.visits import DEVICES, configuration, examples_of

import pocketfl.reports
from pocketfl.clipping import clip_to_grid
from pocketfl.device import Device, DeviceLimits
from pocketfl.plan import EncodingSpec, TrainingSpec
from pocketfl.plan.training import LocalOptimizerSpec
from pocketfl.sealing import PinnedAggregator
from pocketfl.store import Collection, ExampleStore, Field
from pocketfl_server.api import create_app
from pocketfl_server.back_end import BackEnd
from pocketfl_server.trusted.aggregator import Aggregator
from pocketfl_simulation import Simulation, SimulationSettings, SimulationTask
from pocketfl_simulation.engines import ENGINES
from pocketfl_simulation.errors import SimulationError
from pocketfl_simulation.files import from_columns
from pocketfl_simulation.rounds import rounding_bytes
from pocketfl_simulation.tasks import make_task

SEED = 5
ENROLMENT_KEY = "an-enrolment-key-of-the-app"


class Watched(Aggregator):
    """The trusted tier with its key; tells its exact sums to the test that runs in its process."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.sums: list[np.ndarray] = []
        collect = self._collection.sum

        def told(*arguments: Any) -> Any:
            result = collect(*arguments)
            self.sums.append(result.total.copy())
            return result

        self._collection.sum = told  # type: ignore[method-assign]


@contextmanager
def serve(back_end: BackEnd) -> Iterator[str]:
    """Real HTTP on loopback, from a thread of this process."""
    app = create_app(back_end, operator_key="an-operator-key-of-this-test", end_rounds_every=None)
    server = uvicorn.Server(
        uvicorn.Config(app, port=0, host="127.0.0.1", log_level="warning", access_log=False)
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


def run_real_round(
    task: SimulationTask, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One round over HTTP through ONNX Runtime: updates, the exact sum, and the new model."""
    plan = task.plan
    updates: list[np.ndarray] = []
    # The one thing that no two rounds share: what decides which way a coordinate is rounded.
    seeded = partial(clip_to_grid, random=rounding_bytes(SEED, number=1, first=0))

    def clip(update: np.ndarray, *arguments: Any, **settings: Any) -> np.ndarray:
        updates.append(update.copy())
        return seeded(update, *arguments, **settings)

    monkeypatch.setattr(pocketfl.reports, "clip_to_grid", clip)
    visits = Collection(
        "visits",
        {"place": Field("str"), "minutes": Field("float"), "rating": Field("float", optional=True)},
    )
    with (
        Watched(folder / "ledger.db", plan_keys=[plan.signed_by]) as trusted,
        BackEnd(
            f"sqlite:///{folder / 'back_end.db'}",
            trusted=trusted,
            plan_keys=[plan.signed_by],
            enrolment_key=ENROLMENT_KEY,
        ) as back_end,
        serve(back_end) as url,
    ):
        record = back_end.create_task(plan.manifest.name, plan.data, optimizer=task.optimizer)
        back_end.open_round(record.name, seconds=600)
        for number in range(DEVICES):
            with ExampleStore(folder / f"{number}.db") as store:
                store.create_collection(visits)
                store.append("visits", examples_of(number))
                with Device(
                    store,
                    server=url,
                    plan_keys=[plan.signed_by],
                    aggregator=PinnedAggregator(record.aggregator.public_key),
                    enrolment_key=ENROLMENT_KEY,
                    user=f"user{number:02}",
                    limits=DeviceLimits(allow_unprotected=True),
                    seed=SEED,
                ) as device:
                    outcome = device.run_once()
                    assert outcome.status == "completed", outcome.reason
        assert back_end.close_round(record.name, 1).new_version == 1
        return np.stack(updates), trusted.sums[0], back_end.model_parameters(record.name, 1)


def columns_of() -> dict[str, list[object]]:
    rows = [(f"user{n:02}", row) for n in range(DEVICES) for row in examples_of(n)]
    columns: dict[str, list[object]] = {
        name: [row[name] for _, row in rows] for name in ("place", "minutes", "rating")
    }
    columns["user"] = [user for user, _ in rows]
    return columns


CASES = {
    "sgd, noise": {},
    "adam, example clipping, 4 bits, no noise": {
        "privacy": "none",
        "dp": None,
        "encoding": EncodingSpec(bits=4),
        "training": TrainingSpec(
            epochs=3,
            learning_rate=0.01,
            max_examples=20,
            max_gradient_norm=0.5,
            clipping="example",
            optimizer=LocalOptimizerSpec(kind="adam"),
        ),
    },
    "momentum, fedprox": {
        "training": TrainingSpec(
            epochs=2,
            learning_rate=0.1,
            max_examples=40,
            optimizer=LocalOptimizerSpec(momentum=0.9, weight_decay=0.01, proximal=0.5),
        ),
    },
}

UNABLE = {
    "sgd, noise": ("compiled",),
    "adam, example clipping, 4 bits, no noise": ("dense", "eager", "compiled"),
    "momentum, fedprox": ("dense", "compiled"),
}


@pytest.mark.parametrize(
    "case",
    [
        "adam, example clipping, 4 bits, no noise",
        "sgd, noise",
        pytest.param("momentum, fedprox", marks=pytest.mark.slow),
    ],
)
def test_a_simulated_round_is_the_real_round(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For the same seeds: deltas within 1e-5 on every engine, on ONNX Runtime to the bit; the exact sum
    of integers, seen with the trusted tier's key, is the same; and so is the model, where no noise is.
    """
    task = make_task(configuration(**CASES[case]))
    updates, exact, model = run_real_round(task, tmp_path, monkeypatch)
    fleet = from_columns(columns_of(), task.plan.manifest, user="user")
    everybody = np.arange(DEVICES)
    assert np.abs(updates).max() > 1e-2
    assert not updates[3].any()
    for engine in ENGINES:
        with Simulation(task, fleet, SimulationSettings(seed=SEED, engine=engine)) as simulation:
            if engine in UNABLE[case]:
                with pytest.raises(SimulationError, match=f"the engine {engine} does not train"):
                    simulation.updates(everybody, number=1)
                continue
            simulated = simulation.updates(everybody, number=1)
            np.testing.assert_allclose(simulated, updates, rtol=0, atol=1e-5)
            assert engine != "onnxruntime" or np.array_equal(simulated, updates)
    with Simulation(task, fleet, SimulationSettings(seed=SEED, engine="onnxruntime")) as simulation:
        assert np.array_equal(simulation.sum_round(everybody, number=1).total, exact)
        assert np.abs(exact).max() > 0
        assert simulation.run_round().state == "finished"
        if task.plan.manifest.dp is None:
            assert np.array_equal(simulation.parameters, model)
