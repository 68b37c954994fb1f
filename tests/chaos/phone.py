"""The program on the victim's phone: an app that keeps examples, and the SDK in it.

It runs in a process of its own, which may be killed anywhere, and tells its parent over a pipe what it
did *after* it did it: what the parent has read about is what an app could rely on.
"""

# ruff: noqa: E402 - the clock is replaced before anybody keeps a reference to it

from __future__ import annotations

import time


class JumpingClock:
    """Unix time of a phone whose clock is set now and then; monotonic time does not jump."""

    def __init__(self) -> None:
        self._true = time.time
        self.offset = 0.0

    def __call__(self) -> float:
        return self._true() + self.offset


CLOCK = JumpingClock()
time.time = CLOCK

import functools
import json
import os
import resource
import signal
import sqlite3
import threading
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tests.chaos.counting import COLLECTION, EPSILON_DELTA, example
from tests.chaos.faults import BYTE_MEASURES, Budget, ClockJump, DiskFull, Faults, Point

from pocketfl.budgets import DEFAULT_BUDGETS, Budgets, Limits
from pocketfl.conditions import ScriptedSignals, Signals, Thermal
from pocketfl.device import Device, DeviceLimits
from pocketfl.device.account import SessionAccount
from pocketfl.device.attempt import Attempt
from pocketfl.device.sessions import Sessions
from pocketfl.errors import StoreDamagedError, StoreError
from pocketfl.receipts import read_audit
from pocketfl.runtimes import onnx as onnx_runtime
from pocketfl.sealing import PinnedAggregator
from pocketfl.store import ExampleStore
from pocketfl.training import CheckpointPolicy, checkpoints
from pocketfl.transport import HttpTransport, RetryPolicy, Timeouts

APPEND_PAUSE_SECONDS = 0.002
# Nothing but the faults shall keep a device from its round.
AT_NIGHT = Signals(
    battery_level=1.0,
    charging=True,
    thermal=Thermal.NONE,
    metered=False,
    idle=True,
    power_save=False,
    free_storage_bytes=2**34,
    free_memory_bytes=2**32,
)


@dataclass(frozen=True, kw_only=True)
class Orders:
    """What the program is to do.

    Attributes
    ----------
    store : Path
        Its file.
    url, enrolment_key, plan_key, aggregator, task : str
        Where and with whom it takes part.
    protected : bool
        Whether the task has differential privacy, as a device wants by default.
    before, meanwhile : tuple of int
        Slots of the examples that the app keeps before the session and during it.
    batch_seconds : float
        How long a training step takes at least.
    checkpoint_seconds : float
        Least time between two checkpoints.
    budget : Budget or None
        What the app allows.
    patient : bool
        Whether the network is sound, so that an answer that takes its time is worth waiting for.
    faults : Faults
        What happens to it, as far as its own process is the place.
    """

    store: Path
    url: str
    enrolment_key: str
    plan_key: str
    aggregator: str
    task: str
    protected: bool = False
    before: tuple[int, ...] = ()
    meanwhile: tuple[int, ...] = ()
    batch_seconds: float = 0.0
    checkpoint_seconds: float = 1.0
    budget: Budget | None = None
    patient: bool = True
    faults: Faults = field(default_factory=Faults)


class Teller:
    """Sends what happened to the parent; each message arrives whole or not at all."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self._lock = threading.Lock()

    def tell(self, **event: Any) -> None:
        with self._lock:
            self._pipe.send_bytes(json.dumps(event).encode())


class Places:
    """Knows where the session is, and lets the faults happen there."""

    def __init__(self, orders: Orders, teller: Teller) -> None:
        self._orders = orders
        self._teller = teller
        self._lock = threading.RLock()
        self._visits: Counter[tuple[str, str]] = Counter()

    def begin(self) -> None:
        """Let happen what happens before the session."""
        faults = self._orders.faults
        if faults.clock is not None and faults.clock.at is None:
            self._jump(faults.clock)
        if faults.disk is not None and faults.disk.at is None:
            self._fill(faults.disk)

    def visit(self, name: str, edge: str) -> None:
        """Say that the session is at the edge of a place."""
        with self._lock:
            self._visits[name, edge] += 1
            here = Point(name=name, edge=edge, count=self._visits[name, edge])
        if name not in ("statement", "batch"):
            self._teller.tell(place=name, edge=edge, at=time.monotonic(), cpu=time.process_time())
        faults = self._orders.faults
        if faults.clock is not None and faults.clock.at == here:
            self._jump(faults.clock)
        if faults.disk is not None and faults.disk.at == here:
            self._fill(faults.disk)
        if faults.disk is not None and faults.disk.until == here:
            self._empty()
        if faults.kill == here:
            os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(60)  # the signal is on its way

    @contextmanager
    def inside(self, name: str) -> Iterator[None]:
        self.visit(name, "enter")
        yield
        self.visit(name, "leave")

    @property
    def counts(self) -> dict[str, int]:
        """How often each place was entered."""
        return {name: n for (name, edge), n in self._visits.items() if edge == "enter"}

    def _jump(self, jump: ClockJump) -> None:
        CLOCK.offset += jump.seconds
        self._teller.tell(clock=jump.seconds)

    def _fill(self, disk: DiskFull) -> None:
        log = Path(f"{self._orders.store}-wal")
        size = log.stat().st_size if log.exists() else 0
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        # The system refuses the write as it does on a full disk, and SQLite reports the error.
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + disk.room, hard))
        self._teller.tell(disk="full")

    def _empty(self) -> None:
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        self._teller.tell(disk="free")


def watch(places: Places, teller: Teller, *, batch_seconds: float, busy: bool) -> None:
    """Have the SDK's own code report where it is."""
    phase = Attempt.phase

    @contextmanager
    def watched_phase(self: Attempt, name: str) -> Iterator[None]:
        with phase(self, name), places.inside(name):
            yield

    Attempt.phase = watched_phase  # type: ignore[method-assign]

    step = onnx_runtime.OnnxRuntime.train_step  # inherited; the other runtimes keep theirs

    @functools.wraps(step)
    def watched_step(self: Any, *arguments: Any, **options: Any) -> Any:
        with places.inside("batch"):
            began, cpu_began = time.monotonic(), time.process_time()
            if busy:
                _keep_busy(batch_seconds)
            else:
                time.sleep(batch_seconds)
            result = step(self, *arguments, **options)
            teller.tell(batch=(began, time.monotonic()), cpu_batch=(cpu_began, time.process_time()))
            return result

    onnx_runtime.OnnxRuntime.train_step = watched_step  # type: ignore[method-assign]

    open_account = SessionAccount.open

    @functools.wraps(open_account)
    def watched_open(self: Any, *arguments: Any, **options: Any) -> Any:
        refusal = open_account(self, *arguments, **options)
        if not refusal:
            # What came before is no part of what a budget limits.
            teller.tell(account=(self._meter._began, self._meter._cpu_began))
        return refusal

    SessionAccount.open = watched_open  # type: ignore[method-assign]

    make = checkpoints.Checkpointer.__init__

    @functools.wraps(make)
    def watched_make(self: Any, keep: Callable[..., None], *rest: Any, **options: Any) -> None:
        def watched_keep(checkpoint: Any) -> None:
            with places.inside("checkpoint"):
                keep(checkpoint)

        make(self, watched_keep, *rest, **options)

    checkpoints.Checkpointer.__init__ = watched_make  # type: ignore[method-assign]

    connect = sqlite3.connect

    @functools.wraps(connect)
    def watched_connect(*arguments: Any, **options: Any) -> sqlite3.Connection:
        connection = connect(*arguments, **options)
        connection.set_trace_callback(lambda _: places.visit("statement", "enter"))
        return connection

    sqlite3.connect = watched_connect  # type: ignore[assignment]


def _keep_busy(seconds: float) -> None:
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass


def open_store(path: Path, teller: Teller) -> ExampleStore:
    """Open the app's store as an app does, and take note if a damaged file was set aside."""
    store = ExampleStore(path)
    if store.quarantine is not None:
        teller.tell(quarantined=str(store.quarantine.moved_to), why=store.quarantine.reason)
    try:
        store.create_collection(COLLECTION)
    except BaseException:
        store.close()
        raise
    return store


def again_if_damaged(work: Callable[[], None], teller: Teller) -> None:
    """Do something with a store that it opens itself; once more if the store is found damaged."""
    try:
        work()
    except StoreDamagedError as error:
        teller.tell(damaged=str(error))
        work()


def keep_examples(
    store: ExampleStore, slots: tuple[int, ...], places: Places, teller: Teller, *, at_once: int
) -> None:
    """Append examples a few at a time; an app is told when that did not work, and lives on."""
    for start in range(0, len(slots), at_once):
        part = slots[start : start + at_once]
        try:
            with places.inside("append"):
                store.append(COLLECTION.name, [example(slot) for slot in part])
        except StoreError as error:
            teller.tell(refused=part, error=str(error))
        else:
            teller.tell(acknowledged=part)


def live(orders: Orders, places: Places, teller: Teller) -> None:
    """One session: the app starts, keeps examples, takes part, and goes on keeping examples."""
    with open_store(orders.store, teller) as store:
        keep_examples(store, orders.before, places, teller, at_once=8)
        over = threading.Event()

        def go_on_appending() -> None:
            for slot in orders.meanwhile:
                if over.wait(APPEND_PAUSE_SECONDS):
                    return
                keep_examples(store, (slot,), places, teller, at_once=1)

        app = threading.Thread(target=go_on_appending)
        with Device(
            store,
            server=HttpTransport(
                orders.url,
                # On a busy machine servers that are well take a while, too.
                timeouts=Timeouts(connect=20.0, read=20.0, answer=60.0)
                if orders.patient
                else Timeouts(connect=1.0, read=1.0, answer=5.0),
                retries=RetryPolicy(attempts=3, first_wait=0.02, longest_wait=0.05),
            ),
            plan_keys=[orders.plan_key],
            aggregator=PinnedAggregator(orders.aggregator),
            enrolment_key=orders.enrolment_key,
            limits=DeviceLimits(allow_unprotected=not orders.protected),
            budgets=_budgets(orders.budget),
            signals=ScriptedSignals.always(AT_NIGHT),
            checkpoints=CheckpointPolicy(
                every_seconds=orders.checkpoint_seconds, bytes_per_second=1e9
            ),
        ) as device:
            app.start()
            try:
                outcome = device.run_once(task=orders.task)
            finally:
                over.set()
                app.join()
            teller.tell(
                outcome={
                    "status": outcome.status,
                    "code": outcome.code,
                    "reason": outcome.reason,
                    "round": outcome.round,
                }
            )


def _budgets(budget: Budget | None) -> Budgets:
    if budget is None:
        return DEFAULT_BUDGETS
    if budget.measure == "contributions":
        return Budgets(per_day=Limits(contributions=int(budget.amount)))
    if budget.measure == "epsilon":
        return Budgets(max_epsilon_per_year=budget.amount, delta=EPSILON_DELTA)
    kind = int if budget.measure in BYTE_MEASURES else float
    return Budgets(per_round=Limits(**{budget.measure: kind(budget.amount)}))


def tell_state(orders: Orders, teller: Teller) -> None:
    """Say what the store holds and what the device remembers."""
    with open_store(orders.store, teller) as store:
        kept = store.select(COLLECTION.name, limit=10**6, seed=0).columns["slot"]
        rounds = store.database.query(
            "SELECT round, state FROM participations WHERE task = ?", (orders.task,)
        )
        pending = [session.round for session in Sessions(store.database).pending()]
    receipts = read_audit(orders.store).receipts
    teller.tell(
        receipts={str(r.round): r.outcome for r in receipts if r.task == orders.task},
        present=[int(slot) for slot in kept],
        rounds={str(number): state for number, state in rounds},
        pending=pending,
    )


def main(orders: Orders, pipe: Connection) -> None:
    """Run one session; the process ends with it."""
    teller = Teller(pipe)
    places = Places(orders, teller)
    busy = orders.budget is not None and orders.budget.measure == "cpu_seconds"
    watch(places, teller, batch_seconds=orders.batch_seconds, busy=busy)
    teller.tell(ready=True)
    places.begin()
    try:
        again_if_damaged(lambda: live(orders, places, teller), teller)
        again_if_damaged(lambda: tell_state(orders, teller), teller)
    except StoreError as error:
        teller.tell(unusable=str(error))
    except Exception:  # an app would crash here, whatever it was
        teller.tell(crashed=traceback.format_exc())
    teller.tell(over=True, places=places.counts)
