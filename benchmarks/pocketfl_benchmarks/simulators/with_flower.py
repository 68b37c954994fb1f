"""The work on Flower's simulation, in an environment of its own: prints its pace as JSON."""

from __future__ import annotations

import json
import os
import sys
import time
from functools import cache
from typing import Any, Final

os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import DifferentialPrivacyServerSideFixedClipping, FedAvg
from flwr.simulation import run_simulation

from pocketfl_benchmarks.simulators.models import loss_of, make_model

WORK: Final = "POCKETFL_WORK"
"""Environment variable that tells Flower's workers, which inherit it, where the work is."""
TIMES: list[float] = []
client = ClientApp()
server = ServerApp()


@cache
def work() -> dict[str, Any]:
    """Read the work once per process."""
    torch.set_num_threads(1)
    with np.load(os.environ[WORK]) as stored:
        arrays = {name: stored[name] for name in ("features", "target", "ends", "cohorts")}
        return {**arrays, "settings": json.loads(str(stored["settings"]))}


@client.train()
def train(message: Message, context: Context) -> Message:
    """Train one device of the round's cohort."""
    given = work()
    settings = given["settings"]
    number = int(message.content["config"]["server-round"]) - 1
    device = int(given["cohorts"][number][int(context.node_config["partition-id"])])
    start = int(given["ends"][device - 1]) if device else 0
    rows = slice(start, int(given["ends"][device]))
    features = torch.from_numpy(given["features"][rows])
    target = torch.from_numpy(given["target"][rows])
    model = make_model(settings["kind"])
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=settings["learning_rate"])
    for batch in torch.split(torch.randperm(len(target)), settings["batch"]):
        optimizer.zero_grad()
        loss = loss_of(settings["kind"], model(features[batch]), target[batch])
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings["max_gradient_norm"])
        optimizer.step()
    content = RecordDict(
        {
            "arrays": ArrayRecord(model.state_dict()),
            "metrics": MetricRecord({"num-examples": len(target)}),
        }
    )
    return Message(content=content, reply_to=message)


class Timed(DifferentialPrivacyServerSideFixedClipping):
    """Flower's own clipping and noise; remembers when each round was over."""

    def aggregate_train(self, *arguments: Any, **settings: Any) -> Any:
        """Take the time."""
        made = super().aggregate_train(*arguments, **settings)
        TIMES.append(time.perf_counter())
        return made


@server.main()
def run(grid: Grid, context: Context) -> None:
    """Run all rounds."""
    del context
    given = work()
    settings = given["settings"]
    strategy = Timed(
        FedAvg(fraction_train=1.0, fraction_evaluate=0.0, min_available_nodes=settings["cohort"]),
        noise_multiplier=settings["noise_multiplier"],
        clipping_norm=settings["clip_norm"],
        num_sampled_clients=settings["cohort"],
    )
    strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord(make_model(settings["kind"]).state_dict()),
        train_config=ConfigRecord({}),
        num_rounds=len(given["cohorts"]),
    )


def main(path: str) -> None:
    """Run the simulation; its start and the first round are not timed."""
    os.environ[WORK] = path
    given = work()
    run_simulation(
        server_app=server,
        client_app=client,
        num_supernodes=given["settings"]["cohort"],
        backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}},
    )
    seconds = TIMES[-1] - TIMES[0]
    print(json.dumps({"devices": int(given["cohorts"][1:].size), "seconds": seconds}))


if __name__ == "__main__":
    # Flower's workers find what they run by the name of its module, which "__main__" is not.
    from pocketfl_benchmarks.simulators.with_flower import main as run_work

    run_work(sys.argv[1])
