"""The process that ``pocketfl bench app`` measures: the app, drawn on by a program."""

from __future__ import annotations

import time

_BEGAN, _CPU_BEGAN = time.perf_counter(), time.process_time()

import json  # noqa: E402
import sys  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Final  # noqa: E402

_SEVEN: Final = [[(0.3, 0.75), (0.7, 0.75), (0.45, 0.2)]]
_EPOCHS: Final = 100
_WAIT_SECONDS: Final = 120.0


def main(folder: Path, seconds: float, target: Path) -> None:
    """Start, guess, train for some seconds, and write the figures."""
    from kivy.config import Config

    for name, value in {"width": "420", "height": "840", "multisamples": "0"}.items():
        Config.set("graphics", name, value)
    from kivy.base import EventLoop

    from pocketfl_app.application import PocketFLApp
    from pocketfl_app.home import Home
    from pocketfl_app.worker.messages import Start

    application = PocketFLApp(Home(data=folder / "app"))
    EventLoop.ensure_window()
    application._run_prepare()
    page = application.root.screens["draw"].ids.page
    page.strokes = _SEVEN
    page.dispatch("on_strokes", page.strokes)
    while application.draw.best < 0:
        _frame()
    first, first_cpu = time.perf_counter() - _BEGAN, time.process_time() - _CPU_BEGAN
    application.root.children[0].dismiss()
    for number in range(40):
        application.draw.set_strokes(_SEVEN)
        application.draw.label(number % 10)
        while not application.context.idle:
            _frame()
    application.root.show("train")
    train = application.train
    start = Start(job="train", amount=_EPOCHS)
    train._begin(start, asked=True)
    give_up = time.monotonic() + _WAIT_SECONDS
    while not train.losses and time.monotonic() < give_up:
        _frame()
    if not train.losses:
        sys.exit(f"training did not begin: {train.headline} {application.context.notice}")
    end = time.monotonic() + seconds
    walls, cpus = [], []
    while time.monotonic() < end:
        if train.state == "idle":
            train._begin(start, asked=True)
        wall, cpu = time.perf_counter(), time.thread_time()
        _frame()
        walls.append(time.perf_counter() - wall)
        cpus.append(time.thread_time() - cpu)
        # As the app's own loop waits for the next sixtieth of a second.
        time.sleep(max(0.0, 1 / 60 - walls[-1]))
    steps = train.steps
    application.dispatch("on_stop")
    walls.sort()
    cpus.sort()
    figures = {
        "first_guess_seconds": first,
        "first_guess_cpu_seconds": first_cpu,
        "frames": len(walls),
        "frame_ms_p95": 1000 * walls[int(0.95 * len(walls))],
        "frame_ms_median": 1000 * walls[len(walls) // 2],
        "frame_cpu_ms_p95": 1000 * cpus[int(0.95 * len(cpus))],
        "steps": steps,
    }
    target.write_text(json.dumps(figures))


def _frame() -> None:
    from kivy.base import EventLoop
    from kivy.clock import Clock

    # Only the work of a frame is measured, not the wait for the next one.
    Clock._max_fps = 0
    EventLoop.idle()


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]), Path(sys.argv[3]))
