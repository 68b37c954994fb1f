"""Answering a plan's queries for one session, from the examples that were there at the check-in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pocketfl.balancing.correction import correct_outputs
from pocketfl.device.attempt import Attempt, RoundEnd
from pocketfl.device.hooks import SessionHooks
from pocketfl.device.plans import OpenPlan
from pocketfl.device.sessions import Session
from pocketfl.features.loading import load_examples
from pocketfl.features.pipeline import Selection
from pocketfl.funnel.log import DayLog
from pocketfl.queries.evaluation import evaluate_queries
from pocketfl.queries.reading import QueryColumns
from pocketfl.queries.spec import FunnelEvent
from pocketfl.runtimes import FloatVector, Runtime
from pocketfl.store import Examples, ExampleStore

_ROWS_AT_A_TIME: Final = 1024
"""Examples that are scored between two looks at whether to stop."""


class SessionQueries:
    """Makes a session's answer.

    Parameters
    ----------
    store : ExampleStore
        The device's examples.
    runtime : str
        What scores them, where the plan has a model.
    hooks : SessionHooks
        Counts what is spent.
    log : DayLog
        What happened on the days before.
    """

    def __init__(
        self, store: ExampleStore, *, runtime: str, hooks: SessionHooks, log: DayLog
    ) -> None:
        self._store = store
        self._runtime = runtime
        self._hooks = hooks
        self._log = log

    def run(
        self,
        attempt: Attempt,
        session: Session,
        opened: OpenPlan,
        *,
        parameters: FloatVector | None,
        should_stop: Callable[[], bool],
    ) -> NDArray[np.float64]:
        """Answer the plan's queries; nothing is kept of it, so a stopped session begins again.

        Parameters
        ----------
        attempt : Attempt
            Takes note of time.
        session : Session
            Says which examples.
        opened : OpenPlan
            Says what is asked.
        parameters : ndarray of float32, shape (P,), or None
            Of the model that is evaluated, where there is one.
        should_stop : callable
            Asked before every batch.

        Returns
        -------
        ndarray of float64, shape (vector_length,)
            Of norm 1 at most. Zeros where this device has no collection of that name, or fewer examples
            than the plan asks for: that is its own business, and its report looks like any other.

        Raises
        ------
        RoundEnd
            If it was told to stop.
        """
        manifest = opened.plan.manifest
        queries = manifest.required_queries
        with attempt.phase("select"):
            found = self._load(session, opened)
        columns: QueryColumns | None = None
        if found is not None and opened.query_reader is not None:
            examples, selection = found
            outputs: dict[str, NDArray[np.generic]] = {}
            if parameters is not None and selection.rows:
                with attempt.phase("evaluate"), opened.runtime(self._runtime) as runtime:
                    runtime.set_parameters(parameters)
                    raw = self._score(
                        runtime, opened.pipeline.assemble(examples, selection), should_stop
                    )
                # What is judged is what inference would say.
                outputs = correct_outputs(raw, opened.balancing)
            columns = opened.query_reader.read(examples, selection, outputs=outputs)
        events = self._day_before(session) if queries.asks_for_logs else None
        return evaluate_queries(queries, columns, seed=session.seed, events=events)

    def _day_before(self, session: Session) -> Mapping[FunnelEvent, int]:
        """Return the log of the last full day; nothing if that was reported for another round."""
        day = DayLog.day_of(session.began_at) - 1
        if not self._log.claim(day, task=session.task, round=session.round):
            return {}
        return self._log.counts(day)

    def _load(self, session: Session, opened: OpenPlan) -> tuple[Examples, Selection] | None:
        manifest = opened.plan.manifest
        if manifest.required_queries.daily:
            return None
        if not self._store.has_collection(session.collection):
            return None
        if self._store.count(session.collection) < manifest.eligibility.min_examples:
            return None
        return load_examples(
            self._store,
            opened.pipeline,
            limit=manifest.required_queries.max_examples_read,
            seed=session.seed,
            up_to=session.examples_up_to,
        )

    def _score(
        self,
        runtime: Runtime,
        arrays: dict[str, NDArray[np.generic]],
        should_stop: Callable[[], bool],
    ) -> dict[str, NDArray[np.generic]]:
        rows = len(arrays.pop("target"))
        parts: list[dict[str, NDArray[np.generic]]] = []
        with self._hooks.training(runtime.cancel):
            for start in range(0, rows, _ROWS_AT_A_TIME):
                if should_stop():
                    raise RoundEnd(
                        "interrupted",
                        "stopped",
                        "the evaluation was stopped; it begins again within its lease",
                        resumable=True,
                    )
                stop = start + _ROWS_AT_A_TIME
                batch = {name: array[start:stop] for name, array in arrays.items()}
                parts.append(runtime.predict(batch))
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
