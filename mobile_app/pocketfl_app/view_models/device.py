"""The state of the device in words, for the Train screen."""

from __future__ import annotations

import time
from typing import Any

from kivy.event import EventDispatcher
from kivy.properties import BooleanProperty, ListProperty, StringProperty

from pocketfl.conditions import Signals, Thermal
from pocketfl.reasons import Reason, format_wait
from pocketfl_app.device.status import Status
from pocketfl_app.strings import tr
from pocketfl_app.view_models.context import AppContext
from pocketfl_app.view_models.formats import in_bytes

_REASON_OF = {
    "battery": "battery",
    "charging": "charging",
    "network": "network",
    "heat": "thermal status",
    "storage": "free storage",
}
"""The SDK's word for what a row shows."""


class DeviceModel(EventDispatcher):
    """Battery, power, network, heat, storage, and what the SDK makes of them."""

    rows = ListProperty([])
    """Of dicts with ``name``, ``value``, ``word`` and ``fine``."""
    verdict = StringProperty("")
    ready = BooleanProperty(False)

    def __init__(self, context: AppContext, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        context.bind(status=lambda _, status: self._show(status))

    def _show(self, status: Status) -> None:
        broken = {reason.condition for reason in status.broken}
        self.rows = [
            {
                "name": tr(f"device.{name}"),
                "value": value,
                "fine": _REASON_OF[name] not in broken,
                "word": tr("device.waits" if _REASON_OF[name] in broken else "device.fine"),
            }
            for name, value in _values(status.signals).items()
        ]
        explanation = status.explanation
        self.ready = explanation.eligible
        if explanation.eligible:
            self.verdict = tr("device.ready")
            return
        said = [tr("device.skipped", why="; ".join(map(_words, explanation.reasons)))]
        if explanation.next_attempt is None or explanation.window is None:
            said.append(tr("device.no_next"))
        else:
            left = max(0.0, explanation.next_attempt - time.time())
            window = (left, max(left, explanation.window[1]))
            said.append(tr("device.next", wait=format_wait(window)))
        self.verdict = " ".join(said)


def _words(reason: Reason) -> str:
    return str(reason)


def _values(signals: Signals) -> dict[str, str]:
    unknown = tr("device.unknown")
    level, heat, free = signals.battery_level, signals.thermal, signals.free_storage_bytes
    return {
        "battery": unknown if level is None else f"{100 * level:.0f} %",
        "charging": _either(signals.charging, "device.charging.yes", "device.charging.no"),
        "network": _either(signals.metered, "device.network.metered", "device.network.unmetered"),
        "heat": unknown if heat is None else _heat(heat),
        "storage": unknown if free is None else tr("device.bytes_free", bytes=in_bytes(free)),
    }


def _either(value: bool | None, if_true: str, if_false: str) -> str:
    if value is None:
        return tr("device.unknown")
    return tr(if_true if value else if_false)


def _heat(heat: Thermal) -> str:
    if heat <= Thermal.LIGHT:
        return tr(f"device.heat.{heat.name.lower()}")
    return tr("device.heat.other", name=heat.name.lower())
