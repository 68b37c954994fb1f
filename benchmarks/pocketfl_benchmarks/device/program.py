"""The measured process: an app that does one thing with the SDK, and says what it took.

Run as a program with a JSON object on standard input; prints one JSON object per line. It imports no
torch, so that the figures are a device's.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from pocketfl.store import ExampleStore

_IMPORTED: Final = {
    "onnxruntime": "onnxruntime",
    "executorch": "pocketfl.runtimes.executorch_native",
}
_BATCH: Final = 1000
"""Examples per append: what an app hands over that collected for a while."""


def say(**figures: object) -> None:
    """Print one line and have it arrive."""
    print(json.dumps(figures), flush=True)


def measure_bare(settings: dict[str, Any]) -> None:
    """What Python with numpy takes, and nothing else."""
    del settings
    import numpy as np

    from pocketfl_benchmarks.memory import peak_memory_mb

    np.zeros(1)
    say(peak_rss_mb=peak_memory_mb())


def measure_import(settings: dict[str, Any]) -> None:
    """Import everything that an app imports to train and to take part."""
    began = time.perf_counter()
    import numpy as np

    np.zeros(1)
    with_numpy = time.perf_counter()
    for module in (
        _IMPORTED[settings["runtime"]],
        "pocketfl.device",
        "pocketfl.store",
        "pocketfl.training",
    ):
        import_module(module)
    say(
        import_seconds=time.perf_counter() - began,
        numpy_import_seconds=with_numpy - began,
    )


def measure_cold_start(settings: dict[str, Any]) -> None:
    """From the start of the process to the end of the first training step."""
    from pocketfl.plan import Plan
    from pocketfl.store import ExampleStore
    from pocketfl.training import LocalTrainer

    plan = Plan.load(Path(settings["plan"]), trusted_keys=[settings["plan_key"]])
    runtime: str = settings["runtime"]
    with (
        ExampleStore(settings["store"]) as store,
        LocalTrainer(plan, store, runtime=runtime) as trainer,
    ):
        trainer.train(max_examples=plan.manifest.required_model.batch_size, epochs=1)
        # Both ends are read from the clock of one machine.
        say(cold_start_seconds=time.time() - settings["started_at"])


def measure_rounds(settings: dict[str, Any]) -> None:
    """Take part in every round that the parent opens, then say how much memory all of it took."""
    from pocketfl.budgets import Budgets
    from pocketfl.device import Device, DeviceLimits
    from pocketfl.sealing import PinnedAggregator
    from pocketfl.store import ExampleStore
    from pocketfl_benchmarks.memory import peak_memory_mb

    with (
        ExampleStore(settings["store"]) as store,
        Device(
            store,
            server=settings["url"],
            plan_keys=[settings["plan_key"]],
            aggregator=PinnedAggregator(settings["aggregator_key"]),
            enrolment_key=settings["enrolment_key"],
            runtime=settings["runtime"],
            limits=DeviceLimits(allow_unprotected=True),
            # As many rounds in a row as are asked for, within the SDK's own bounds.
            budgets=Budgets(),
        ) as device,
    ):
        device.enrol()
        say(ready=True)
        for line in sys.stdin:
            if not line.strip():
                break
            outcome = device.run_once()
            if outcome.status != "completed":
                sys.exit(f"{outcome.status} ({outcome.code}): {outcome.reason}")
            say(
                overhead_seconds=outcome.overhead_seconds,
                step_seconds=outcome.step_seconds,
                phases=outcome.phases,
            )
    say(peak_rss_mb=peak_memory_mb())


def measure_store(settings: dict[str, Any]) -> None:
    """Fill a collection in batches up to its quota, then go on, so that every append evicts."""
    from pocketfl.store import Collection, ExampleStore, Field
    from pocketfl.store.schema import Retention

    rows: int = settings["rows"]
    fields = {"kind": Field("str"), "value": Field("float"), "late": Field("bool")}
    with ExampleStore(settings["store"]) as store:
        retention = Retention(max_examples=rows, max_bytes=None)
        store.create_collection(Collection("events", fields, retention))
        began = time.perf_counter()
        _append(store, rows)
        seconds = time.perf_counter() - began
        held = store.count("events")
        pauses = _append(store, max(_BATCH * 20, rows // 50))
        say(
            append_per_second=rows / seconds,
            rows=held,
            eviction_pause_ms=1000 * max(pauses),
            rows_after_eviction=store.count("events"),
            file_mb=Path(settings["store"]).stat().st_size / 1e6,
        )


def _append(store: ExampleStore, rows: int) -> list[float]:
    """Append so many rows; return the seconds of each call."""
    seconds = []
    for start in range(0, rows, _BATCH):
        batch = [
            {"kind": f"kind-{row % 7}", "value": row / 3, "late": row % 5 == 0}
            for row in range(start, min(start + _BATCH, rows))
        ]
        began = time.perf_counter()
        store.append("events", batch)
        seconds.append(time.perf_counter() - began)
    return seconds


MEASUREMENTS: Final[dict[str, Callable[[dict[str, Any]], None]]] = {
    "bare": measure_bare,
    "import": measure_import,
    "cold_start": measure_cold_start,
    "rounds": measure_rounds,
    "store": measure_store,
}


def main() -> None:
    """Do the one measurement that standard input asks for."""
    settings = json.loads(sys.stdin.readline())
    MEASUREMENTS[settings["measure"]](settings)
    if "torch" in sys.modules:
        sys.exit("torch was imported: the figures would not be a device's")


if __name__ == "__main__":
    main()
