"""Which engine trains a model fastest on this machine: measured, not guessed."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Literal

import torch

from pocketfl_simulation.engines import (
    CompiledEngine,
    DenseEngine,
    EagerEngine,
    Engine,
    OnnxEngine,
    TorchEngine,
)
from pocketfl_simulation.errors import SimulationError
from pocketfl_simulation.packing import PackedSteps
from pocketfl_simulation.tasks import SimulationTask

EngineName = Literal["onnxruntime", "torch", "dense", "eager", "compiled"]
EngineChoice = Literal["auto", EngineName]

_REPEATS: Final = 3
_LONG: Final = 1.0
"""Seconds from which on one try is enough."""
_WORTH_COMPILING: Final = 0.5
"""Seconds of the best engine so far from which on it is worth it to compile another."""


def make_engine(
    task: SimulationTask,
    choice: EngineChoice,
    *,
    sample: PackedSteps,
    threads: int,
) -> Engine:
    """Return the engine that was asked for, or the fastest one on some devices of the fleet.

    Parameters
    ----------
    task : SimulationTask
        What is trained.
    choice : {"auto", "onnxruntime", "torch", "dense", "eager", "compiled"}
        Which engine.
    sample : PackedSteps
        Of the devices that ``auto`` is measured on.
    threads : int
        That will train at a time.

    Raises
    ------
    SimulationError
        If the engine that was asked for does not train this model.
    """
    # Several threads train, each on a core of its own: more threads within each would only wait.
    torch.set_num_threads(1)
    if choice != "auto":
        engine = _MAKERS[choice](task)
        if engine is None:
            raise SimulationError(
                f"the engine {choice} does not train this model: it takes {_LIMITS[choice]}; "
                "take another, or auto"
            )
        return engine
    best: tuple[float, Engine] | None = None
    for name, make in _MAKERS.items():
        if name == "compiled" and best is not None and best[0] < _WORTH_COMPILING:
            continue
        engine = make(task)
        if engine is None:
            continue
        least = float("inf") if best is None else best[0]
        seconds = seconds_of(engine, task, sample, threads=threads, best=least)
        if best is None or seconds < best[0]:
            best = seconds, engine
    assert best is not None  # noqa: S101 - ONNX Runtime trains every plan
    return best[1]


_MAKERS: Final[dict[EngineName, Callable[[SimulationTask], Engine | None]]] = {
    "onnxruntime": lambda task: OnnxEngine(task.plan),
    "torch": lambda task: TorchEngine(task.problem),
    "dense": lambda task: DenseEngine.of(task.problem),
    "eager": lambda task: EagerEngine.of(task.problem),
    "compiled": lambda task: CompiledEngine.of(task.problem),
}
_LIMITS: Final = {
    "dense": "chains of torch.nn.Linear with ReLU, tanh or sigmoid, plain SGD, and clipping by batch",
    "eager": "models without dropout, and clipping by batch",
    "compiled": (
        "models with a 3 x 3 convolution, ReLU and 2 x 2 pooling, without dropout, and clipping by "
        "batch"
    ),
}


def seconds_of(
    engine: Engine,
    task: SimulationTask,
    sample: PackedSteps,
    *,
    threads: int,
    best: float = float("inf"),
) -> float:
    """Return the least time in which as many threads train the sample at once.

    An engine that takes more than twice as long as the best before it gets no second try, and none one
    that takes so long that chance matters little.
    """
    start = task.plan.initial_parameters()
    least = float("inf")
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(_REPEATS):
            began = time.perf_counter()
            for made in [pool.submit(engine.train, sample, start) for _ in range(threads)]:
                made.result()
            least = min(least, time.perf_counter() - began)
            if least > min(2 * best, _LONG):
                break
    return least
