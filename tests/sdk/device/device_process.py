"""Devices as processes of their own, which kill themselves with SIGKILL where they are told to.

Reads one job per line (JSON) from standard input, forks a process for it, and writes its exit status as
a line. Forking from a process that has imported everything takes milliseconds; nothing is shared
between two jobs but files.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from pocketfl.device import Device, DeviceLimits, SessionHooks, contribution
from pocketfl.device.attempt import Attempt
from pocketfl.runtimes.onnx import load_library
from pocketfl.sealing import PinnedAggregator
from pocketfl.store import ExampleStore
from pocketfl.training import CheckpointPolicy


class Killer(SessionHooks):
    """Ends the process at one named moment; counts batches across the processes of a session."""

    def __init__(self, moment: str | None) -> None:
        self._moment = moment
        self.batches = 0
        self.batches_before = 0
        self.is_training = False

    def at(self, moment: str) -> None:
        if moment == self._moment:
            os.kill(os.getpid(), signal.SIGKILL)

    def should_stop(self) -> bool:
        if self.is_training:
            self.at(f"batch {self.batches}")
            self.batches += 1
        return False

    def spent(self):
        return {"batches": float(self.batches)}

    def began(self, session, *, manifest, resumed, spent) -> None:
        self.batches = self.batches_before = int(spent.get("batches", 0))
        self.at("in transaction: resumed" if resumed else "in transaction: began")

    def checkpointed(self, session, *, spent) -> None:
        self.at(f"in transaction: checkpoint {int(spent['batches'])}")

    def prepared(self, session, report, manifest) -> None:
        self.at("in transaction: prepared")

    def settled(self, *, task, round, end, code) -> None:  # noqa: A002
        self.at("in transaction: settled")


def run(job: dict) -> None:
    killer = Killer(job["kill"])
    plain_phase, plain_report = Attempt.phase, contribution.make_report

    @contextmanager
    def phase(self, name):
        killer.at(f"before {name}")
        killer.is_training = name == "train"
        with plain_phase(self, name):
            yield
        killer.is_training = False
        killer.at(f"after {name}")

    def make_report(update, **settings):
        np.save(job["update"], update)
        return plain_report(update, **settings)

    Attempt.phase, contribution.make_report = phase, make_report
    with (
        ExampleStore(job["store"]) as store,
        Device(
            store,
            server=job["url"],
            plan_keys=[job["plan_key"]],
            aggregator=PinnedAggregator(job["aggregator"]),
            enrolment_key=job["enrolment_key"],
            user="u1",
            seed=1,
            limits=DeviceLimits(allow_unprotected=True),
            checkpoints=CheckpointPolicy(every_seconds=0.0, bytes_per_second=1e12),
            hooks=killer,
        ) as device,
    ):
        outcome = dataclasses.asdict(device.run_once())
    outcome["batches_before"] = killer.batches_before
    outcome["batches"] = killer.batches
    Path(job["outcome"]).write_text(json.dumps(outcome))


def main() -> None:
    load_library()
    for line in sys.stdin:
        job = json.loads(line)
        child = os.fork()
        if child == 0:
            try:
                run(job)
            except BaseException:
                sys.excepthook(*sys.exc_info())
                os._exit(1)
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
