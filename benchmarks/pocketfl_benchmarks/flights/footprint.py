"""What one device needs: a round in a process of its own, without torch, measured by the system.

Run as a program with a JSON object on standard input; prints its own peak memory. The fleet's process
cannot tell, because three thousand devices share it with a trainer of baselines.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pocketfl.errors import PocketFLError
from pocketfl_benchmarks.memory import peak_memory_mb

_TIMEOUT: Final = 120.0
_MODULE: Final = "pocketfl_benchmarks.flights.footprint"


class FootprintError(PocketFLError):
    """The measured device did not complete its round."""


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """Peak resident memory in MB (10^6 bytes).

    Attributes
    ----------
    device_mb : float
        A process that did one whole round as one device.
    bare_mb : float
        A process that imported numpy and nothing else: what Python itself takes.
    """

    device_mb: float
    bare_mb: float

    @property
    def peak_memory_mb(self) -> float:
        """What the device adds to bare Python with numpy."""
        return self.device_mb - self.bare_mb


def measure_footprint(
    store: Path,
    *,
    url: str,
    plan_key: str,
    attestation_key: str,
    enrolment_key: str,
    user: str,
    task: str,
) -> Footprint:
    """Let a device in a fresh process take part in an open round with ONNX Runtime.

    Parameters
    ----------
    store : Path
        The device's store, which is written to.
    url, plan_key, attestation_key, enrolment_key, user
        As for :class:`pocketfl.device.Device`.
    task : str
        Whose open round to take part in.

    Returns
    -------
    Footprint
        Of the device, and of bare Python.

    Raises
    ------
    FootprintError
        If the round was not completed.
    """
    settings = {
        "store": str(store),
        "url": url,
        "plan_key": plan_key,
        "attestation_key": attestation_key,
        "enrolment_key": enrolment_key,
        "user": user,
        "task": task,
    }
    return Footprint(device_mb=_run(settings), bare_mb=_run(None))


def _run(settings: dict[str, str] | None) -> float:
    result = subprocess.run(  # noqa: S603 - our own module
        [sys.executable, "-m", _MODULE],
        input=json.dumps(settings),
        capture_output=True,
        text=True,
        timeout=_TIMEOUT,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    if result.returncode != 0:
        said = result.stderr.strip().splitlines()
        raise FootprintError(
            f"the measured device failed: {said[-1] if said else 'no reason given'}"
        )
    return float(result.stdout)


def _main() -> None:
    import numpy as np

    settings = json.load(sys.stdin)
    np.zeros(1)
    if settings is not None:
        _take_part(settings)
    if "torch" in sys.modules:
        sys.exit("torch was imported: the figure would not be a device's")
    print(peak_memory_mb())


def _take_part(settings: dict[str, str]) -> None:
    from pocketfl.attestation import AttestedAggregator
    from pocketfl.device import Device, DeviceLimits
    from pocketfl.store import ExampleStore

    with (
        ExampleStore(settings["store"]) as store,
        Device(
            store,
            server=settings["url"],
            plan_keys=[settings["plan_key"]],
            aggregator=AttestedAggregator.development(settings["attestation_key"]),
            enrolment_key=settings["enrolment_key"],
            user=settings["user"],
            limits=DeviceLimits(allow_unprotected=True),
        ) as device,
    ):
        outcome = device.run_once(task=settings["task"])
    if outcome.status != "completed":
        sys.exit(f"{outcome.status} ({outcome.code}): {outcome.reason}")


if __name__ == "__main__":
    _main()
