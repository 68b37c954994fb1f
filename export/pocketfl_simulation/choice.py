"""Which engine trains a model fastest on this machine: measured, not guessed."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Literal

import torch

from pocketfl_simulation.engines import Engine, OnnxEngine, TorchEngine
from pocketfl_simulation.packing import PackedSteps
from pocketfl_simulation.tasks import SimulationTask

_REPEATS: Final = 2


def make_engine(
    task: SimulationTask,
    choice: Literal["auto", "onnxruntime", "torch"],
    *,
    sample: PackedSteps,
    threads: int,
) -> Engine:
    """Return the engine that was asked for, or the faster one on some devices of the fleet.

    Parameters
    ----------
    task : SimulationTask
        What is trained.
    choice : {"auto", "onnxruntime", "torch"}
        Which engine.
    sample : PackedSteps
        Of the devices that ``auto`` is measured on.
    threads : int
        That will train at a time.
    """
    # Several threads train, each on a core of its own: more threads within each would only wait.
    torch.set_num_threads(1)
    if choice == "onnxruntime":
        return OnnxEngine(task.plan)
    if choice == "torch":
        return TorchEngine(task.problem)
    engines: tuple[Engine, ...] = (OnnxEngine(task.plan), TorchEngine(task.problem))
    return min(engines, key=lambda engine: seconds_of(engine, task, sample, threads=threads))


def seconds_of(engine: Engine, task: SimulationTask, sample: PackedSteps, *, threads: int) -> float:
    """Return the least time in which as many threads train the sample at once."""
    start = task.plan.initial_parameters()
    best = float("inf")
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(_REPEATS):
            began = time.perf_counter()
            for made in [pool.submit(engine.train, sample, start) for _ in range(threads)]:
                made.result()
            best = min(best, time.perf_counter() - began)
    return best
