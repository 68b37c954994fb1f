"""Whether a task's next release is affordable: by its plan, and by the budget that tasks share."""

# ruff: noqa: A002 - "round" is the word of the field

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from pocketfl.plan.manifest import Manifest
from pocketfl_server.trusted.accounting import affords, budget_statement, progress, spent_privacy
from pocketfl_server.trusted.ledger import Ledger
from pocketfl_server.trusted.messages import PrivacyStatement
from pocketfl_server.trusted.refusals import BudgetExhausted
from pocketfl_server.trusted.releases import BudgetStatement
from pocketfl_server.trusted.task_state import TaskState


class Allowance:
    """Looks releases up in the ledger and says what one more would come to.

    Parameters
    ----------
    ledger : Ledger
        Knows the releases.
    manifest_of : callable
        Returns the manifest of a task by its name.
    """

    def __init__(self, ledger: Ledger, *, manifest_of: Callable[[str], Manifest]) -> None:
        self._ledger = ledger
        self._manifest_of = manifest_of
        self._lock = threading.Lock()
        self._locks: dict[str, threading.RLock] = {}

    def lock(self, state: TaskState) -> AbstractContextManager[object]:
        """Return what keeps two tasks of one budget from both taking the rest of it."""
        budget = state.manifest.budget
        if budget is None:
            return nullcontext()
        with self._lock:
            return self._locks.setdefault(budget.name, threading.RLock())

    def statement(self, state: TaskState, *, releasing: int | None) -> BudgetStatement | None:
        """Return where the task's shared budget stands, once a round of the task is released too."""
        budget = state.manifest.budget
        if budget is None:
            return None
        counts = {}
        for name in self._ledger.tasks_of_budget(budget.name):
            count, last = self._ledger.releases(name)
            if releasing is not None and name == state.task:
                count, last = count + 1, releasing
            manifest = self._manifest_of(name)
            counts[name] = (manifest, progress(manifest, releases=count, last_round=last))
        return budget_statement(counts)

    def affords_next(self, state: TaskState) -> bool:
        """Say whether one more release would fit the plan's bound and the shared budget's."""
        count, last = self._ledger.releases(state.task)
        following = progress(state.manifest, releases=count + 1, last_round=last + 1)
        if not affords(state.manifest, following):
            return False
        shared = self.statement(state, releasing=last + 1)
        return shared is None or shared.spent <= shared.epsilon

    def require_own(self, state: TaskState, releases: int) -> PrivacyStatement:
        """Return what so many releases spend.

        Raises
        ------
        BudgetExhausted
            If the plan does not allow them.
        """
        manifest = state.manifest
        spent = spent_privacy(manifest, releases)
        if affords(manifest, releases):
            return spent
        if releases > manifest.aggregation.max_rounds:
            reason = f"the plan allows {manifest.aggregation.max_rounds} releases, all are used"
        else:
            budget = 0.0 if manifest.dp is None else manifest.dp.epsilon
            reason = (
                f"release {releases} would bring epsilon to {spent.epsilon:.4g}, above the plan's "
                f"{budget:g}"
            )
        raise BudgetExhausted(
            f"task {state.task!r}: {reason}; nothing was released or charged",
            details={"releases": releases - 1},
        )

    def require_shared(self, state: TaskState, round: int) -> BudgetStatement | None:
        """Return what the shared budget comes to with this round released as well.

        Raises
        ------
        BudgetExhausted
            If that is above its bound.
        """
        shared = self.statement(state, releasing=round)
        if shared is None or shared.spent <= shared.epsilon:
            return shared
        others = sum(shared.releases.values()) - shared.releases[state.task]
        raise BudgetExhausted(
            f"task {state.task!r}: one more release would bring the epsilon of the budget "
            f"{shared.name!r} to {shared.spent:.4g}, above its {shared.epsilon:g}, with {others} "
            "releases of other tasks; nothing was released or charged",
            details={"budget": shared.name, "releases": shared.releases[state.task] - 1},
        )
