"""How much a device spends at most: per round, day, month and year, and for one task.

Three parties have a say: this SDK's hard bounds, the app, and the signed plan of a task. Each may
make the limits of those before it tighter and none can make them wider.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Any, Final

from pocketfl.budgets.amounts import MEASURES

_LARGEST: Final = 1e15


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The most of each measure within one window; None leaves it to the other parties.

    Attributes
    ----------
    cpu_seconds, wall_seconds, joules : float, optional
        Sums over the window.
    bytes_up, bytes_up_metered, bytes_down_metered, bytes_down_unmetered : int, optional
        Sums over the window; ``bytes_up`` counts metered links too.
    contributions : int, optional
        Reports, of all tasks together.
    peak_memory_bytes, storage_bytes : int, optional
        Of any one session of the window.
    """

    cpu_seconds: float | None = None
    wall_seconds: float | None = None
    bytes_up: int | None = None
    bytes_up_metered: int | None = None
    bytes_down_metered: int | None = None
    bytes_down_unmetered: int | None = None
    joules: float | None = None
    contributions: int | None = None
    peak_memory_bytes: int | None = None
    storage_bytes: int | None = None

    def __post_init__(self) -> None:
        for name in MEASURES:
            _check(name, getattr(self, name), highest=_LARGEST)

    def tightened(self, other: Limits) -> Limits:
        """Return the lower limit of each measure."""
        return Limits(**{n: _lower(getattr(self, n), getattr(other, n)) for n in MEASURES})


@dataclass(frozen=True, kw_only=True)
class Budgets:
    """Limits of every window; what is left out is left to the other parties.

    Attributes
    ----------
    per_round : Limits
        For one round of one task, resumed sessions included.
    per_day, per_month : Limits
        For any 24 hours and any 30 days that end now, over all tasks.
    min_separation_seconds : float
        Least time between two contributions to one task.
    max_contributions_per_task : int, optional
        Most contributions to one task over the life of this install.
    max_epsilon_per_year : float, optional
        Most privacy loss of this device in any 365 days that end now, over all tasks; see
        :mod:`pocketfl.budgets.epsilon`.
    delta : float, optional
        The delta at which that epsilon is stated.
    """

    per_round: Limits = field(default_factory=Limits)
    per_day: Limits = field(default_factory=Limits)
    per_month: Limits = field(default_factory=Limits)
    min_separation_seconds: float = 0.0
    max_contributions_per_task: int | None = None
    max_epsilon_per_year: float | None = None
    delta: float | None = None

    def __post_init__(self) -> None:
        _check("min_separation_seconds", self.min_separation_seconds, highest=365 * 86_400.0)
        _check("max_contributions_per_task", self.max_contributions_per_task, highest=_LARGEST)
        _check("max_epsilon_per_year", self.max_epsilon_per_year, highest=1e6)
        if self.delta is not None and not 1e-15 <= self.delta <= 0.01:
            raise ValueError(f"delta must be 1e-15 to 0.01, not {self.delta!r}")

    def tightened(self, other: Budgets) -> Budgets:
        """Return budgets that keep to both: the lower of each limit, the longer separation."""
        return Budgets(
            per_round=self.per_round.tightened(other.per_round),
            per_day=self.per_day.tightened(other.per_day),
            per_month=self.per_month.tightened(other.per_month),
            min_separation_seconds=max(self.min_separation_seconds, other.min_separation_seconds),
            max_contributions_per_task=_lower(
                self.max_contributions_per_task, other.max_contributions_per_task
            ),
            max_epsilon_per_year=_lower(self.max_epsilon_per_year, other.max_epsilon_per_year),
            # A smaller delta states the same loss as a larger epsilon, so it is the tighter one.
            delta=_lower(self.delta, other.delta),
        )


def _check(name: str, value: float | None, *, highest: float) -> None:
    if value is not None and not (math.isfinite(value) and 0 <= value <= highest):
        raise ValueError(f"{name} must be 0 to {highest:g}, not {value!r}")


def _lower(one: Any, other: Any) -> Any:
    if one is None or other is None:
        return other if one is None else one
    return min(one, other)


_MEBIBYTE: Final = 2**20

HARD_BOUNDS: Final = Budgets(
    per_round=Limits(
        cpu_seconds=1800.0,
        wall_seconds=3600.0,
        bytes_up=256 * _MEBIBYTE,
        bytes_up_metered=64 * _MEBIBYTE,
        bytes_down_metered=64 * _MEBIBYTE,
        bytes_down_unmetered=1024 * _MEBIBYTE,
        joules=5000.0,
        contributions=1,
        peak_memory_bytes=2048 * _MEBIBYTE,
        storage_bytes=2048 * _MEBIBYTE,
    ),
    per_day=Limits(
        cpu_seconds=7200.0,
        wall_seconds=14_400.0,
        bytes_up=1024 * _MEBIBYTE,
        bytes_up_metered=128 * _MEBIBYTE,
        bytes_down_metered=128 * _MEBIBYTE,
        bytes_down_unmetered=4096 * _MEBIBYTE,
        joules=12_000.0,
        contributions=1000,
        peak_memory_bytes=2048 * _MEBIBYTE,
        storage_bytes=2048 * _MEBIBYTE,
    ),
    per_month=Limits(
        cpu_seconds=100_000.0,
        wall_seconds=200_000.0,
        bytes_up=8192 * _MEBIBYTE,
        bytes_up_metered=1024 * _MEBIBYTE,
        bytes_down_metered=1024 * _MEBIBYTE,
        bytes_down_unmetered=32_768 * _MEBIBYTE,
        joules=150_000.0,
        contributions=10_000,
        peak_memory_bytes=2048 * _MEBIBYTE,
        storage_bytes=2048 * _MEBIBYTE,
    ),
    max_contributions_per_task=100_000,
    max_epsilon_per_year=1000.0,
    delta=1e-3,
)
"""What no app can go beyond. A phone's battery holds some 60,000 joules, so a day may take a fifth."""

DEFAULT_BUDGETS: Final = Budgets(
    per_round=Limits(
        cpu_seconds=120.0,
        wall_seconds=600.0,
        bytes_up=32 * _MEBIBYTE,
        bytes_up_metered=8 * _MEBIBYTE,
        bytes_down_metered=8 * _MEBIBYTE,
        bytes_down_unmetered=64 * _MEBIBYTE,
        joules=300.0,
        contributions=1,
        peak_memory_bytes=256 * _MEBIBYTE,
        storage_bytes=256 * _MEBIBYTE,
    ),
    per_day=Limits(
        cpu_seconds=600.0,
        wall_seconds=3600.0,
        bytes_up=64 * _MEBIBYTE,
        bytes_up_metered=16 * _MEBIBYTE,
        bytes_down_metered=16 * _MEBIBYTE,
        bytes_down_unmetered=256 * _MEBIBYTE,
        joules=1200.0,
        contributions=24,
    ),
    per_month=Limits(
        cpu_seconds=7200.0,
        wall_seconds=36_000.0,
        bytes_up=512 * _MEBIBYTE,
        bytes_up_metered=64 * _MEBIBYTE,
        bytes_down_metered=64 * _MEBIBYTE,
        bytes_down_unmetered=2048 * _MEBIBYTE,
        joules=20_000.0,
        contributions=240,
    ),
    max_contributions_per_task=10_000,
    max_epsilon_per_year=50.0,
    delta=1e-6,
).tightened(HARD_BOUNDS)
"""What an app gets that states nothing: at most some 2 % of a phone's battery a day."""


def agreed_budgets(*, app: Budgets = DEFAULT_BUDGETS, plan: Budgets | None = None) -> Budgets:
    """Return what holds for a task: the hard bounds, tightened by the app, then by the plan.

    Parameters
    ----------
    app : Budgets
        What the app sets; what it leaves out is bounded by :data:`HARD_BOUNDS` alone.
    plan : Budgets, optional
        What the signed plan asks for; wider limits than the app's have no effect.

    Raises
    ------
    ValueError
        If the app sets a limit beyond a hard bound, naming it.
    """
    for name, part, bounds in (
        ("per_round.", app.per_round, HARD_BOUNDS.per_round),
        ("per_day.", app.per_day, HARD_BOUNDS.per_day),
        ("per_month.", app.per_month, HARD_BOUNDS.per_month),
        ("", app, HARD_BOUNDS),
    ):
        for each in fields(part):
            value, bound = getattr(part, each.name), getattr(bounds, each.name)
            upper = each.name != "min_separation_seconds" and isinstance(bound, int | float)
            if upper and value is not None and value > bound:
                raise ValueError(
                    f"the app's budget {name}{each.name} is {value:g}, beyond the hard bound "
                    f"{bound:g}: lower it"
                )
    agreed = HARD_BOUNDS.tightened(app)
    return agreed if plan is None else agreed.tightened(plan)
