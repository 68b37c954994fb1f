"""What a measured device takes part in: a plan of some 50,000 parameters, a back end on loopback."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import nn

from pocketfl.plan import AggregationSpec, Plan, TrainingSpec, generate_signing_key, public_key_hex
from pocketfl_export.plans import export_plan
from pocketfl_server.local import LocalDeployment
from pocketfl_server.optimizers import OptimizerSpec

INPUTS: Final = 127
HIDDEN_UNITS: Final = 384
CLASSES: Final = 2
BATCH_SIZE: Final = 16
EXAMPLES: Final = 64
"""Examples in the device's store, all of which every round trains on."""
TASK: Final = "bench"


@dataclass(frozen=True, kw_only=True)
class Site:
    """Where a device finds its rounds.

    Attributes
    ----------
    plan : Plan
        Trained for one epoch of small batches; ``privacy: none``, because noise costs a device nothing.
    plan_file : Path
        The same on disk.
    plan_key, aggregator_key : str
        Public keys that the app would be built with, in hex.
    deployment : LocalDeployment
        Back end and trusted tier.
    """

    plan: Plan
    plan_file: Path
    plan_key: str
    aggregator_key: str
    deployment: LocalDeployment


@contextlib.contextmanager
def open_site(folder: Path, *, rounds: int, runtime: str = "onnxruntime") -> Iterator[Site]:
    """Export the plan and run both processes of the server side while the block runs.

    Parameters
    ----------
    folder : Path
        For plan and databases.
    rounds : int
        How many rounds the task may have.
    runtime : {"onnxruntime", "executorch"}
        What the plan has parts for.
    """
    key = generate_signing_key()
    plan_file = folder / "bench.plan"
    plan = export_plan(
        nn.Sequential(nn.Linear(INPUTS, HIDDEN_UNITS), nn.ReLU(), nn.Linear(HIDDEN_UNITS, CLASSES)),
        nn.functional.cross_entropy,
        (torch.rand(BATCH_SIZE, INPUTS),),
        torch.randint(CLASSES, (BATCH_SIZE,)),
        plan_file,
        name=TASK,
        version="1",
        signing_key=key,
        privacy="none",
        aggregation=AggregationSpec(
            clip_norm=1.0,
            sampling_probability=1.0,
            population=1,
            cohort_floor=1,
            max_rounds=rounds,
            max_participations=rounds,
        ),
        training=TrainingSpec(
            epochs=1, max_examples=EXAMPLES, learning_rate=0.05, max_gradient_norm=10.0
        ),
        runtimes=(runtime,),
    )
    plan_key = public_key_hex(key)
    with LocalDeployment(folder / "server", plan_keys=[plan_key]) as deployment:
        optimizer = OptimizerSpec(kind="sgd", learning_rate=1.0)
        task = deployment.operator.create_task(TASK, plan.data, optimizer=optimizer)
        yield Site(
            plan=plan,
            plan_file=plan_file,
            plan_key=plan_key,
            aggregator_key=task.aggregator.public_key,
            deployment=deployment,
        )
