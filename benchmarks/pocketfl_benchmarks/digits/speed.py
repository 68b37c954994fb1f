"""``pocketfl bench app``: from the start of the app to its first guess, and frames while it trains.

The app runs in a process of its own, without a screen (SDL's offscreen driver), drawn by whatever
OpenGL this machine has; on one without a graphics card that is software, and slower than any phone's.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from pocketfl.errors import PocketFLError


class AppFailedError(PocketFLError):
    """The app did not get as far as its figures."""


def app(
    *,
    starts: Annotated[int, typer.Option(min=1, help="How often to start it.")] = 3,
    seconds: Annotated[float, typer.Option(min=1, help="How long to train.")] = 10.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Measure the app's start, and its frames while it trains."""
    from pocketfl_app.bundle import load_bundle
    from pocketfl_benchmarks.machine import describe_machine

    # The app itself would show this in its window, which nobody sees here.
    load_bundle()
    runs = [measure(seconds=seconds) for _ in range(starts)]
    best = min(runs, key=lambda run: float(run["first_guess_cpu_seconds"]))
    frames = min(runs, key=lambda run: float(run["frame_cpu_ms_p95"]))
    figures = {
        "machine": describe_machine(),
        "first_guess_seconds": min(run["first_guess_seconds"] for run in runs),
        "first_guess_cpu_seconds": best["first_guess_cpu_seconds"],
        "frame_ms_p95": min(run["frame_ms_p95"] for run in runs),
        "frame_cpu_ms_p95": frames["frame_cpu_ms_p95"],
        "frames": frames["frames"],
        "steps": frames["steps"],
        "runs": runs,
    }
    if as_json:
        typer.echo(json.dumps(figures, indent=2))
        return
    typer.echo(
        f"first guess after {figures['first_guess_seconds']:.2f} s "
        f"({figures['first_guess_cpu_seconds']:.2f} s of processor time)\n"
        f"frames while training: p95 {figures['frame_ms_p95']:.1f} ms "
        f"({figures['frame_cpu_ms_p95']:.1f} ms of processor time), {figures['frames']} frames\n"
        f"least of {starts} starts; load {figures['machine']['load_average']}"
    )


def measure(*, seconds: float) -> dict[str, Any]:
    """Start the app once in a process of its own and return what it measured.

    Raises
    ------
    AppFailedError
        If it ended without figures, with the end of what it wrote.
    """
    environment = {
        **os.environ,
        "SDL_VIDEODRIVER": "offscreen",
        "SDL_AUDIODRIVER": "dummy",
        "KIVY_NO_ARGS": "1",
        "KIVY_NO_FILELOG": "1",
        "KIVY_LOG_MODE": "PYTHON",
        "KIVY_CLIPBOARD": "dummy",
    }
    with tempfile.TemporaryDirectory(prefix="pocketfl-bench-app-") as folder:
        target = Path(folder) / "figures.json"
        program = [sys.executable, "-m", "pocketfl_benchmarks.digits.speed_program"]
        done = subprocess.run(  # noqa: S603 - our own program
            [*program, folder, str(seconds), str(target)],
            env=environment,
            check=False,
            stderr=subprocess.PIPE,
            text=True,
        )
        if done.returncode != 0 or not target.is_file():
            raise AppFailedError(
                f"the app ended with status {done.returncode}; it wrote last: "
                f"{done.stderr.strip()[-1500:]}"
            )
        found: dict[str, Any] = json.loads(target.read_text())
        return found
