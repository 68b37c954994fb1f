"""The app without a screen: SDL's offscreen driver, touches by program, a clock that tests move."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

# Before anything of Kivy is imported.
os.environ.update(
    {
        "KIVY_NO_ARGS": "1",
        "KIVY_NO_FILELOG": "1",
        "KIVY_LOG_MODE": "PYTHON",
        "KIVY_NO_CONFIG": "1",
        "KIVY_CLIPBOARD": "dummy",
        "KIVY_DPI": "160",
        "KIVY_METRICS_DENSITY": "1",
        "SDL_VIDEODRIVER": "offscreen",
        "SDL_AUDIODRIVER": "dummy",
    }
)

from pocketfl_app.home import Home
from pocketfl_benchmarks.digits import task
from pocketfl_benchmarks.digits.build import build_app
from pocketfl_benchmarks.digits.data import Digits

WRITERS = 4
WAIT_SECONDS = 180.0
_NOW = [0.0]


@pytest.fixture(scope="session")
def digits() -> Digits:
    """Public digits that need no network: scikit-learn's, 8 x 8, blown up to 28 x 28."""
    from scipy.ndimage import zoom
    from sklearn.datasets import load_digits

    found = load_digits()
    large = zoom(found.images / 16, (1, 2.5, 2.5), order=1)
    images = np.pad(large, ((0, 0), (4, 4), (4, 4))).clip(0, 1).astype(np.float32)
    order = np.random.default_rng(3).permutation(len(images))
    return Digits(images[order], found.target[order].astype(np.int64))


@pytest.fixture(scope="session")
def assets(digits: Digits, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What 'pocketfl app build' makes, for a small fleet, one runtime and less pretraining."""
    folder = tmp_path_factory.mktemp("assets")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(task, "PRETRAINING", 1200)
        patch.setattr(task, "_EPOCHS", 8)
        build_app(
            folder,
            digits=digits,
            key_file=folder / "modeller.pem",
            writers=WRITERS,
            runtimes=("onnxruntime",),
        )
    return folder


@pytest.fixture
def home(tmp_path: Path, assets: Path) -> Home:
    """A fresh install; rounds may follow each other at once, as in the local demo."""
    return Home(data=tmp_path / "app", assets=assets, demo=True)


class Hand:
    """A person at the app: touches its window, waits for it, and looks at it."""

    def __init__(self, app: Any, now: list[float]) -> None:
        self.app = app
        self._now = now

    @property
    def context(self) -> Any:
        return self.app.context

    def frames(self, count: int = 2) -> None:
        """Let some frames pass, a sixtieth of a second each by the app's clock."""
        from kivy.base import EventLoop

        for _ in range(count):
            self._now[0] += 1 / 60
            EventLoop.idle()

    def until(self, condition: Callable[[], object], what: str) -> None:
        """Let frames pass until something is so; other processes and threads have real time."""
        end = time.monotonic() + WAIT_SECONDS
        while not condition():
            if time.monotonic() > end:
                pytest.fail(f"never came: {what}; {self.app.train.headline!r}")
            self.frames(1)
            time.sleep(0.005)

    def settle(self) -> None:
        """Wait for what is under way off the UI thread."""
        self.frames(2)
        self.until(lambda: self.context.idle, "idle threads")
        self.frames(2)

    def touch(self, points: list[tuple[float, float]]) -> None:
        """Put a finger down, move it along, lift it; window coordinates."""
        from kivy.tests.common import UnitTestTouch

        finger = UnitTestTouch(*points[0])
        finger.touch_down()
        for x, y in points[1:]:
            finger.touch_move(x, y)
        finger.touch_up()
        self.frames(1)

    def tap(self, widget: Any) -> None:
        """Touch a widget's middle, scrolled into view where it is not."""
        from kivy.uix.scrollview import ScrollView

        for parent in widget.walk_reverse():
            if isinstance(parent, ScrollView) and parent.children[0].height > parent.height:
                parent.scroll_to(widget, animate=False)
                self.frames(3)
                break
        assert not widget.disabled, (
            f"cannot be tapped now: {widget.text!r}, {self.app.train.needs!r}"
        )
        self.touch([widget.to_window(*widget.center)])
        # A scroll view waits a moment to see whether it is a swipe.
        self.frames(20)

    def draw(self, strokes: list[list[tuple[float, float]]]) -> None:
        """Draw on the page; in parts of it."""
        page = self.app.root.screens["draw"].ids.page
        x, y = page.to_window(*page.pos)
        for stroke in strokes:
            self.touch([(x + page.width * a, y + page.height * b) for a, b in stroke])

    def show(self, name: str) -> Any:
        """Go to a screen by its button in the bar."""
        self.touch([self.app.root.buttons[name].to_window(*self.app.root.buttons[name].center)])
        self.settle()
        assert self.app.root.current == name
        return self.app.root.screens[name].ids

    def picture(self, folder: Path, name: str) -> np.ndarray:
        """Keep what is seen as a PNG, and return it, shape (height, width, 4)."""
        folder.mkdir(parents=True, exist_ok=True)
        self.frames(2)
        shot = self.app.root.export_as_image()
        shot.save(str(folder / f"{name}.png"))
        size = shot.texture.size
        return np.frombuffer(shot.texture.pixels, np.uint8).reshape(size[1], size[0], 4)


@pytest.fixture
def open_app(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Home], Hand]]:
    """Start the app in this process, as often as a test likes; it is ended after the test."""
    from kivy.config import Config

    for name, value in {"width": 420, "height": 840, "multisamples": 0, "maxfps": 0}.items():
        Config.set("graphics", name, str(value))
    from kivy.base import EventLoop
    from kivy.clock import Clock

    EventLoop.ensure_window()
    if EventLoop.window is None:
        pytest.fail("no window: on Debian, apt-get install libgl1 libegl1")
    # The clock never goes back, from test to test either, and no frame waits for it.
    now = _NOW
    now[0] = max(now[0], Clock.time())
    monkeypatch.setattr(Clock, "time", lambda: now[0], raising=False)
    Clock._max_fps = 0
    opened: list[Hand] = []

    def start(home: Home) -> Hand:
        from pocketfl_app.application import PocketFLApp

        EventLoop.window.size = (420, 840)
        app = PocketFLApp(home)
        app._run_prepare()
        hand = Hand(app, now)
        opened.append(hand)
        hand.settle()
        return hand

    def stop(hand: Hand) -> None:
        # As an event, not a call: Kivy's language forgets the app at it.
        hand.app.dispatch("on_stop")
        for widget in EventLoop.window.children[:]:
            EventLoop.window.remove_widget(widget)
        type(hand.app)._running_app = None

    start.stop = stop  # type: ignore[attr-defined]
    yield start
    for hand in opened:
        stop(hand)


def with_data(home: Home, data: Path) -> Home:
    return dataclasses.replace(home, data=data)
