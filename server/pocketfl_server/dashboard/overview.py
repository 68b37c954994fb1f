"""What the dashboard shows: the back end's own records, put in order for people.

Nothing here is about one device: counts per round, released sums, and how many devices enrolled with
which version of the SDK.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, TypeVar

from pocketfl_server.back_end import BackEnd
from pocketfl_server.dashboard.charts import Chart, Value, draw_chart
from pocketfl_server.errors import Refusal
from pocketfl_server.records import (
    Funnel,
    PauseRecord,
    RolloutRecord,
    RoundResult,
    ScheduleRecord,
    TaskRecord,
)
from pocketfl_server.trusted.messages import TaskDescription
from pocketfl_server.trusted.refusals import TrustedTierError

T = TypeVar("T")

ROUNDS_SHOWN: Final = 8
REMEMBER_SECONDS: Final = 30.0


@dataclass(frozen=True, kw_only=True)
class Bar:
    """A line of a bar chart; ``share`` of the longest, in percent."""

    label: str
    count: int
    share: int


@dataclass(frozen=True, kw_only=True)
class Quality:
    """One measure of a model's versions, as the fleet's devices found it."""

    name: str
    chart: Chart


@dataclass(frozen=True, kw_only=True)
class Versions:
    """What devices of a round run, as far as they say so at check-in."""

    round: int
    plan: str
    model_version: int
    sdk: tuple[Bar, ...]
    plan_schema: tuple[Bar, ...]


@dataclass(frozen=True, kw_only=True)
class TaskView:
    """One task.

    Attributes
    ----------
    rounds : tuple of RoundResult
        The latest, newest first.
    counted : RoundResult or None
        The round that ``funnel`` is about: the latest.
    refusals : tuple of Bar
        Why devices were turned away, or their reports left out, in that round.
    versions : Versions or None
        What devices of the last round that has ended run.
    privacy : TaskDescription or None
        None while the trusted tier cannot be asked.
    budget : float or None
        Epsilon that the plan allows.
    """

    task: TaskRecord
    pauses: tuple[PauseRecord, ...]
    schedule: ScheduleRecord
    rounds: tuple[RoundResult, ...]
    round_count: int
    counted: RoundResult | None
    funnel: tuple[Bar, ...]
    refusals: tuple[Bar, ...]
    versions: Versions | None
    privacy: TaskDescription | None
    budget: float | None
    epsilon: Chart | None
    quality: tuple[Quality, ...]
    rollout: RolloutRecord | None
    rollout_count: int


@dataclass(frozen=True, kw_only=True)
class Overview:
    """The whole page."""

    tasks: tuple[TaskView, ...]
    fleet: tuple[Bar, ...]
    devices: int
    now: float


class OverviewReader:
    """Reads the back end for the page; what is slow to find out is remembered for a while.

    Parameters
    ----------
    back_end : BackEnd
        What is shown.
    clock : callable
        Unix time in seconds.
    """

    def __init__(self, back_end: BackEnd, *, clock: Callable[[], float]) -> None:
        self._back_end = back_end
        self._clock = clock
        self._lock = threading.Lock()
        self._remembered: dict[tuple[object, ...], tuple[float, object]] = {}

    def read(self) -> Overview:
        """Return the page as of now."""
        # What makes models first, and of those what was made last.
        tasks = sorted(
            self._back_end.tasks(), key=lambda task: (task.kind != "training", -task.created_at)
        )
        pauses = self._back_end.pauses()
        fleet = self._remember(("fleet",), self._back_end.fleet)
        return Overview(
            tasks=tuple(self._task(task, tasks, pauses) for task in tasks),
            fleet=_bars(dict(sorted(fleet.items(), key=lambda item: -item[1]))),
            devices=sum(fleet.values()),
            now=self._clock(),
        )

    def _task(
        self, task: TaskRecord, tasks: list[TaskRecord], pauses: tuple[PauseRecord, ...]
    ) -> TaskView:
        rounds = self._back_end.rounds(task.name)
        counted = rounds[-1] if rounds else None
        funnel = None if counted is None else self._back_end.funnel(task.name, counted.round)
        rollouts = self._back_end.rollouts(task.name)
        dp = self._back_end.manifest(task.name).dp
        ended = tuple(result for result in rounds if result.ended_at is not None)
        return TaskView(
            task=task,
            pauses=tuple(pause for pause in pauses if pause.task in (None, task.name)),
            schedule=self._back_end.schedule(task.name),
            rounds=rounds[: -ROUNDS_SHOWN - 1 : -1],
            round_count=len(rounds),
            counted=counted,
            funnel=() if funnel is None else _funnel_bars(funnel),
            refusals=() if funnel is None else _refusal_bars(funnel),
            versions=self._versions(task, rounds),
            privacy=self._remember(
                ("privacy", task.name, len(ended)), lambda: self._privacy(task.name)
            ),
            budget=None if dp is None else dp.epsilon,
            epsilon=self._epsilon(task, limit=None if dp is None else dp.epsilon),
            quality=self._remember(
                ("quality", task.name, *self._releases(task, tasks)),
                lambda: self._quality(task, tasks),
            ),
            rollout=rollouts[-1] if rollouts else None,
            rollout_count=len(rollouts),
        )

    def _versions(self, task: TaskRecord, rounds: tuple[RoundResult, ...]) -> Versions | None:
        found = self._back_end.versions(task.name)
        if found is None:
            return None
        manifest = self._back_end.manifest(task.name)
        return Versions(
            round=found.round,
            plan=f"{manifest.name} {manifest.version}",
            model_version=next(r.model_version for r in rounds if r.round == found.round),
            sdk=_bars(found.sdk),
            plan_schema=_bars({f"schema {schema}": n for schema, n in found.plan_schema.items()}),
        )

    def _privacy(self, task: str) -> TaskDescription | None:
        with suppress(TrustedTierError):
            return self._back_end.privacy(task)
        return None

    def _epsilon(self, task: TaskRecord, *, limit: float | None) -> Chart | None:
        """Return what the task had spent after each release."""
        if task.kind == "training":
            spent = [(model.version, model.epsilon) for model in self._back_end.models(task.name)]
        else:
            spent = [(made.round, made.epsilon) for made in self._back_end.results(task.name)]
        values = [
            Value(at=at, value=epsilon, low=epsilon, high=epsilon)
            for at, epsilon in spent
            if epsilon is not None
        ]
        axis = "version" if task.kind == "training" else "round"
        return draw_chart(values, name="epsilon spent", axis=axis, bottom=0.0, limit=limit)

    def _evaluations(self, task: TaskRecord, tasks: list[TaskRecord]) -> list[TaskRecord]:
        return [
            other
            for other in tasks
            if other.kind == "evaluation"
            and other.seed_model is not None
            and other.seed_model.task == task.name
        ]

    def _releases(self, task: TaskRecord, tasks: list[TaskRecord]) -> tuple[tuple[str, int], ...]:
        return tuple(
            (other.name, len(self._back_end.results(other.name)))
            for other in self._evaluations(task, tasks)
        )

    def _quality(self, task: TaskRecord, tasks: list[TaskRecord]) -> tuple[Quality, ...]:
        """Return each measure that evaluation tasks found of this task's versions."""
        # Estimators are for those who look; a gateway that nobody looks at need not load them.
        from pocketfl.queries import ScoreHistogram
        from pocketfl_server.analytics.statistics import read_metrics

        found: dict[str, dict[int, Value]] = {}
        for evaluation in self._evaluations(task, tasks):
            queries = self._back_end.manifest(evaluation.name).required_queries.queries
            if evaluation.seed_model is None:
                continue
            version = evaluation.seed_model.version
            for summary in self._back_end.results(evaluation.name):
                result = self._back_end.result(evaluation.name, summary.round)
                for query in queries:
                    if not isinstance(query, ScoreHistogram):
                        continue
                    with suppress(ValueError, KeyError, Refusal):
                        metrics = read_metrics(query, result.find(query.name))
                        for name, estimate in (
                            ("ROC-AUC", metrics.roc_auc),
                            ("normalised entropy", metrics.normalised_entropy),
                        ):
                            if math.isfinite(estimate.value):
                                found.setdefault(name, {})[version] = Value(
                                    at=version,
                                    value=estimate.value,
                                    low=estimate.low,
                                    high=estimate.high,
                                )
        charts = (
            (name, draw_chart([by[at] for at in sorted(by)], name=name, axis="version"))
            for name, by in found.items()
        )
        return tuple(Quality(name=name, chart=chart) for name, chart in charts if chart is not None)

    def _remember(self, key: tuple[object, ...], find: Callable[[], T]) -> T:
        now = self._clock()
        with self._lock:
            known = self._remembered.get(key)
            if known is not None and now - known[0] < REMEMBER_SECONDS:
                return known[1]  # type: ignore[return-value]
        found = find()
        with self._lock:
            self._remembered = {
                other: kept
                for other, kept in self._remembered.items()
                if now - kept[0] < REMEMBER_SECONDS
            }
            self._remembered[key] = (now, found)
        return found


def _named(prefix: str, counts: dict[str, int]) -> dict[str, int]:
    return {f"{prefix}: {reason.replace('_', ' ')}": count for reason, count in counts.items()}


def _refusal_bars(funnel: Funnel) -> tuple[Bar, ...]:
    turned_away = _named("turned away", funnel.turned_away)
    return _bars({**turned_away, **_named("rejected", funnel.rejected)})


def _funnel_bars(funnel: Funnel) -> tuple[Bar, ...]:
    counts = {
        "checked in": funnel.checked_in,
        "got a place": funnel.leases,
        "reported": funnel.uploaded,
    }
    if funnel.accepted is not None:
        counts["in the sum"] = funnel.accepted
    return _bars(counts)


def _bars(counts: dict[str, int]) -> tuple[Bar, ...]:
    longest = max(counts.values(), default=0) or 1
    return tuple(
        Bar(label=label, count=count, share=round(100 * count / longest))
        for label, count in counts.items()
    )
