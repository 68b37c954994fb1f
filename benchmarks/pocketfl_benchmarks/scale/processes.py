"""Memory and processor time of a deployment's processes, as the system counts them."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import psutil

from pocketfl_server.local import LocalDeployment

_SETTLE_SECONDS: Final = 3.0


def memory_mb(pids: Iterable[int]) -> float:
    """Return the proportional set size of processes in MB (10^6 bytes), shared pages once."""
    return sum(float(psutil.Process(pid).memory_full_info().pss) for pid in pids) / 1e6


def own_memory_mb(pid: int) -> float:
    """Return what a process has written in memory, in MB (10^6 bytes).

    Pages of files are left out: libraries, which count for less while other programs have them open,
    and the ledger that the trusted tier maps. What leaks is not among them.
    """
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Anonymous:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise RuntimeError(f"the system does not say how much memory process {pid} has")


def processor_seconds(pids: Iterable[int]) -> float:
    """Return the processor time that processes have taken so far."""
    times = [psutil.Process(pid).cpu_times() for pid in pids]
    return float(sum(spent.user + spent.system for spent in times))


def gateways(deployment: LocalDeployment) -> list[int]:
    """Return the process ids of a deployment's gateways."""
    return [p.pid for name, p in deployment.processes.items() if name.startswith("gateway")]


@contextmanager
def served(settings: Path) -> Iterator[psutil.Process]:
    """Run ``pocketfl serve`` on a file of settings, as an operator would."""
    program = "from pocketfl.commands.main import run; run()"
    command = [sys.executable, "-c", program, "serve", str(settings)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603
        try:
            said = process.stdout or ()
            # It says so once all of its processes accept requests.
            if not any(line.startswith("back end on ") for line in said):
                raise RuntimeError("pocketfl serve did not start its processes")
            yield psutil.Process(process.pid)
        finally:
            process.terminate()


def idle_memory_mb(settings: Path) -> float:
    """Return what ``pocketfl serve`` takes with all its processes once it has nothing to do."""
    with served(settings) as root:
        time.sleep(_SETTLE_SECONDS)
        return memory_mb([root.pid, *(child.pid for child in root.children(recursive=True))])
