"""``python -m benchmarks.simulators``: the same work on three simulators, one after the other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from benchmarks.simulators.environments import FLOWER, PFL, PeerError
from benchmarks.simulators.work import Settings, write_work

HERE: Final = Path(__file__).parent
MLP: Final = Settings(kind="mlp", rounds=3, cohort=1000, learning_rate=0.4)
CNN: Final = Settings(kind="cnn", rounds=2, cohort=64, learning_rate=0.05)
PEER_COHORT: Final = {"mlp": 100, "cnn": 32}
"""Devices of a round on the peers: their speed hardly depends on it, and their rounds take long."""


def simulators(
    *,
    kinds: Annotated[
        list[str] | None, typer.Option("--work", help="mlp, cnn; both by default.")
    ] = None,
    cohort: Annotated[
        int | None, typer.Option(help="Devices of a round, for a quick look.")
    ] = None,
    seconds: Annotated[float, typer.Option(help="That one program may take at most.")] = 900,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Measure devices a second of PocketFL's simulation, pfl-research and Flower's simulation."""
    figures = {}
    for settings in (MLP, CNN):
        if kinds and settings.kind not in kinds:
            continue
        figures[settings.kind] = measure(settings, cohort=cohort, seconds=seconds)
    if as_json:
        typer.echo(json.dumps(figures, indent=2))
        return
    for kind, found in figures.items():
        typer.echo(
            f"{kind}: PocketFL {found['pocketfl_devices_per_second']:.1f} devices/s, "
            f"pfl {found['pfl_devices_per_second']:.1f} ({found['ratio_pfl']:.1f}x), "
            f"Flower {found['flower_devices_per_second']:.1f} ({found['ratio_flower']:.1f}x)"
        )


def measure(settings: Settings, *, cohort: int | None, seconds: float) -> dict[str, Any]:
    """Run one kind of work on all three, and return the contract's figures.

    Parameters
    ----------
    settings : Settings
        The work.
    cohort : int, optional
        Devices of a round, on all three.
    seconds : float
        That one program may take at most.
    """
    ours = replace(settings, cohort=cohort or settings.cohort)
    theirs = replace(settings, cohort=cohort or PEER_COHORT[settings.kind])
    with tempfile.TemporaryDirectory(prefix="pocketfl-simulators-") as folder:
        path, peer_path = Path(folder, "work.npz"), Path(folder, "peers.npz")
        write_work(path, ours)
        write_work(peer_path, theirs)
        pocketfl = _run(
            [sys.executable, "-m", "benchmarks.simulators.with_pocketfl", path], path, seconds
        )
        # Whichever number of threads within an operator suits it better.
        pfl = max(
            _run([PFL.python(), HERE / "with_pfl.py", peer_path, threads], peer_path, seconds)
            for threads in (1, os.cpu_count() or 1)
        )
        flower = _run([FLOWER.python(), HERE / "with_flower.py"], peer_path, seconds)
    return {
        "pocketfl_devices_per_second": pocketfl,
        "pfl_devices_per_second": pfl,
        "flower_devices_per_second": flower,
        "ratio_pfl": pocketfl / pfl,
        "ratio_flower": pocketfl / flower,
    }


def _run(command: list[Any], work: Path, seconds: float) -> float:
    """Run a program and return the devices a second that it says."""
    environment = {**os.environ, "POCKETFL_WORK": str(work)}
    name = Path(str(command[1])).stem if len(command) > 1 else "program"
    try:
        done = subprocess.run(  # noqa: S603
            [str(part) for part in command],
            cwd=HERE.parents[1],
            env=environment,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise PeerError(f"{name} took more than {seconds:g} s: give it more by --seconds") from None
    lines = done.stdout.strip().splitlines()
    if done.returncode != 0 or not lines:
        raise PeerError(f"{name} failed:\n{done.stderr[-2000:]}")
    found = json.loads(lines[-1])
    return float(found["devices"]) / float(found["seconds"])


if __name__ == "__main__":
    typer.run(simulators)
