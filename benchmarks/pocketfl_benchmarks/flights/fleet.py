"""The fleet: one real SDK device per aircraft, and the driver that gives each its turn."""

from __future__ import annotations

import contextlib
import gc
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Final, Protocol, Self

import numpy as np

from pocketfl.attestation.verifier import AttestedAggregator
from pocketfl.budgets import Budgets, Meter
from pocketfl.conditions import ScriptedSignals, Signals, Thermal
from pocketfl.device import Device, DeviceLimits, PlanCache, RoundOutcome
from pocketfl.errors import PocketFLError
from pocketfl.protocol import AggregatorKey, FeatureRow, Notices, RoundNotice
from pocketfl.runtimes import FloatVector
from pocketfl.sealing import AggregatorVerifier, PinnedAggregator
from pocketfl.store import ExampleStore
from pocketfl.transport import DownloadCache, HttpTransport, Transport
from pocketfl_benchmarks.flights.stores import TABLE, fleet_vault, store_path
from pocketfl_server.analytics.records import TaskResult
from pocketfl_server.back_end import BackEnd
from pocketfl_server.in_process import InProcessTransport
from pocketfl_server.local import LocalDeployment
from pocketfl_server.optimizers import OptimizerSpec
from pocketfl_server.records import Funnel, ModelVersion, RoundResult, TaskRecord
from pocketfl_server.trusted.messages import TaskDescription

ROUND_SECONDS: Final = 3600.0
"""Deadline of a round in seconds: far away, because the driver closes a round once every device has
had its turn, which depends on nobody's data."""


GROUND_POWER: Final = ScriptedSignals.always(
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
"""What every aircraft of the demo says of itself: parked at the gate, on the airport's network."""

_TURNS: Final = 100
"""Turns between two words of progress."""


class FleetError(PocketFLError):
    """A round did not end as rounds of the demo end."""


class Operator(Protocol):
    """What the driver asks of a back end, over HTTP or in this process."""

    def create_task(
        self, name: str, plan_data: bytes, *, optimizer: OptimizerSpec | None = None
    ) -> TaskRecord:
        """Make a task of a plan."""

    def result(self, task: str, round: int) -> TaskResult:  # noqa: A002
        """Return what a round of questions released."""

    def open_round(self, task: str, *, seconds: float) -> RoundNotice:
        """Open the next round."""

    def close_round(self, task: str, round: int) -> RoundResult:  # noqa: A002
        """Close a round."""

    def funnel(self, task: str, round: int) -> Funnel:  # noqa: A002
        """Count how far devices got."""

    def privacy(self, task: str) -> TaskDescription:
        """Return what the trusted tier says about planned and spent privacy."""

    def models(self, task: str) -> tuple[ModelVersion, ...]:
        """List every version of the model."""

    def model_parameters(self, task: str, version: int) -> FloatVector:
        """Return one version's parameters."""


class Line(Protocol):
    """How devices of a fleet reach a back end."""

    name: str
    operator: Operator
    enrolment_key: str
    aggregator: AggregatorVerifier

    def connect(self) -> Transport:
        """Return a new device's transport."""

    def believe(self, task: TaskRecord) -> None:
        """Have devices believe the trusted tier of a task that the driver made."""

    def put_features(self, rows_of_users: Mapping[str, Iterable[FeatureRow]]) -> None:
        """Give the back end its server-side features."""

    def announce(self) -> None:
        """Have devices look again which rounds are open."""


class HttpLine:
    """Over HTTP to the two processes of a local deployment.

    Devices share one pool of connections and one cache of downloads, so that a plan is not downloaded
    three thousand times; each still accounts for the bytes that it would have used alone.
    """

    name = "HTTP"

    def __init__(self, deployment: LocalDeployment) -> None:
        self.operator: Operator = deployment.operator
        self.enrolment_key = deployment.enrolment_key
        self._client = deployment.operator
        # Notices change only when the driver opens or closes a round, and it says so.
        self._cache = DownloadCache(notices_seconds=float("inf"))
        self._first = HttpTransport(deployment.url, cache=self._cache)
        self.aggregator: AggregatorVerifier = AttestedAggregator.development(
            deployment.attestation_key
        )

    def connect(self) -> Transport:
        """Return a new device's transport."""
        return self._first.for_another_device()

    def believe(self, task: TaskRecord) -> None:
        """Do nothing: a token of the deployment's development attester vouches for its tasks."""

    def put_features(self, rows_of_users: Mapping[str, Iterable[FeatureRow]]) -> None:
        """Give the back end its server-side features."""
        self._client.put_features(TABLE, rows_of_users)

    def announce(self) -> None:
        """Have devices look again which rounds are open."""
        self._cache.expire_notices()

    def close(self) -> None:
        """Close the connections."""
        self._first.close()


class _NeighbourTransport(InProcessTransport):
    """A device's line within the process; what is the same for everybody is asked for once."""

    def __init__(self, line: InProcessLine, back_end: BackEnd) -> None:
        super().__init__(back_end)
        self._line = line

    def notices(self) -> Notices:
        """Return the open rounds, as the first device of the round found them."""
        if self._line.notices is None:
            self._line.notices = super().notices()
        return self._line.notices


class _PinnedOnceMade:
    """Believes the keys of tasks that the driver made; devices are opened before there is one."""

    evidence: Final = PinnedAggregator.evidence

    def __init__(self) -> None:
        self._keys: list[str] = []

    def pin(self, public_key: str) -> None:
        """Believe one more key."""
        self._keys.append(public_key)

    def verify(self, key: AggregatorKey, *, policy_hash: str, plan_sha256: str) -> bytes:
        """Return the raw public key if it is one of them."""
        pinned = PinnedAggregator(*self._keys)
        return pinned.verify(key, policy_hash=policy_hash, plan_sha256=plan_sha256)


class InProcessLine:
    """To a back end in this process. Bytes of notices are counted for one device only."""

    name = "in process"

    def __init__(self, back_end: BackEnd, *, enrolment_key: str) -> None:
        self.operator: Operator = back_end
        self.enrolment_key = enrolment_key
        self.notices: Notices | None = None
        self._pinned = _PinnedOnceMade()
        self.aggregator: AggregatorVerifier = self._pinned
        self._back_end = back_end

    def connect(self) -> Transport:
        """Return a new device's transport."""
        return _NeighbourTransport(self, self._back_end)

    def believe(self, task: TaskRecord) -> None:
        """Pin the task's key: this trusted tier is in the same process."""
        self._pinned.pin(task.aggregator.public_key)

    def put_features(self, rows_of_users: Mapping[str, Iterable[FeatureRow]]) -> None:
        """Give the back end its server-side features."""
        self._back_end.put_features_of_users(TABLE, rows_of_users)

    def announce(self) -> None:
        """Have devices look again which rounds are open."""
        self.notices = None


@dataclass(frozen=True, kw_only=True)
class FleetRound:
    """One round as the driver saw it.

    Attributes
    ----------
    round : int
        Its number.
    turns : dict of str to int
        Devices by what became of their turn.
    funnel : Funnel
        What the back end counted.
    result : RoundResult
        How the round ended.
    version : ModelVersion
        The model that came of it.
    device_seconds, overhead_seconds : float
        Mean over the devices that reported: wall time of the round on the device, and the part of it
        that was not training steps.
    bytes_up, bytes_down : float
        Mean over the same devices.
    phases : dict of str to float
        Mean seconds by phase over the same devices.
    """

    round: int
    turns: dict[str, int]
    funnel: Funnel
    result: RoundResult
    version: ModelVersion
    device_seconds: float
    overhead_seconds: float
    bytes_up: float
    bytes_down: float
    phases: dict[str, float]


class Fleet:
    """Training devices that stay open from round to round; a context manager.

    Parameters
    ----------
    folder : Path
        Their stores, which they may write to.
    aircraft : iterable of str
        Tail numbers.
    line : Line
        How they reach the back end.
    plan_key : str
        The modeller's public key, built into the app.
    runtime : str
        Which mobile runtime they train with.
    allow_unprotected : bool
        Whether the app takes part in tasks without differential privacy.
    seed : int
        Of the choice and order of training examples; coins and noise are never seeded.
    progress : callable, optional
        Told how many more devices are open.
    """

    def __init__(
        self,
        folder: Path,
        aircraft: Iterable[str],
        *,
        line: Line,
        plan_key: str,
        runtime: str,
        allow_unprotected: bool = False,
        seed: int,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        self._line = line
        self._plans = PlanCache()
        self._stack = contextlib.ExitStack()
        self._stack.callback(self._plans.close)
        self._devices: list[Device] = []
        limits = DeviceLimits(allow_unprotected=allow_unprotected)
        vault = fleet_vault(folder)
        try:
            for name in aircraft:
                store = self._stack.enter_context(
                    # The copies are thrown away after the run.
                    ExampleStore(store_path(folder, name), vault=vault, durable=False)
                )
                device = Device(
                    store,
                    server=line.connect(),
                    plan_keys=[plan_key],
                    aggregator=line.aggregator,
                    enrolment_key=line.enrolment_key,
                    user=name,
                    runtime=runtime,
                    limits=limits,
                    # The SDK's hard bounds hold all the same.
                    budgets=Budgets(),
                    signals=GROUND_POWER,
                    # A step of this model takes less than a thread takes to start.
                    hard_stop_seconds=None,
                    meter=partial(Meter, scope="thread"),
                    plans=self._plans,
                    seed=seed,
                )
                self._devices.append(device)
                if progress is not None:
                    progress(1)
        except BaseException:
            self.close()
            raise
        # A phone has one device: looking through thousands of others for garbage is no cost of its own.
        gc.collect()
        gc.freeze()
        self._stack.callback(gc.unfreeze)

    def enrol(self, *, threads: int, progress: Callable[[int], None] | None = None) -> None:
        """Give every device its token, as apps do at install: before the first round, not in it."""
        with ThreadPoolExecutor(threads) as pool:
            for start in range(0, len(self._devices), _TURNS):
                part = self._devices[start : start + _TURNS]
                list(pool.map(Device.enrol, part))
                if progress is not None:
                    progress(len(part))

    def run_round(
        self, task: str, *, threads: int, progress: Callable[[int], None] | None = None
    ) -> FleetRound:
        """Open a round, give every device its turn, and close the round.

        Parameters
        ----------
        task : str
            Whose next round.
        threads : int
            How many devices are at it at a time.
        progress : callable, optional
            Told how many more devices have had their turn.

        Returns
        -------
        FleetRound
            What became of it.

        Raises
        ------
        FleetError
            If a device failed, or the round made no new model.
        """
        notice, outcomes, result = self._take_turns(task, threads=threads, progress=progress)
        turns = Counter(str(outcome.status) for outcome in outcomes)
        if result.new_version is None:
            raise FleetError(
                f"round {notice.round} was {result.state} ({result.reason}) with "
                f"{turns['completed']} reports"
            )
        reports = [outcome for outcome in outcomes if outcome.status == "completed"]
        return FleetRound(
            round=notice.round,
            turns=dict(turns),
            funnel=self._line.operator.funnel(task, notice.round),
            result=result,
            version=self._line.operator.models(task)[result.new_version],
            device_seconds=_mean(outcome.seconds for outcome in reports),
            overhead_seconds=_mean(outcome.overhead_seconds for outcome in reports),
            bytes_up=_mean(outcome.bytes_up for outcome in reports),
            bytes_down=_mean(outcome.bytes_down for outcome in reports),
            phases={
                name: _mean(outcome.phases.get(name, 0.0) for outcome in reports)
                for name in reports[0].phases
            },
        )

    def ask(
        self, task: str, *, threads: int, progress: Callable[[int], None] | None = None
    ) -> TaskResult:
        """Let every device answer the questions of a task, and return the release.

        Parameters are those of :meth:`run_round`.

        Raises
        ------
        FleetError
            If a device failed, or nothing was released.
        """
        notice, _, result = self._take_turns(task, threads=threads, progress=progress)
        if result.state != "finished":
            raise FleetError(f"the questions of {task!r} were {result.state} ({result.reason})")
        return self._line.operator.result(task, notice.round)

    def _take_turns(
        self, task: str, *, threads: int, progress: Callable[[int], None] | None
    ) -> tuple[RoundNotice, list[RoundOutcome], RoundResult]:
        """Open a round, give every device its turn, and close the round."""
        notice = self._line.operator.open_round(task, seconds=ROUND_SECONDS)
        self._line.announce()
        outcomes: list[RoundOutcome] = []
        with ThreadPoolExecutor(threads) as pool:
            for start in range(0, len(self._devices), _TURNS):
                part = self._devices[start : start + _TURNS]
                outcomes += pool.map(Device.run_once, part)
                if progress is not None:
                    progress(len(part))
        result = self._line.operator.close_round(task, notice.round)
        self._line.announce()
        unexpected = next(
            (o for o in outcomes if o.status not in ("completed", "not_sampled", "cap_reached")),
            None,
        )
        if unexpected is not None:
            raise FleetError(
                f"round {notice.round}: a device's turn ended as {unexpected.status!r} "
                f"({unexpected.code}): {unexpected.reason}"
            )
        return notice, outcomes, result

    def close(self) -> None:
        """Close all devices and their stores."""
        for device in self._devices:
            device.close()
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))


def raise_file_limit(devices: int) -> None:
    """Allow this process as many open files as a fleet needs: a store is a file with two beside it.

    Raises
    ------
    FleetError
        If the system's hard limit is lower.
    """
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    needed = 3 * devices + 512
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise FleetError(
            f"a fleet of {devices} devices keeps {needed} files open and this machine allows {hard}: "
            "raise the hard limit (ulimit -Hn) and try again"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
