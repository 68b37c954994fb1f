"""Runs the same work on each simulator, one program after the other, and compares their paces."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import pocketfl_benchmarks
from pocketfl_benchmarks.simulators.environments import FLOWER, PFL, PeerError
from pocketfl_benchmarks.simulators.work import Settings, write_work

_SOURCES: Final = Path(pocketfl_benchmarks.__file__).parents[1]
"""What the programs import of ours; pure Python over torch where a peer runs it."""
_GRACE: Final = 10.0
"""Seconds that a second run's start may take longer than the first's."""
_PACKAGE: Final = "pocketfl_benchmarks.simulators"
FLOWER_COHORT: Final = 100
"""Devices in Flower's round: it starts a task for each, so its pace hardly depends on how many."""


class SlowProgramError(PeerError):
    """A program took longer than it was given."""


@dataclass(frozen=True, kw_only=True)
class Pace:
    """What a program measured of itself.

    Attributes
    ----------
    devices : int
        Trained in the rounds that were timed.
    seconds : float
        That these took.
    processor_seconds : float or None
        Of all its threads meanwhile; None where work is done by processes that it does not see.
    details : dict
        What else it says, such as which engine trained.
    """

    devices: int
    seconds: float
    processor_seconds: float | None
    details: dict[str, Any]

    @property
    def devices_per_second(self) -> float:
        """By the clock."""
        return self.devices / self.seconds

    @property
    def processor_ms(self) -> float | None:
        """Processor time of a device, in milliseconds."""
        if self.processor_seconds is None:
            return None
        return 1000 * self.processor_seconds / self.devices

    @classmethod
    def parse(cls, output: str, *, program: str) -> Pace:
        """Read the last line that a program printed; others print what they like before it.

        Raises
        ------
        PeerError
            If that is no pace.
        """
        line = output.strip().rpartition("\n")[2]
        try:
            found = json.loads(line)
            devices, seconds = int(found.pop("devices")), float(found.pop("seconds"))
            processor = found.pop("processor_seconds", None)
        except (ValueError, KeyError, TypeError, AttributeError):
            raise PeerError(f"{program} ended without its pace; it said {line[:200]!r}") from None
        if devices < 1 or not seconds > 0:
            raise PeerError(f"{program} says {devices} devices in {seconds} s: nothing was timed")
        return cls(
            devices=devices,
            seconds=seconds,
            processor_seconds=None if processor is None else float(processor),
            details=found,
        )


def compare(
    settings: Settings,
    *,
    seconds: float,
    with_peers: bool = True,
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Run one kind of work on all simulators.

    Parameters
    ----------
    settings : Settings
        The work, the same for all.
    seconds : float
        That one program may take at most.
    with_peers : bool
        False for PocketFL alone; the peers' figures are None then.
    progress : callable, optional
        Told what is done next.

    Returns
    -------
    dict
        As :func:`figures_of`.

    Raises
    ------
    PeerError
        If a program fails, takes too long, or cannot be installed.
    """
    with tempfile.TemporaryDirectory(prefix="pocketfl-simulators-") as folder:
        path = Path(folder, "work.npz")
        progress(f"{settings.kind}: {settings.cohort} devices a round")
        write_work(path, settings)

        def run(
            name: str,
            python: Path,
            *arguments: object,
            processes: int = 1,
            limit: float = seconds,
        ) -> Pace:
            shared = f"in {processes} processes" if processes > 1 else ""
            words = (f"{settings.kind}:", name, *map(str, arguments), shared)
            progress(" ".join(filter(None, words)))
            start = ("-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}")
            command = [python, *(start if processes > 1 else ()), "-m", f"{_PACKAGE}.with_{name}"]
            return run_program([*command, path, *arguments], name=name, seconds=limit)

        ours = run("pocketfl", Path(sys.executable))
        if not with_peers:
            return figures_of(settings, {"pocketfl": ours})
        pfl = best_of(
            lambda threads, processes, limit: run(
                "pfl", PFL.python(), threads, processes=processes, limit=limit
            ),
            seconds=seconds,
        )
        # Once more, so that what else a machine does meanwhile meets both.
        ours = faster(ours, run("pocketfl", Path(sys.executable)))
        threads, processes = int(pfl.details["threads"]), int(pfl.details["processes"])
        pfl = faster(pfl, run("pfl", PFL.python(), threads, processes=processes))
        write_work(path, replace(settings, cohort=min(settings.cohort, FLOWER_COHORT)))
        flower = run("flower", FLOWER.python())
    return figures_of(settings, {"pocketfl": ours, "pfl": pfl, "flower": flower})


def faster(one: Pace, other: Pace) -> Pace:
    """Return the better of two runs."""
    return max(one, other, key=lambda pace: pace.devices_per_second)


def best_of(run: Callable[[int, int, float], Pace], *, seconds: float) -> Pace:
    """Return a peer's pace in the way that suits it best on this machine.

    Parameters
    ----------
    run : callable
        Takes the number of threads within an operator, of processes, and the most seconds. Tried are
        one of both, a thread for each core, and a process for each core.
    seconds : float
        That the first run may take. One that takes half as long again as the first is no better, and is
        not waited for: on a busy machine, threads that wait for each other hardly get anywhere.
    """
    began = time.monotonic()
    best = run(1, 1, seconds)
    limit = 1.5 * (time.monotonic() - began) + _GRACE
    if (cores := os.cpu_count() or 1) > 1:
        for threads, processes in ((cores, 1), (1, cores)):
            with contextlib.suppress(SlowProgramError):
                best = faster(best, run(threads, processes, limit))
    return best


def figures_of(settings: Settings, paces: Mapping[str, Pace]) -> dict[str, Any]:
    """Return what is reported of one kind of work.

    Parameters
    ----------
    settings : Settings
        The work.
    paces : mapping of str to Pace
        By ``pocketfl``, ``pfl`` and ``flower``; a peer that did not run is None in the figures.
    """
    ours = paces["pocketfl"]
    figures: dict[str, Any] = {"pocketfl_devices_per_second": ours.devices_per_second}
    peers = {name: paces.get(name) for name in ("pfl", "flower")}
    for name, pace in peers.items():
        figures[f"{name}_devices_per_second"] = None if pace is None else pace.devices_per_second
    for name, pace in peers.items():
        figures[f"ratio_{name}"] = (
            None if pace is None else ours.devices_per_second / pace.devices_per_second
        )
    figures |= {
        "cohort": settings.cohort,
        "rounds": settings.rounds,
        "processor_ms_per_device": {name: pace.processor_ms for name, pace in paces.items()},
        "details": {name: pace.details for name, pace in paces.items()},
    }
    return figures


def run_program(command: Sequence[object], *, name: str, seconds: float) -> Pace:
    """Run a program that prints its pace.

    Raises
    ------
    PeerError
        If it fails, takes longer, or prints none.
    """
    path = os.pathsep.join(filter(None, (str(_SOURCES), os.environ.get("PYTHONPATH"))))
    try:
        done = subprocess.run(  # noqa: S603
            [str(part) for part in command],
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise SlowProgramError(
            f"{name} took more than {seconds:g} s: make the work smaller by --cohort, or give it more "
            "by --seconds"
        ) from None
    if done.returncode != 0:
        raise PeerError(f"{name} failed:\n{done.stderr[-2000:]}")
    return Pace.parse(done.stdout, program=name)
