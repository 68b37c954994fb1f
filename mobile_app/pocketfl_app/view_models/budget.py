"""The Budget screen: what rounds have cost, and the most they may cost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kivy.event import EventDispatcher
from kivy.properties import ListProperty, OptionProperty, StringProperty

from pocketfl.budgets import Amounts, Limits
from pocketfl_app.device.status import Status
from pocketfl_app.strings import tr
from pocketfl_app.view_models.context import AppContext
from pocketfl_app.view_models.formats import in_bytes, in_joules, in_seconds, plain


class BudgetModel(EventDispatcher):
    """One gauge per measure."""

    window = OptionProperty("today", options=["today", "month"])
    gauges = ListProperty([])
    """Of dicts with ``name``, ``value``, ``limit`` and ``share`` (0 to 1)."""
    note = StringProperty("")

    def __init__(self, context: AppContext, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._context = context
        context.bind(status=lambda *_: self._show())
        self.bind(window=lambda *_: self._show())

    def _show(self) -> None:
        status: Status | None = self._context.status
        if status is None:
            return
        today = self.window == "today"
        used = status.today if today else status.month
        limits = status.budgets.per_day if today else status.budgets.per_month
        self.gauges = [*_gauges(used, limits), _epsilon(status)]
        self.note = tr(
            "budget.epsilon.note",
            epsilon=plain(status.privacy.epsilon),
            delta=f"{status.privacy.delta:g}",
        )


def _gauges(used: Amounts, limits: Limits) -> list[dict[str, Any]]:
    received = used.bytes_down_metered + used.bytes_down_unmetered
    down = [limits.bytes_down_metered, limits.bytes_down_unmetered]
    most_down = None if None in down else sum(filter(None, down))
    return [
        _gauge("cpu_seconds", used.cpu_seconds, limits.cpu_seconds, in_seconds),
        _gauge("joules", used.joules, limits.joules, in_joules),
        _gauge("bytes_up", used.bytes_up, limits.bytes_up, in_bytes),
        _gauge("bytes_down", received, most_down, in_bytes),
        _gauge("contributions", used.contributions, limits.contributions, plain),
    ]


def _epsilon(status: Status) -> dict[str, Any]:
    limit = status.budgets.max_epsilon_per_year
    return _gauge("epsilon", status.privacy.epsilon, limit, plain)


def _gauge(
    name: str, used: float, limit: float | None, write: Callable[[float], str]
) -> dict[str, Any]:
    # A limit of nothing is used up from the start.
    share = 0.0 if limit is None else 1.0 if limit == 0 else min(1.0, used / limit)
    return {
        "name": tr(f"budget.{name}"),
        "value": write(used),
        "limit": (tr("budget.no_limit") if limit is None else tr("budget.of", limit=write(limit))),
        "share": share,
        "full": share >= 1.0,
    }
