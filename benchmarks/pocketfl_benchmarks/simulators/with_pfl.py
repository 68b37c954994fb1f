"""The work on Apple's pfl-research, in an environment of its own: prints its pace as JSON."""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

os.environ["PFL_PYTORCH_DEVICE"] = "cpu"

import numpy as np
import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.pytorch import PyTorchTensorDataset
from pfl.hyperparam import NNEvalHyperParams, NNTrainHyperParams
from pfl.model.pytorch import PyTorchModel
from pfl.privacy import CentrallyAppliedPrivacyMechanism, GaussianMechanism

from pocketfl_benchmarks.simulators.models import loss_of, make_model


def adapted(kind: str) -> torch.nn.Module:
    """Return the model with the two methods that pfl calls."""
    model = make_model(kind)

    def loss(features: torch.Tensor, target: torch.Tensor, **_: Any) -> torch.Tensor:
        model.train()
        return loss_of(kind, model(features), target)

    model.loss = loss  # type: ignore[assignment]
    model.metrics = lambda features, target, **_: {}  # type: ignore[assignment]
    return model


class Clock(TrainingProcessCallback):
    """Remembers when each round was over."""

    def __init__(self) -> None:
        self.times: list[tuple[float, float]] = []

    def after_central_iteration(
        self, aggregate_metrics: Any, model: Any, *, central_iteration: int
    ) -> tuple[bool, Any]:
        """Take the time."""
        from pfl.metrics import Metrics

        self.times.append((time.perf_counter(), time.process_time()))
        return False, Metrics()


def main(path: str, threads: int) -> None:
    """Run all rounds with so many threads within an operator; the first is not timed.

    Under torchrun, pfl deals each cohort to all processes; the first prints what they took together.
    """
    torch.set_num_threads(threads)
    with np.load(path) as work:
        settings = json.loads(str(work["settings"]))
        features, target = map(torch.from_numpy, (work["features"], work["target"]))
        ends, cohorts = work["ends"], work["cohorts"]
    starts = np.concatenate([[0], ends[:-1]])

    def device(number: int) -> PyTorchTensorDataset:
        own = slice(int(starts[number]), int(ends[number]))
        return PyTorchTensorDataset((features[own], target[own]), user_id=str(number))

    turns = iter(cohorts.reshape(-1).tolist())
    dataset = FederatedDataset(device, lambda: next(turns))
    model = adapted(settings["kind"])
    clock = Clock()
    FederatedAveraging().run(
        algorithm_params=NNAlgorithmParams(
            central_num_iterations=len(cohorts),
            evaluation_frequency=10**9,
            train_cohort_size=settings["cohort"],
            val_cohort_size=0,
        ),
        backend=SimulatedBackend(
            training_data=dataset,
            val_data=dataset,
            postprocessors=[
                CentrallyAppliedPrivacyMechanism(
                    GaussianMechanism(settings["clip_norm"], settings["noise_multiplier"])
                )
            ],
        ),
        model=PyTorchModel(
            model,
            local_optimizer_create=torch.optim.SGD,
            central_optimizer=torch.optim.SGD(model.parameters(), lr=1.0),
        ),
        model_train_params=NNTrainHyperParams(
            local_num_epochs=1,
            local_learning_rate=settings["learning_rate"],
            local_batch_size=settings["batch"],
            local_max_grad_norm=settings["max_gradient_norm"],
        ),
        model_eval_params=NNEvalHyperParams(local_batch_size=None),
        callbacks=[clock],
    )
    (began, processor_began), (ended, processor_ended) = clock.times[0], clock.times[-1]
    processor = torch.tensor(processor_ended - processor_began, dtype=torch.float64)
    processes = 1
    if torch.distributed.is_initialized():
        processes = torch.distributed.get_world_size()
        torch.distributed.all_reduce(processor)
        if torch.distributed.get_rank() > 0:
            return
    found = {
        "devices": int(cohorts[1:].size),
        "seconds": ended - began,
        "processor_seconds": float(processor),
        "threads": threads,
        "processes": processes,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
