"""Taking a version into use: what the rollout says, then what the device's own examples say to it."""

from __future__ import annotations

from collections.abc import Container, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pocketfl.decoding import decode_json, encode_json
from pocketfl.device.models import ModelInfo
from pocketfl.device.plans import OpenPlan
from pocketfl.device.sources import ModelSource
from pocketfl.errors import (
    DecodeError,
    FeatureError,
    ModelStoppedError,
    PlanError,
    RolloutError,
    RuntimeUnavailableError,
    StoreError,
    TrainingError,
)
from pocketfl.funnel import DayLog, event
from pocketfl.plan.acceptance import AcceptanceSpec
from pocketfl.protocol import RolloutNotice
from pocketfl.queries.spec import FunnelEvent
from pocketfl.rollout import STABLE, Bucket, Channel, Rollout, RolloutBook, RolloutModel
from pocketfl.runtimes import FloatVector
from pocketfl.store import ExampleStore, derived_state
from pocketfl.transport import DownloadWatch, Transport

if TYPE_CHECKING:
    from pocketfl.training import LocalEvaluation, Verdict

_REFUSED_LIMIT: Final = 4096


@dataclass(frozen=True, kw_only=True)
class DeploymentInfo:
    """Where a task's rollout stands on this device; stays on the device.

    Attributes
    ----------
    task : str
        Whose model.
    sequence : int
        Number of the rollout document.
    channel : str
        That this device belongs to: ``stable``, or one of the document's.
    model : ModelInfo or None
        What :meth:`Device.predict` uses; None while nothing was taken into use, or the model is
        stopped.
    refused : RolloutModel or None
        The version that this device's own examples spoke against.
    stopped : str or None
        Why the model is stopped, if it is.
    """

    task: str
    sequence: int
    channel: str
    model: ModelInfo | None
    refused: RolloutModel | None = None
    stopped: str | None = None


@dataclass(frozen=True, kw_only=True)
class _Refused:
    """A version that was refused under a document, so that it is not judged at every look."""

    sequence: int
    model: RolloutModel


class Deployment:
    """Obeys one device's rollouts.

    Parameters
    ----------
    store : ExampleStore
        Holds the examples that a new version is judged on.
    transport : Transport
        The line to the back end.
    source : ModelSource
        Plans and models.
    book : RolloutBook
        Rollout documents.
    channel : str
        What the app is built for.
    runtime : str
        What evaluates and predicts.
    log : DayLog
        Where outcomes are counted.
    """

    def __init__(
        self,
        store: ExampleStore,
        transport: Transport,
        *,
        source: ModelSource,
        book: RolloutBook,
        channel: str,
        runtime: str,
        log: DayLog,
    ) -> None:
        self._store = store
        self._transport = transport
        self._source = source
        self._book = book
        self._bucket = Bucket(store.database)
        self._channel = channel
        self._runtime = runtime
        self._log = log

    def hear(
        self, announced: Iterable[RolloutNotice] | None, *, tasks: Container[str]
    ) -> list[str]:
        """Fetch rollout documents that are new to this device; returns the tasks that have one.

        Parameters
        ----------
        announced : iterable of RolloutNotice or None
            Of every task that the back end has, those of other apps included.
        tasks : container of str
            Those that are this device's business.

        Raises
        ------
        RolloutError
            If one is forged, replayed or unreadable; the one before stays in force.
        TransportError
            If one cannot be downloaded.
        """
        found = []
        for notice in announced or ():
            if notice.task not in tasks:
                continue
            found.append(notice.task)
            if self._book.has(notice.task, notice.sha256):
                continue
            try:
                self._book.accept(notice.task, self._transport.rollout(notice.sha256))
            except RolloutError:
                self._count(event("error", "trust"))
                raise
        return found

    def tasks(self) -> set[str]:
        """Return the tasks of which this device has a model or a rollout."""
        return {*self._book.all(), *self._source.deployed(), *self._source.models()}

    def governs(self, task: str) -> bool:
        """Say whether a rollout decides what this task predicts with."""
        return self._book.current(task) is not None or task in self._source.deployed()

    def model_in_use(self, task: str) -> ModelInfo:
        """Return the model that a task predicts with; takes it into use if that was not done yet.

        Raises
        ------
        ModelStoppedError
            If the model is stopped, or what this device has is too old and nothing newer was accepted.
        PlanError, TransportError
            If nothing is in use yet, and the version cannot be had.
        """
        model = self._source.deployed().get(task) or self.apply(task)
        opened = self._source.plan(model.plan_sha256)
        self._book.require_usable(task, opened.plan.manifest)
        return model

    def apply(self, task: str, *, watch: DownloadWatch | None = None) -> ModelInfo:
        """Take into use what a task's rollout says, if this device's own examples allow it.

        Parameters
        ----------
        task : str
            Whose rollout.
        watch : DownloadWatch, optional
            Asked while the version is downloaded.

        Returns
        -------
        ModelInfo
            What is in use from now on: the new version, or the one before.

        Raises
        ------
        ModelStoppedError
            If the model is stopped, or no usable version was accepted.
        PlanError, TransportError
            If the version cannot be had; what was in use stays so.
        """
        rollout = self._book.current(task)
        used = self._source.deployed().get(task)
        if rollout is None:
            if used is None:
                raise PlanError(f"task {task!r} has no rollout")
            return used
        if rollout.stable is None:
            raise ModelStoppedError(f"the model of {task!r} is stopped: {rollout.stopped}")
        channel = self._channel_of(rollout)
        wanted = rollout.stable if channel is None else channel.model
        target = _info(task, wanted)
        # Before its first rollout a device predicts with what rounds brought.
        before = used or self._source.models().get(task)
        opened = self._source.plan(target.plan_sha256, watch=watch)
        self._book.require_usable(task, opened.plan.manifest)
        if target == used:
            return target
        goes_back = before is not None and (
            rollout.rolls_back
            or (
                before.plan_sha256 == target.plan_sha256
                and target.model_version < before.model_version
            )
        )
        if not goes_back and before is not None and self._was_refused(rollout, wanted, opened):
            return self._keep(before, used)
        vector = self._source.find_parameters(target, opened, watch=watch)
        why = None if goes_back else self._objection(target, opened, vector, before)
        if why is not None:
            self._note_refusal(rollout, wanted, opened, why)
            if before is None:
                raise ModelStoppedError(
                    f"this device cannot run version {wanted.version} of {task!r}, the first that it "
                    "was offered"
                )
            return self._keep(before, used)
        kind = "rollback" if goes_back else STABLE if channel is None else "canary"
        with self._store.database.transaction():
            self._source.deploy(target, opened, vector)
            self._log.count([event("deployed", kind)])
        return target

    def infos(self) -> tuple[DeploymentInfo, ...]:
        """Return where the rollout of each task stands."""
        found = []
        for task, rollout in self._book.all().items():
            channel = self._channel_of(rollout)
            refused = self._read_refused(task)
            stands = refused is not None and refused.sequence == rollout.sequence
            found.append(
                DeploymentInfo(
                    task=task,
                    sequence=rollout.sequence,
                    channel=STABLE if channel is None else channel.name,
                    model=None if rollout.stopped else self._source.deployed().get(task),
                    refused=refused.model if refused is not None and stands else None,
                    stopped=rollout.stopped,
                )
            )
        return tuple(found)

    def _channel_of(self, rollout: Rollout) -> Channel | None:
        bucket = self._bucket.of(rollout.task, salt=rollout.salt)
        return rollout.channel_of(channel=self._channel, bucket=bucket)

    def _keep(self, before: ModelInfo, used: ModelInfo | None) -> ModelInfo:
        """Go on with the version before, and from now on whatever rounds bring."""
        if used is None:
            opened = self._source.plan(before.plan_sha256)
            vector = self._source.find_parameters(before, opened)
            with self._store.database.transaction():
                self._source.deploy(before, opened, vector)
        return before

    # The gate.

    def _objection(
        self,
        target: ModelInfo,
        opened: OpenPlan,
        vector: FloatVector,
        before: ModelInfo | None,
    ) -> FunnelEvent | None:
        """Return what speaks against a version on this device; None where nothing does."""
        manifest = opened.plan.manifest
        if manifest.kind != "training" or self._runtime not in manifest.runtimes:
            return event("refused", "unusable")
        try:
            if self._store.has_collection(manifest.features.collection):
                opened.pipeline.check(self._store.collection(manifest.features.collection))
            verdict = None if before is None else self._judge(opened, vector, before)
        except (FeatureError, RuntimeUnavailableError):
            return event("refused", "unusable")
        return event("refused", "worse") if verdict is not None and not verdict.accepted else None

    def _judge(self, opened: OpenPlan, vector: FloatVector, before: ModelInfo) -> Verdict | None:
        """Compare two versions on the examples set aside; None where these say nothing."""
        manifest = opened.plan.manifest
        spec = manifest.acceptance or AcceptanceSpec()
        collection = spec.collection or manifest.features.collection
        if (
            not self._store.has_collection(collection)
            or self._store.count(collection) < spec.min_examples
        ):
            return None
        new = self._evaluate(opened, vector, collection=collection, limit=spec.max_examples)
        if new is None:
            return None
        old = None
        # An older plan that cannot be used any more, or reads other fields, is no yardstick.
        with suppress(FeatureError, PlanError, RuntimeUnavailableError):
            known = self._source.plan(before.plan_sha256)
            if known.plan.manifest.features.label == manifest.features.label:
                old = self._evaluate(
                    known,
                    self._source.find_parameters(before, known),
                    collection=collection,
                    limit=spec.max_examples,
                )
        if old is None or old.examples != new.examples or old.examples < spec.min_examples:
            return None
        # A device that meets no new version need not keep this in memory.
        from pocketfl.training import AcceptGate

        return AcceptGate.of(spec).judge(old, new)

    def _evaluate(
        self, opened: OpenPlan, vector: FloatVector, *, collection: str, limit: int
    ) -> LocalEvaluation | None:
        from pocketfl.training import LocalTrainer

        trainer = LocalTrainer(opened.plan, self._store, runtime=self._runtime, parameters=vector)
        # Examples without a label are no yardstick, either.
        with trainer, suppress(TrainingError):
            return trainer.evaluate(collection=collection, max_examples=limit)
        return None

    # What was refused; erased with the examples that spoke against it.

    def _was_refused(self, rollout: Rollout, wanted: RolloutModel, opened: OpenPlan) -> bool:
        refused = self._read_refused(rollout.task, opened)
        return refused == _Refused(sequence=rollout.sequence, model=wanted)

    def _note_refusal(
        self, rollout: Rollout, wanted: RolloutModel, opened: OpenPlan, why: FunnelEvent
    ) -> None:
        record = _Refused(sequence=rollout.sequence, model=wanted)
        with self._store.database.transaction():
            self._store.database.write_state(
                _refused_state(opened, rollout.task), encode_json(record)
            )
            self._log.count([why])

    def _read_refused(self, task: str, opened: OpenPlan | None = None) -> _Refused | None:
        if opened is None:
            rollout = self._book.current(task)
            if rollout is None or rollout.stable is None:
                return None
            channel = self._channel_of(rollout)
            wanted = rollout.stable if channel is None else channel.model
            with suppress(PlanError):
                opened = self._source.kept_plan(wanted.plan_sha256)
            if opened is None:
                return None
        kept = self._store.database.read_state(_refused_state(opened, task))
        if kept is None:
            return None
        try:
            return decode_json(_Refused, kept, what="refused version", limit=_REFUSED_LIMIT)
        except DecodeError:
            return None

    def _count(self, what: FunnelEvent) -> None:
        # A disk that is full must not hide why a rollout was refused.
        with suppress(StoreError):
            self._log.count([what])


def _info(task: str, model: RolloutModel) -> ModelInfo:
    return ModelInfo(
        task=task,
        model_version=model.version,
        plan_sha256=model.plan_sha256,
        parameters_sha256=model.parameters_sha256,
    )


def _refused_state(opened: OpenPlan, task: str) -> str:
    collection = opened.plan.manifest.features.collection
    return derived_state(collection, f"rollout_refused/{task}")
