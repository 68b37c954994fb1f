"""The Privacy screen: receipts, erasing, opting out."""

from __future__ import annotations

from typing import Any, Final

from kivy.event import EventDispatcher
from kivy.properties import BooleanProperty, ListProperty, NumericProperty, StringProperty

from pocketfl.receipts import Receipt
from pocketfl.scheduling.switch import KillSwitch
from pocketfl_app.device.connection import open_device
from pocketfl_app.device.status import Status
from pocketfl_app.strings import tr
from pocketfl_app.view_models.context import AppContext
from pocketfl_app.view_models.formats import in_bytes, in_local_time, plain

SHOWN: Final = 20


class PrivacyModel(EventDispatcher):
    """What left this device, and how to stop it."""

    receipts = ListProperty([])
    """Of dicts with ``title``, ``outcome``, ``good`` and ``lines``; newest first."""
    more = StringProperty("")
    drawings = NumericProperty(0)
    drawings_text = StringProperty("")
    message = StringProperty("")
    takes_part = BooleanProperty(True)
    asking = BooleanProperty(False)
    """Whether the person is asked if the drawings shall really go."""

    def __init__(self, context: AppContext, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._context = context
        context.bind(status=lambda _, status: self._show(status), drawn=lambda *_: self._count())
        self.drawings_text = tr("privacy.data.none")

    def erase(self) -> None:
        """Erase every drawing and all that was learnt from them; ends a job that uses them."""
        self.asking = False
        context, drawings = self._context, self._context.drawings
        if drawings is None:
            return
        context.control("cancel")
        context.desk.run(drawings.erase, self._erased, failed=lambda error: self._say(str(error)))

    def _erased(self, count: int) -> None:
        self._say(tr("privacy.erased", count=count))
        self._context.drawn += 1
        self._context.reload_model()
        self._context.refresh()

    def set_part(self, on: bool) -> None:
        """Take part in rounds, or opt out: what waits is given up, the server's token dropped."""
        context = self._context
        self.takes_part = on
        if not on:
            context.control("cancel")
        context.desk.run(lambda: self._switch(on), lambda _: context.refresh())

    def _switch(self, on: bool) -> None:
        context = self._context
        if context.store is None:
            return
        if on:
            KillSwitch(context.store.database).enable()
        elif context.settings.site is None:
            KillSwitch(context.store.database).disable(tr("privacy.opted_out"))
        else:
            with open_device(
                context.store, context.settings, context.bundle.trust, context.home
            ) as device:
                device.opt_out(tr("privacy.opted_out"))

    def _say(self, text: str) -> None:
        self.message = text

    def _show(self, status: Status) -> None:
        self.receipts = [_describe(receipt) for receipt in status.receipts[:SHOWN]]
        older = len(status.receipts) - SHOWN
        self.more = tr("privacy.more", count=older) if older > 0 else ""
        self.takes_part = status.switched_off is None

    def _count(self) -> None:
        drawings = self._context.drawings
        self.drawings = 0 if drawings is None else sum(drawings.counts())
        self.drawings_text = (
            tr("privacy.data.count", count=self.drawings)
            if self.drawings
            else tr("privacy.data.none")
        )


def _describe(receipt: Receipt) -> dict[str, Any]:
    lines = [
        tr(
            "privacy.sent",
            bytes=in_bytes(receipt.bytes_up or receipt.report_bytes),
            when=in_local_time(receipt.prepared_at),
        )
    ]
    if receipt.noise_multiplier is None:
        lines.append(tr("privacy.no_noise"))
    else:
        lines.append(tr("privacy.noise", noise=plain(receipt.noise_multiplier)))
        lines.append(
            tr(
                "privacy.epsilon",
                epsilon=plain(receipt.epsilon or 0.0),
                total=plain(receipt.epsilon_so_far or 0.0),
            )
        )
    lines.append(
        tr(
            "privacy.key",
            key=receipt.aggregator_key_id[:12],
            attestation=receipt.attestation,
        )
    )
    lines.append(tr("privacy.cohort", count=receipt.cohort_floor))
    return {
        "title": tr("privacy.round", round=receipt.round, task=receipt.task),
        "outcome": tr(f"privacy.outcome.{receipt.outcome}"),
        "good": receipt.outcome == "accepted",
        "lines": "\n".join(lines),
    }
