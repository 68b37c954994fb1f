"""The Benchmark screen: measures this device, and shares what was found as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from kivy.event import EventDispatcher
from kivy.properties import BooleanProperty, ListProperty, NumericProperty, StringProperty

from pocketfl_app.strings import tr
from pocketfl_app.view_models.context import AppContext
from pocketfl_app.view_models.formats import in_bytes, in_joules, plain
from pocketfl_app.worker.messages import Benchmarked, Cancelled, Event, Failed, Progress, Start

REPEATS: Final = 300
FILE_NAME: Final = "benchmark.json"


class BenchmarkModel(EventDispatcher):
    """One run at a time."""

    running = BooleanProperty(False)
    progress = NumericProperty(0.0)
    headline = StringProperty("")
    rows = ListProperty([])
    """Of dicts with ``name`` and ``value``."""
    fits = BooleanProperty(False)
    verdict = StringProperty("")
    json_text = StringProperty("")
    shared = StringProperty("")

    def __init__(self, context: AppContext, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._context = context
        self.headline = tr("benchmark.none")
        context.bind(on_worker=self._hear)

    def run(self) -> None:
        """Measure."""
        if not self.running and not self._context.link.busy:
            self.running, self.progress, self.shared = True, 0.0, ""
            self._context.start(Start(job="benchmark", amount=REPEATS))

    def cancel(self) -> None:
        """Stop measuring."""
        self._context.control("cancel")

    def share(self) -> None:
        """Copy the figures, and write them to a file."""
        if not self.json_text:
            return
        # Imported here: looking for a clipboard may start programs.
        from kivy.core.clipboard import Clipboard

        text = self.json_text
        Clipboard.copy(text)
        path = self._context.home.data / FILE_NAME
        self._context.desk.run(lambda: _write(path, text), self._written)

    def _written(self, path: Path) -> None:
        self.shared = tr("benchmark.shared", path=path)

    def _hear(self, _: AppContext, event: Event) -> None:
        if not self.running:
            return
        if isinstance(event, Progress):
            self.progress = event.done / event.total
            self.headline = tr("benchmark.running", done=event.done, total=event.total)
        elif isinstance(event, Benchmarked):
            self.running = False
            self._show(json.loads(event.figures))
        elif isinstance(event, Cancelled):
            self.running, self.headline = False, tr("benchmark.none")
        elif isinstance(event, Failed):
            self.running, self.headline = False, tr("train.failed", reason=event.reason)

    def _show(self, figures: dict[str, Any]) -> None:
        self.json_text = json.dumps(figures, indent=2)
        self.headline = ""
        values = {
            "runtime": tr(f"settings.runtime.{figures['runtime']}"),
            "step": tr(
                "benchmark.step.value",
                median=f"{figures['step_ms_median']:.2f}",
                p95=f"{figures['step_ms_p95']:.2f}",
            ),
            "ratio": tr("benchmark.ratio.value", ratio=f"{figures['ratio']:.1f}"),
            "session": f"{figures['session_ms']:.0f} ms",
            "memory": in_bytes(figures["peak_memory_bytes"]),
            "bytes": f"{in_bytes(figures['upload_bytes'])} / {in_bytes(figures['download_bytes'])}",
            "energy": tr(
                "benchmark.energy.value",
                joules=in_joules(figures["round_joules"]).removesuffix(" J"),
            ),
        }
        self.rows = [
            {"name": tr(f"benchmark.{name}"), "value": value} for name, value in values.items()
        ]
        self.fits = bool(figures["fits"])
        over = [
            tr(
                "benchmark.over.item",
                measure=item["measure"],
                needed=plain(item["needed"]),
                limit=plain(item["limit"]),
            )
            for item in figures["verdict"]
            if not item["fits"]
        ]
        self.verdict = tr("benchmark.over", what=", ".join(over)) if over else tr("benchmark.fits")


def _write(path: Path, text: str) -> Path:
    path.write_text(text + "\n", encoding="utf-8")
    return path
