"""The Train screen: personal training and rounds, their course, and what the accept gate said."""

from __future__ import annotations

from typing import Any, Final

from kivy.clock import Clock
from kivy.event import EventDispatcher
from kivy.properties import (
    BooleanProperty,
    ListProperty,
    NumericProperty,
    OptionProperty,
    StringProperty,
)

from pocketfl_app.device.models import GATE
from pocketfl_app.strings import has, tr
from pocketfl_app.view_models.context import AppContext
from pocketfl_app.view_models.formats import in_bytes, plain
from pocketfl_app.worker.link import DIED
from pocketfl_app.worker.messages import (
    Benchmarked,
    Cancelled,
    Event,
    Failed,
    Judged,
    Progress,
    RoundDone,
    Start,
    Trained,
)

EPOCHS: Final = 40
LEAST_DRAWINGS: Final = 5
"""What the bundled plan asks of a device; fewer cannot be learnt from anyway."""
LEAST_HELD_OUT: Final = GATE.min_examples
DEMO_SECONDS: Final = 3.0
AUTOMATIC_SECONDS: Final = 60.0
KEPT_LOSSES: Final = 2000


class TrainModel(EventDispatcher):
    """One job at a time, and the last one's result."""

    state = OptionProperty("idle", options=["idle", "running", "paused"])
    job = StringProperty("")
    headline = StringProperty("")
    steps = StringProperty("")
    progress = NumericProperty(0.0)
    losses = ListProperty([])
    loss_text = StringProperty("")
    model_text = StringProperty("")
    needs = StringProperty("")
    can_train = BooleanProperty(False)
    can_join = BooleanProperty(False)
    automatic = BooleanProperty(False)
    # The last verdict of the accept gate.
    has_verdict = BooleanProperty(False)
    accepted = BooleanProperty(False)
    verdict_title = StringProperty("")
    verdict_of = StringProperty("")
    before_text = StringProperty("")
    after_text = StringProperty("")
    verdict_text = StringProperty("")
    verdict_reason = StringProperty("")

    def __init__(self, context: AppContext, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._context = context
        self._asked = False
        context.bind(
            on_worker=self._hear, drawn=self._allow, settings=self._allow, status=self._allow
        )
        seconds = DEMO_SECONDS if context.home.demo else AUTOMATIC_SECONDS
        Clock.schedule_interval(lambda _: self._join_by_itself(), seconds)
        self._allow()

    # What the person does.

    def train(self) -> None:
        """Train on the person's own drawings."""
        if self.can_train and self.state == "idle":
            self._begin(Start(job="train", amount=EPOCHS), asked=True)

    def join(self) -> None:
        """Take part in a round now."""
        if self.can_join and self.state == "idle":
            self._begin(Start(job="round"), asked=True)

    def hold_or_go_on(self) -> None:
        """Hold the job before its next step, or let it go on."""
        if self.state == "running":
            self.state = "paused"
            self._context.control("pause")
        elif self.state == "paused":
            self.state = "running"
            self._context.control("resume")
        self._say()

    def cancel(self) -> None:
        """End the job before its next step."""
        if self.state != "idle":
            self._context.control("cancel")

    def set_automatic(self, on: bool) -> None:
        """Join rounds by itself, or not."""
        self._context.change(automatic=on)

    def _join_by_itself(self) -> None:
        idle = self.state == "idle" and not self._context.link.busy
        if self.automatic and self.can_join and idle:
            # In the demo rounds come in seconds, and the schedule of a phone would sleep through them.
            self._begin(Start(job="round", asked=self._context.home.demo), asked=False)

    def _begin(self, start: Start, *, asked: bool) -> None:
        self._asked = asked
        self.job = start.job
        if asked:
            self.state = "running"
            self._forget()
        self._context.start(start)

    def _forget(self) -> None:
        self.losses, self.progress, self.steps, self.loss_text = [], 0.0, "", ""
        self.has_verdict = False
        self._say()

    # What the worker says.

    def _hear(self, _: AppContext, event: Event) -> None:
        if isinstance(event, Progress) and self.job in ("train", "round"):
            self._advance(event)
        elif self.job == "benchmark" or isinstance(event, Benchmarked):
            return
        elif isinstance(event, Trained):
            self._trained(event)
        elif isinstance(event, RoundDone):
            self._took_part(event)
        elif isinstance(event, Cancelled):
            self._end(tr("train.cancelled") if self._asked else "")
        elif isinstance(event, Failed):
            self._end(_sentence(event.reason))

    def _advance(self, event: Progress) -> None:
        if self.state == "idle":
            # A round that began by itself has come to its training.
            self.state = "running"
            self._forget()
        self.losses = (self.losses + list(event.losses))[-KEPT_LOSSES:]
        if self.losses:
            self.loss_text = tr("train.loss.now", loss=f"{self.losses[-1]:.2f}")
        if self.job == "train":
            self.progress = event.done / max(1, event.total)
            self.steps = tr("train.steps", done=event.done, total=event.total)
        else:
            self.progress = 1.0
            self.steps = tr("train.steps_open", done=event.done)

    def _trained(self, event: Trained) -> None:
        if not event.completed or event.verdict is None:
            self._end(tr("train.cancelled"))
            return
        title = tr("train.gate.personal", steps=event.steps, seconds=f"{event.seconds:.2g}")
        self._judge(event.verdict, title)
        self._end("")
        if event.verdict.accepted:
            self._context.reload_model()

    def _took_part(self, event: RoundDone) -> None:
        if event.verdict is not None:
            self._judge(event.verdict, tr("train.gate.global", version=event.model_version))
        if event.status == "completed":
            said = tr("train.round.completed", round=event.round, bytes=in_bytes(event.bytes_up))
        elif event.resumable:
            said = tr("train.round.interrupted")
        elif event.status == "no_round":
            said = tr("train.waiting")
        else:
            said = tr("train.round.other", reason=event.reason)
        if self._asked or event.status != "no_round" or not self.headline:
            self._end(said)
        else:
            self._end(self.headline)
        if event.model_version is not None:
            self._context.reload_model()

    def _judge(self, verdict: Judged, title: str) -> None:
        self.verdict_title = title
        self.verdict_of = tr("train.result", count=verdict.examples)
        score = {"count": verdict.examples}
        self.before_text = tr("train.score", right=verdict.correct_before, **score)
        self.after_text = tr("train.score", right=verdict.correct_after, **score)
        self.accepted = verdict.accepted
        self.verdict_text = tr("train.gate.kept" if verdict.accepted else "train.gate.not_kept")
        self.verdict_reason = tr(f"train.gate.{verdict.reason}")
        self.has_verdict = True

    def _end(self, said: str) -> None:
        self.state = "idle"
        self.headline = said
        self._context.refresh()

    # What can be done now.

    def _allow(self, *_: object) -> None:
        context, drawings = self._context, self._context.drawings
        settings, status = context.settings, context.status
        self.automatic = settings.automatic
        if status is not None:
            self.model_text = _model_text(status.model.origin, status.model.version)
        if drawings is None:
            return
        missing = max(
            LEAST_DRAWINGS - drawings.training,
            # One in four is set aside.
            4 * (LEAST_HELD_OUT - drawings.held_out) - 3,
            0,
        )
        off = status is not None and status.switched_off is not None
        self.can_train = missing == 0
        enough = drawings.training >= LEAST_DRAWINGS
        self.can_join = enough and settings.site is not None and not off
        if missing > 0:
            self.needs = tr(
                "train.need_more",
                count=missing,
                training=drawings.training,
                aside=drawings.held_out,
            )
        elif settings.site is None:
            self.needs = tr("train.need_server")
        else:
            self.needs = tr("train.need_opt_in") if off else ""

    def _say(self) -> None:
        if self.state == "paused":
            self.headline = tr("train.paused")
        elif self.state == "running":
            self.headline = tr(f"train.running.{self.job}")


def _sentence(reason: str) -> str:
    if reason.startswith(DIED):
        return tr("train.died")
    known = f"train.{reason}"
    return tr(known) if has(known) else tr("train.failed", reason=reason)


def _model_text(origin: str, version: int) -> str:
    if origin == "personal" and version:
        return tr("train.model.personal_of", version=version)
    return tr(f"train.model.{origin}", version=plain(version))
