"""Simulated writers: real SDK devices, each with a hand of its own and some digits in its store.

A writer's hand is an affine map, drawn once: it turns, slants and squeezes all of that writer's digits
alike. The bundled model has seen only upright digits, so there is something for it to learn.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import numpy as np
import torch

from pocketfl.budgets import Budgets, Meter
from pocketfl.conditions import ScriptedSignals, Signals, Thermal
from pocketfl.device import Device, PlanCache, RoundOutcome
from pocketfl.sealing import PinnedAggregator
from pocketfl.store import Collection, ExampleStore, Field, FileKeyVault
from pocketfl_app.enrolment import Site
from pocketfl_benchmarks.digits.data import SIDE, Digits
from pocketfl_benchmarks.digits.task import COLLECTION, bend, bends

DIGITS_EACH: Final = 45
_SEED: Final = 11
_PLUGGED_IN: Final = ScriptedSignals.always(
    Signals(
        battery_level=1.0,
        charging=True,
        thermal=Thermal.NONE,
        metered=False,
        idle=True,
        power_save=False,
        free_storage_bytes=2**33,
        free_memory_bytes=2**30,
    )
)
"""What every writer's device says of itself: on its charger, on Wi-Fi."""


def hands(count: int) -> Iterator[np.random.Generator]:
    """Return the source of chance of each writer, the same in every run."""
    for number in range(count):
        yield np.random.default_rng((_SEED, number))


def write_in_hand(digits: Digits, chances: np.random.Generator) -> Digits:
    """Return digits as a writer would have written them."""
    count = len(digits)
    shape = {
        "turn": chances.uniform(-0.1, 0.3),
        "slant": chances.uniform(0.2, 0.5),
        "wide": chances.uniform(0.6, 0.9),
        "high": chances.uniform(0.7, 1.0),
        "right": 0.0,
        "down": 0.0,
    }
    maps = bends(**{name: np.full(count, value) for name, value in shape.items()})
    images = bend(torch.from_numpy(digits.images)[:, None], maps)
    return Digits(images[:, 0].numpy(), digits.labels)


def deal(digits: Digits, *, writers: int) -> tuple[list[Digits], Digits]:
    """Give each writer some digits in their hand; the rest, each in one of the hands, is for measuring.

    Parameters
    ----------
    digits : Digits
        Those that the bundled model has not seen.
    writers : int
        How many.

    Raises
    ------
    ValueError
        If there are not enough digits.
    """
    each = min(DIGITS_EACH, (len(digits) * 4 // 5) // writers)
    if each < 1:
        raise ValueError(f"{len(digits)} digits are not enough for {writers} writers")
    parts, measured = [], []
    rest = np.array_split(np.arange(writers * each, len(digits)), writers)
    for number, chances in enumerate(hands(writers)):
        rows = np.arange(number * each, (number + 1) * each)
        written = write_in_hand(digits.take(np.concatenate([rows, rest[number]])), chances)
        parts.append(written.take(np.arange(each)))
        measured.append(written.take(np.arange(each, len(written))))
    return parts, Digits(
        np.concatenate([part.images for part in measured]),
        np.concatenate([part.labels for part in measured]),
    )


class Writers:
    """The fleet, open from round to round; a context manager.

    Parameters
    ----------
    folder : Path
        For their stores.
    parts : list of Digits
        One per writer.
    site : Site
        Where they take part.
    plan_key : str
        The modeller's public key.
    runtime : str
        What they train with.
    """

    def __init__(
        self, folder: Path, parts: list[Digits], *, site: Site, plan_key: str, runtime: str
    ) -> None:
        self._plans = PlanCache()
        self._stack = contextlib.ExitStack()
        self._stack.callback(self._plans.close)
        self._devices: list[Device] = []
        vault = FileKeyVault(folder / "writers.key")
        try:
            for number, digits in enumerate(parts):
                # Thrown away after the run.
                store = self._stack.enter_context(
                    ExampleStore(folder / f"writer-{number}.db", vault=vault, durable=False)
                )
                _fill(store, digits)
                device = Device(
                    store,
                    server=site.server,
                    plan_keys=[plan_key],
                    aggregator=PinnedAggregator(site.aggregator),
                    enrolment_key=site.enrolment,
                    runtime=runtime,
                    # The SDK's hard bounds hold all the same.
                    budgets=Budgets(),
                    signals=_PLUGGED_IN,
                    hard_stop_seconds=None,
                    meter=partial(Meter, scope="thread"),
                    plans=self._plans,
                )
                self._devices.append(self._stack.enter_context(device))
        except BaseException:
            self._stack.close()
            raise

    def __len__(self) -> int:
        return len(self._devices)

    def take_part(self, *, threads: int = 2) -> list[RoundOutcome]:
        """Give every writer a turn in the open round."""
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(Device.run_once, self._devices))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()


def _fill(store: ExampleStore, digits: Digits) -> None:
    fields = {"image": Field("tensor", shape=(1, SIDE, SIDE)), "digit": Field("int")}
    store.create_collection(Collection(COLLECTION, fields))
    store.append(
        COLLECTION,
        [
            {"image": image[None], "digit": int(label)}
            for image, label in zip(digits.images, digits.labels, strict=True)
        ],
    )
