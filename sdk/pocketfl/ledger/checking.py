"""Compares what is asked for with what the windows still have room for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from pocketfl.budgets.amounts import FLOWS, LEVELS, Amounts
from pocketfl.budgets.epsilon import epsilon_of
from pocketfl.budgets.limits import Budgets, Limits
from pocketfl.database import Database
from pocketfl.ledger.tables import DAY, MONTH, YEAR
from pocketfl.reasons import Reason

_NAMES: Final = {
    "cpu_seconds": "CPU seconds",
    "wall_seconds": "running seconds",
    "bytes_up": "bytes sent",
    "bytes_up_metered": "bytes sent on metered links",
    "bytes_down_metered": "bytes received on metered links",
    "bytes_down_unmetered": "bytes received on unmetered links",
    "joules": "joules",
    "contributions": "contributions",
    "peak_memory_bytes": "bytes of memory",
    "storage_bytes": "bytes of storage",
}
# Sums of thousands of amounts in floating point differ in the last digits from the limit they made
# up.
_ROUNDING: Final = 1e-9

_SUMS: Final = ", ".join(f"total(held_{name})" for name in FLOWS)
# One statement for all windows: a round asks twice, and each statement has its price.
# S608: only names of this package are put into the text.
_WINDOWS: Final = (
    f"SELECT 0, {_SUMS} FROM ledger_entries WHERE task = ?1 AND round = ?2 AND id IS NOT ?3 "  # noqa: S608
    f"UNION ALL SELECT 1, {_SUMS} FROM ledger_entries WHERE counted_at > ?4 AND id IS NOT ?3 "
    f"UNION ALL SELECT 2, {_SUMS} FROM ledger_entries WHERE counted_at > ?5 AND id IS NOT ?3 "
    "ORDER BY 1"
)


def exceeds(value: float, limit: float) -> bool:
    """Return whether a value is above its limit by more than rounding."""
    return value > limit + _ROUNDING * max(1.0, abs(limit))


@dataclass(frozen=True, kw_only=True)
class Window:
    """What one window holds of each flow.

    Attributes
    ----------
    name : str
        In a person's words.
    seconds : float or None
        Its length; None for a round, which has no end that time would bring.
    limits : Limits
        What it may hold.
    used : dict of str to float
        What it does hold, by flow.
    """

    name: str
    seconds: float | None
    limits: Limits
    used: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is asked for.

    Attributes
    ----------
    task : str
        Name of the task.
    round : int
        Number of the round.
    needs : Amounts
        Without which there is no point in starting.
    rho : float
        zCDP parameter of the contribution; 0 where there is none.
    without : int or None
        An entry to leave out of every sum, because it asks anew.
    """

    task: str
    round: int
    needs: Amounts
    rho: float = 0.0
    without: int | None = None


class Checker:
    """Reads the windows at one moment.

    Parameters
    ----------
    database : Database
        With the ledger's tables.
    budgets : Budgets
        What holds.
    now : float
        The ledger's time.
    request : Request
        What is asked for.
    """

    def __init__(
        self, database: Database, *, budgets: Budgets, now: float, request: Request
    ) -> None:
        self._database = database
        self._budgets = budgets
        self._now = now
        self._request = request
        self._windows = self._read()

    def reasons(self) -> tuple[Reason, ...]:
        """Return every limit that stands against the request; none when it may go ahead."""
        found = [*self._flows(), *self._levels()]
        if self._request.without is None:
            found += [*self._separation(), *self._task(), *self._epsilon()]
        return tuple(found)

    def room(self, wanted: Amounts) -> Amounts:
        """Return as much of what is wanted as fits, and at least what is needed."""
        granted: dict[str, float] = {}
        for name in FLOWS:
            room = float(getattr(wanted, name))
            for window in self._windows:
                limit = getattr(window.limits, name)
                if limit is not None:
                    room = min(room, limit - window.used[name])
            kind = type(getattr(wanted, name))
            granted[name] = max(kind(max(0.0, room)), getattr(self._request.needs, name))
        for name in LEVELS:
            limits = [getattr(window.limits, name) for window in self._windows]
            room = min([getattr(wanted, name), *(each for each in limits if each is not None)])
            granted[name] = max(room, getattr(self._request.needs, name))
        return Amounts(**granted)  # type: ignore[arg-type]

    def _read(self) -> tuple[Window, ...]:
        budgets, request = self._budgets, self._request
        rows = self._database.query(
            _WINDOWS,
            (request.task, request.round, request.without, self._now - DAY, self._now - MONTH),
        )
        return tuple(
            Window(
                name=name,
                seconds=seconds,
                limits=limits,
                used=dict(zip(FLOWS, row[1:], strict=True)),
            )
            for (name, seconds, limits), row in zip(
                (
                    ("in this round", None, budgets.per_round),
                    ("in 24 hours", DAY, budgets.per_day),
                    ("in 30 days", MONTH, budgets.per_month),
                ),
                rows,
                strict=True,
            )
        )

    def _flows(self) -> Iterator[Reason]:
        for window in self._windows:
            for name in FLOWS:
                need, limit = getattr(self._request.needs, name), getattr(window.limits, name)
                total = window.used[name] + need
                if need == 0 or limit is None or not exceeds(total, limit):
                    continue
                yield Reason(
                    condition=f"{_NAMES[name]} {window.name}",
                    observed=f"{total:.6g} ({window.used[name]:.6g} used and {need:.6g} needed)",
                    required=f"<= {limit:.6g}",
                    retry_seconds=self._frees(window, name, total - limit, possible=need <= limit),
                )

    def _frees(
        self, window: Window, name: str, excess: float, *, possible: bool
    ) -> tuple[float, float] | None:
        """Return in how many seconds so much has left the window."""
        if window.seconds is None or not possible:
            return None
        return self._leaves(f"held_{name}", window.seconds, excess)

    def _leaves(self, column: str, seconds: float, excess: float) -> tuple[float, float] | None:
        rows = self._database.query(
            f"SELECT counted_at, {column} FROM ledger_entries "  # noqa: S608
            f"WHERE counted_at > ? AND {column} > 0 AND id IS NOT ? ORDER BY counted_at",
            (self._now - seconds, self._request.without),
        )
        for counted_at, held in rows:
            excess -= held
            if not exceeds(excess, 0.0):
                wait = counted_at + seconds - self._now
                return wait, wait
        return None

    def _levels(self) -> Iterator[Reason]:
        for name in LEVELS:
            need = getattr(self._request.needs, name)
            for window in self._windows:
                limit = getattr(window.limits, name)
                if limit is not None and need > limit:
                    yield Reason(
                        condition=f"{_NAMES[name]} {window.name}",
                        observed=f"{need} needed",
                        required=f"<= {limit}",
                    )

    def _separation(self) -> Iterator[Reason]:
        least = self._budgets.min_separation_seconds
        if least == 0 or not self._request.needs.contributions:
            return
        rows = self._database.query(
            "SELECT max(counted_at) FROM ledger_entries WHERE task = ? AND held_contributions > 0",
            (self._request.task,),
        )
        last = rows[0][0]
        if last is not None and self._now - last < least:
            wait = last + least - self._now
            yield Reason(
                condition="time since the last contribution to this task",
                observed=f"{max(0.0, self._now - last):.0f} s",
                required=f">= {least:.0f} s",
                retry_seconds=(wait, wait),
            )

    def _task(self) -> Iterator[Reason]:
        most = self._budgets.max_contributions_per_task
        need = self._request.needs.contributions
        if most is None or not need:
            return
        task = self._request.task
        rows = self._database.query(
            "SELECT (SELECT total(held_contributions) FROM ledger_entries WHERE task = ?) "
            "+ (SELECT total(contributions) FROM ledger_tasks WHERE task = ?)",
            (task, task),
        )
        count = int(rows[0][0])
        if count + need > most:
            yield Reason(
                condition="contributions to this task",
                observed=f"{count + need} (this one included)",
                required=f"<= {most}",
            )

    def _epsilon(self) -> Iterator[Reason]:
        most, delta, rho = (
            self._budgets.max_epsilon_per_year,
            self._budgets.delta,
            self._request.rho,
        )
        if most is None or rho == 0:
            return
        if delta is None:
            raise ValueError("budgets with max_epsilon_per_year need a delta at which it is stated")
        rows = self._database.query(
            "SELECT total(rho) FROM ledger_entries WHERE counted_at > ?", (self._now - YEAR,)
        )
        used = float(rows[0][0])
        epsilon = epsilon_of(used + rho, delta=delta)
        if not exceeds(epsilon, most):
            return
        retry = None
        if not exceeds(epsilon_of(rho, delta=delta), most):
            retry = self._leaves("rho", YEAR, used + rho - _highest_rho(most, delta=delta))
        yield Reason(
            condition="epsilon in 365 days",
            observed=f"{epsilon:.4g} at delta {delta:g} (this contribution included)",
            required=f"<= {most:.4g}",
            retry_seconds=retry,
        )


def _highest_rho(epsilon: float, *, delta: float) -> float:
    """Return the largest rho whose epsilon is no larger, to within a part in 2^50."""
    low, high = 0.0, epsilon
    for _ in range(50):
        middle = (low + high) / 2
        if epsilon_of(middle, delta=delta) <= epsilon:
            low = middle
        else:
            high = middle
    return low
