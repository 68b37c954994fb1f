"""From a round's sealed reports on disk to their exact sum."""

# ruff: noqa: A002 - "round" is the word of the field

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np

from pocketfl.plan import AggregationSpec
from pocketfl.plan.asynchronous import staleness_weight
from pocketfl.reports import report_size
from pocketfl.sealing import ReportContext
from pocketfl_server.trusted.ledger import Ledger, Origin
from pocketfl_server.trusted.summing import (
    STALE,
    Page,
    PartialSum,
    RoundOfReports,
    require_room,
)
from pocketfl_server.trusted.task_state import TaskState
from pocketfl_server.trusted.workers import Workers

_ANY_LEASE: Final = 16 * "0"
"""Stands in for that of each report."""
_PAGE_BYTES: Final = 4 * 2**20
"""Sealed reports that a worker gets at a time."""


class Collection:
    """Opens and checks every report of a round and sums the good ones.

    Parameters
    ----------
    ledger : Ledger
        Has the sealed reports.
    workers : Workers
        Do the work.
    """

    def __init__(self, ledger: Ledger, workers: Workers) -> None:
        self._ledger = ledger
        self._workers = workers

    def sum(
        self, state: TaskState, round: int, model_version: int, aggregation: AggregationSpec
    ) -> PartialSum:
        """Sum a round's reports exactly; where rounds are asynchronous, by staleness weight.

        Parameters
        ----------
        state : TaskState
            Of the task.
        round, model_version : int
            Of the round.
        aggregation : AggregationSpec
            As it holds in this round.
        """
        spec = aggregation.asynchronous
        if spec is None:
            return self._sum_of(state, round, (round, model_version), aggregation)
        whole = PartialSum(total=np.zeros(state.manifest.report_length, dtype=np.int64))
        for origin, count in self._ledger.origins(state.task, round):
            staleness = round - (round if origin is None else origin[0])
            if origin is None or not 0 <= staleness <= spec.max_staleness:
                whole.rejected[STALE] += count
                continue
            part = self._sum_of(state, round, origin, aggregation)
            part.total *= staleness_weight(staleness)
            whole.add(part)
            require_room(whole.accepted, aggregation.norm_bound * aggregation.whole_weight)
        return whole

    def _sum_of(
        self, state: TaskState, round: int, origin: Origin, aggregation: AggregationSpec
    ) -> PartialSum:
        """Sum what was submitted to a round by devices that checked in to the same one."""
        manifest = state.manifest
        reports = RoundOfReports(
            private_key=state.private_key,
            context=ReportContext(
                key_id=state.key.key_id,
                policy_hash=state.key.policy_hash,
                plan_sha256=state.key.plan_sha256,
                task=state.task,
                round=origin[0],
                model_version=origin[1],
                clip_norm=None if aggregation.adaptive is None else aggregation.clip_norm,
                lease=_ANY_LEASE,
            ),
            length=manifest.report_length,
            bits=manifest.report_bits,
            norm_bound=aggregation.norm_bound,
            # A rotation spreads the vote over all coordinates: there the norm alone bounds it.
            count_weight=0 if aggregation.encoding is not None else aggregation.count_weight,
        )
        where = None if aggregation.asynchronous is None else origin
        return self._workers.sum(reports, self._pages(state, round, where))

    def _pages(self, state: TaskState, round: int, origin: Origin | None) -> Iterator[Page]:
        # Workers get many at a time. This process itself takes one after the other, whose memory is
        # then still in the processor's cache.
        at_once = max(1, _PAGE_BYTES // report_size(state.manifest))
        if self._workers.count == 1:
            at_once = 1
        return self._ledger.pages(state.task, round, at_once=at_once, origin=origin)
