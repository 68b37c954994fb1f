"""The device: a federated round from the notice to the upload, and prediction.

The server proposes, the device decides. It believes what a plan's signature vouches for, seals only to
a trusted tier that its verifier accepts, keeps to its app's limits, tosses its own coin, and reports at
most once per round.
"""

from __future__ import annotations

import random
import secrets
import struct
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import sha256
from types import TracebackType
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from pocketfl import __version__
from pocketfl.device.attempt import Attempt, RoundEnd
from pocketfl.device.limits import DeviceLimits
from pocketfl.device.models import ModelInfo, ModelShelf, parse_parameters
from pocketfl.device.outcome import RoundOutcome
from pocketfl.device.plans import OpenPlan, PlanCache
from pocketfl.errors import FeatureError, PlanError, PocketFLError, TransportError
from pocketfl.features.loading import load_arrays, load_inputs
from pocketfl.plan.manifest import SCHEMA_VERSION
from pocketfl.plan.signing import parse_public_keys
from pocketfl.protocol import (
    Assignment,
    CheckIn,
    EnrolmentRequest,
    RetryWindow,
    RoundNotice,
)
from pocketfl.reports import SealedReport, make_report
from pocketfl.runtimes import FloatVector
from pocketfl.sampling import Participation
from pocketfl.sealing import AggregatorVerifier, RefuseEveryAggregator, ReportContext, key_id
from pocketfl.store import ExampleStore
from pocketfl.training import train_locally
from pocketfl.transport import HttpTransport, Transport

MAX_FEATURE_PAGES: Final = 1000

_TOKEN_STATE: Final = "enrolment.token"  # noqa: S105 - where the token is kept, not the token


class Device:
    """One install of an app that takes part in federated rounds; a context manager.

    Parameters
    ----------
    store : ExampleStore
        The device's examples; its file also keeps the coin's secret, the device token, what rounds
        were taken part in, and the latest model. Stays open when the device is closed.
    server : str or Transport
        URL of the back end, or a transport to it.
    plan_keys : iterable of str or bytes
        Ed25519 public keys of the modellers whose plans are trusted.
    aggregator : AggregatorVerifier, optional
        Decides which trusted tier may read reports. Without one, none may, and no round completes.
    enrolment_key : str, optional
        The app's key for enrolling; needed until the device has its token.
    user : str
        The app's name for the user, for server-side features; a random name without one.
    runtime : {"onnxruntime", "executorch"}
        Which mobile runtime trains and predicts.
    limits : DeviceLimits, optional
        What this device agrees to at most.
    plans : PlanCache, optional
        Shares verified plans and opened runtimes among the devices of one process. Such a device keeps
        no model in its store: the process has it.
    features_max_age : float
        Seconds after which server-side features are asked for again.
    seed : int, optional
        Makes the choice and order of training examples reproducible; never the coin or the rounding.
    clock : callable, optional
        Unix time in seconds.

    Notes
    -----
    Methods may be called from several threads; a second ``run_once`` while one is under way returns at
    once. Being eligible is no secret: a back end sees which devices check in.
    """

    def __init__(
        self,
        store: ExampleStore,
        *,
        server: str | Transport,
        plan_keys: Iterable[str | bytes],
        aggregator: AggregatorVerifier | None = None,
        enrolment_key: str | None = None,
        user: str = "",
        runtime: str = "onnxruntime",
        limits: DeviceLimits | None = None,
        plans: PlanCache | None = None,
        features_max_age: float = 86_400.0,
        seed: int | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._plan_keys = parse_public_keys(plan_keys)
        self._aggregator = aggregator if aggregator is not None else RefuseEveryAggregator()
        self._enrolment_key = enrolment_key
        self._user = user
        self._runtime = runtime
        self._limits = limits if limits is not None else DeviceLimits()
        self._features_max_age = features_max_age
        self._seed = seed
        self._clock = clock
        self._participation = Participation(store.database, clock=clock)
        self._shelf = ModelShelf(store.database)
        self._keeps_models = plans is None
        self._plans = plans if plans is not None else PlanCache()
        self._known_plans: set[str] = set()
        self._models: dict[str, ModelInfo] | None = None
        self._parameters: tuple[str, FloatVector] | None = None
        self._running = threading.Lock()
        self._owned_transport = HttpTransport(server) if isinstance(server, str) else None
        self._transport: Transport = self._owned_transport or server  # type: ignore[assignment]

    # A federated round, phase by phase.

    def run_once(self, *, task: str | None = None) -> RoundOutcome:
        """Take part in one open round, if there is one and everything speaks for it.

        Parameters
        ----------
        task : str, optional
            Take part in this task only.

        Returns
        -------
        RoundOutcome
            What became of it. Failures of network, server or plan are outcomes, not exceptions.
        """
        attempt = Attempt(self._transport)
        if not self._running.acquire(blocking=False):
            return attempt.outcome(RoundEnd("failed", "busy", "a round is under way already"))
        try:
            self._take_part(attempt, task)
        except RoundEnd as end:
            return attempt.outcome(end)
        except PocketFLError as error:
            return attempt.outcome(RoundEnd.of(error))
        finally:
            self._running.release()
        return attempt.outcome(RoundEnd("completed", "reported", "the report was uploaded"))

    def _take_part(self, attempt: Attempt, task: str | None) -> None:
        notice, opened = self._find_round(attempt, task)
        with attempt.phase("check_in"):
            assignment = self._check_in(notice)
        try:
            report = self._train_and_report(attempt, notice, opened, assignment)
            with attempt.phase("upload"):
                self._check_lease(assignment)
                self._transport.upload(assignment.lease, report)
        except (PocketFLError, RoundEnd):
            # The report may have arrived although its answer did not, so there is never another one.
            self._participation.advance(task=notice.task, round=notice.round, state="abandoned")
            raise
        self._participation.advance(task=notice.task, round=notice.round, state="uploaded")

    def _find_round(self, attempt: Attempt, task: str | None) -> tuple[RoundNotice, OpenPlan]:
        """Return the first open round that this device shall take part in."""
        with attempt.phase("notices"):
            notices = self._transport.notices().notices
        found: RoundNotice | None = None
        end = RoundEnd("no_round", "no_round", "no round is open")
        for notice in notices:
            if task not in (None, notice.task):
                continue
            attempt.notice = notice
            try:
                return notice, self._consider(attempt, notice)
            except RoundEnd as ended:
                this_end = ended
            except PocketFLError as error:
                this_end = RoundEnd.of(error)
            # Of several rounds, report the one that says most: others were merely not its turn.
            if found is None or end.status in ("no_round", "not_sampled"):
                found, end = notice, this_end
        attempt.notice = found
        raise end

    def _consider(self, attempt: Attempt, notice: RoundNotice) -> OpenPlan:
        if notice.closes_at <= self._clock():
            raise RoundEnd("no_round", "round_closed", "the round's deadline has passed")
        with attempt.phase("plan"):
            opened = self._open_plan(notice.plan_sha256)
        self._limits.check(opened.plan.manifest)
        with attempt.phase("eligibility"):
            heads = self._participation.would_be_heads(
                task=notice.task,
                round=notice.round,
                manifest_sha256=opened.manifest_sha256,
                aggregation=opened.plan.manifest.aggregation,
            )
            # Tails need no look into the store; heads are recorded only for a device that can train.
            if heads:
                self._check_eligibility(opened)
        with attempt.phase("coin"):
            self._toss(notice, opened)
        return opened

    def _check_eligibility(self, opened: OpenPlan) -> None:
        manifest = opened.plan.manifest
        if self._runtime not in manifest.runtimes:
            raise RoundEnd(
                "ineligible",
                "runtime_unavailable",
                f"the plan has no parts for {self._runtime}, only for {sorted(manifest.runtimes)}",
            )
        name = manifest.features.collection
        collections = {collection.name: collection for collection in self._store.collections()}
        if name not in collections:
            raise RoundEnd("ineligible", "no_collection", f"this device has no collection {name!r}")
        try:
            opened.pipeline.check(collections[name])
        except FeatureError as error:
            raise RoundEnd("ineligible", "features", str(error)) from None
        count, needed = self._store.count(name), manifest.eligibility.min_examples
        if count < needed:
            raise RoundEnd(
                "ineligible", "too_few_examples", f"{count} examples, the plan needs {needed}"
            )

    def _toss(self, notice: RoundNotice, opened: OpenPlan) -> None:
        aggregation = opened.plan.manifest.aggregation
        toss = self._participation.toss(
            task=notice.task,
            round=notice.round,
            manifest_sha256=opened.manifest_sha256,
            aggregation=aggregation,
        )
        what = f"round {notice.round} of {notice.task!r}"
        if toss.state == "tails":
            raise RoundEnd("not_sampled", "tails", f"the coin for {what} came up tails")
        if toss.state == "capped":
            raise RoundEnd(
                "cap_reached",
                "cap_reached",
                f"this device took part {toss.heads} times; the plan's cap is "
                f"{aggregation.max_participations}",
            )
        if toss.state == "uploaded":
            raise RoundEnd("no_round", "already_reported", f"{what} has this device's report")
        if toss.state == "abandoned":
            raise RoundEnd("no_round", "abandoned", f"{what} was abandoned on this device")
        if toss.state == "training":
            # Whether a report got out before the process ended is unknown, so none is made again.
            self._participation.advance(task=notice.task, round=notice.round, state="abandoned")
            raise RoundEnd("failed", "interrupted", f"{what} was interrupted, and is abandoned")

    def _check_in(self, notice: RoundNotice) -> Assignment:
        request = CheckIn(
            sdk=__version__, plan_schemas=(SCHEMA_VERSION,), runtimes=(self._runtime,)
        )
        token = self._token()
        try:
            answer = self._transport.check_in(token, notice.task, notice.round, request)
        except TransportError as error:
            if error.status == 401:
                self._store.database.delete_state(_TOKEN_STATE)
            raise
        if isinstance(answer, RetryWindow):
            raise RoundEnd(
                "turned_away",
                answer.reason,
                f"the server has no place in round {notice.round} ({answer.reason})",
                retry_after=random.uniform(answer.min_seconds, answer.max_seconds),  # noqa: S311
            )
        self._participation.advance(task=notice.task, round=notice.round, state="training")
        return answer

    def enrol(self) -> None:
        """Get this device's token now, as an app does at install, not at the first check-in.

        Does nothing when the device has one.

        Raises
        ------
        TransportError
            If the server cannot be reached or refuses, or there is no enrolment key.
        """
        try:
            self._token()
        except RoundEnd as end:
            raise TransportError(str(end), code=end.code) from None

    def _token(self) -> str:
        kept = self._store.database.read_state(_TOKEN_STATE)
        if kept is not None:
            return kept.decode()
        if self._enrolment_key is None:
            raise RoundEnd(
                "failed",
                "not_enrolled",
                "this device has no token yet; give the device an enrolment_key",
            )
        # Nobody's features are joined under a name made up here, and no two devices share it.
        user = self._user or f"anonymous-{secrets.token_hex(16)}"
        request = EnrolmentRequest(user=user, sdk=__version__)
        token = self._transport.enrol(self._enrolment_key, request).token
        self._store.database.write_state(_TOKEN_STATE, token.encode())
        return token

    def _train_and_report(
        self, attempt: Attempt, notice: RoundNotice, opened: OpenPlan, assignment: Assignment
    ) -> SealedReport:
        plan = opened.plan
        _check_assignment(assignment, notice)
        self._check_lease(assignment)
        public_key = self._aggregator.verify(
            assignment.aggregator, policy_hash=opened.policy_hash, plan_sha256=plan.sha256
        )
        with attempt.phase("parameters"):
            start = self._fetch_model(ModelInfo.of(notice), opened)
        with attempt.phase("features"):
            self._refresh_features(opened)
        update = self._train(attempt, notice, opened, start)
        with attempt.phase("report"):
            context = ReportContext(
                key_id=key_id(public_key),
                policy_hash=opened.policy_hash,
                plan_sha256=plan.sha256,
                task=notice.task,
                round=notice.round,
                model_version=notice.model_version,
                lease=assignment.lease,
            )
            return make_report(update, plan=plan, context=context, public_key=public_key)

    def _check_lease(self, assignment: Assignment) -> None:
        if assignment.expires_at <= self._clock():
            raise RoundEnd(
                "failed",
                "lease_expired",
                "the lease has expired (if that is not so, this device's clock is wrong)",
            )

    def _refresh_features(self, opened: OpenPlan) -> None:
        table = opened.plan.manifest.features.server_table
        if table is None:
            return
        database = self._store.database
        name, now = f"features_fetched_at/{table.name}", self._clock()
        kept = database.read_state(name)
        if kept is not None and len(kept) == 8:
            (fetched_at,) = struct.unpack("<d", kept)
            if 0 <= now - fetched_at < self._features_max_age:
                return
        token = self._token()
        cursor = self._store.server_features_cursor(table.name)
        for _ in range(MAX_FEATURE_PAGES):
            page = self._transport.features(token, table.name, cursor)
            self._store.put_server_features(table.name, page.rows, cursor=page.next_cursor)
            if page.next_cursor is None:
                database.write_state(name, struct.pack("<d", now))
                return
            if page.next_cursor == cursor:
                break
            cursor = page.next_cursor
        raise TransportError(
            f"the server's pages of table {table.name!r} do not come to an end",
            code="endless_pages",
        )

    def _train(
        self, attempt: Attempt, notice: RoundNotice, opened: OpenPlan, start: FloatVector
    ) -> NDArray[np.float64]:
        """Return the trained parameters minus the ones that training started from, shape (P,)."""
        manifest = opened.plan.manifest
        seed = self._training_seed(notice)
        with attempt.phase("select"):
            arrays = load_arrays(
                self._store, opened.pipeline, limit=manifest.training.max_examples, seed=seed
            )
        if len(arrays["target"]) == 0:
            # Whether examples turn out to be usable is the device's own business: it reports zeros, and
            # the number of reports does not depend on data.
            return np.zeros(start.shape)
        with attempt.phase("train"), opened.runtime(self._runtime) as runtime:
            runtime.set_parameters(start)
            attempt.training = train_locally(
                runtime,
                arrays,
                manifest.training,
                batch_size=manifest.model.batch_size,
                seed=seed,
            )
            return runtime.parameters().astype(np.float64) - start

    def _training_seed(self, notice: RoundNotice) -> int:
        if self._seed is None:
            return secrets.randbits(62)
        text = f"{self._seed}/{self._user}/{notice.task}/{notice.round}"
        return int.from_bytes(sha256(text.encode()).digest()[:7], "big")

    # Plans and models.

    def _open_plan(self, digest: str) -> OpenPlan:
        """Return a verified plan: as opened before, from the store, or downloaded."""
        opened = self._plans.find(digest, trusted_keys=self._plan_keys)
        if opened is not None and digest in self._known_plans:
            return opened
        if opened is None and self._keeps_models:
            kept = self._shelf.plan(digest)
            if kept is not None:
                opened = self._plans.load(kept, trusted_keys=self._plan_keys)
        if opened is None or not self._keeps_models:
            # With shared plans the download is still this device's own, and accounted as such.
            data = self._transport.plan(digest)
            if opened is None:
                opened = self._plans.load(data, trusted_keys=self._plan_keys)
        if opened.plan.sha256 != digest:
            raise PlanError("the server sent another plan than the one it announced")
        self._known_plans.add(digest)
        return opened

    def _fetch_model(self, model: ModelInfo, opened: OpenPlan) -> FloatVector:
        """Return a model's parameters from memory, store or server, and keep it as the latest."""
        vector = self._fetch_parameters(model, opened)
        if self._known_models().get(model.task) == model and self._parameters is not None:
            return vector
        if self._keeps_models:
            data = vector.astype("<f4").tobytes()
            self._shelf.put(model, plan=opened.plan.data, parameters=data)
            self._parameters = (model.parameters_sha256, vector)
        self._known_models()[model.task] = model
        return vector

    def _fetch_parameters(self, model: ModelInfo, opened: OpenPlan) -> FloatVector:
        digest = model.parameters_sha256
        count = opened.plan.manifest.model.parameter_count
        if self._parameters is not None and self._parameters[0] == digest:
            vector = self._parameters[1]
            if len(vector) != count:
                raise PlanError(f"{len(vector)} parameters, not the {count} of this plan")
            return vector
        if self._keeps_models:
            kept = self._shelf.parameters(digest)
            if kept is not None:
                return parse_parameters(kept, digest=digest, count=count)
        return parse_parameters(self._transport.parameters(digest), digest=digest, count=count)

    def refresh_model(self, *, task: str | None = None) -> ModelInfo | None:
        """Fetch the newest model that an open round announces, for prediction.

        Parameters
        ----------
        task : str, optional
            Whose model; the first announced by default.

        Returns
        -------
        ModelInfo or None
            The model that :meth:`predict` uses from now on; None if no round announces one.

        Raises
        ------
        TransportError
            If the server cannot be reached.
        PlanError
            If the plan or its parameters cannot be trusted.
        """
        for notice in self._transport.notices().notices:
            if task in (None, notice.task):
                model = ModelInfo.of(notice)
                self._fetch_model(model, self._open_plan(model.plan_sha256))
                return model
        return None

    def predict(
        self,
        examples: Mapping[str, object] | Sequence[Mapping[str, object]],
        *,
        task: str | None = None,
        times: Sequence[float] | None = None,
    ) -> dict[str, NDArray[np.generic]]:
        """Run the latest model that this device has; works without a network once it has one.

        Parameters
        ----------
        examples : mapping, or sequence of mapping
            One or more examples as the app writes them, without the label.
        task : str, optional
            Whose model; needed when the device has models of several tasks.
        times : sequence of float, optional
            Unix time of each in seconds, for the join with server-side features; now by default.

        Returns
        -------
        dict of str to ndarray
            Outputs by name, one row per example; for a single mapping the row itself.

        Raises
        ------
        PlanError
            If there is no model yet and no round announces one.
        FeatureError
            Naming field and row.
        TransportError
            If there is no model yet and the server cannot be reached.
        """
        rows = [examples] if isinstance(examples, Mapping) else list(examples)
        moments = [self._clock()] * len(rows) if times is None else list(times)
        if len(moments) != len(rows):
            raise ValueError(f"{len(rows)} examples, but {len(moments)} times")
        model = self._choose_model(task)
        opened = self._open_plan(model.plan_sha256)
        parameters = self._fetch_model(model, opened)
        inputs = load_inputs(self._store, opened.pipeline, rows, times=moments)
        with opened.runtime(self._runtime) as runtime:
            runtime.set_parameters(parameters)
            outputs = runtime.predict(inputs)
        if isinstance(examples, Mapping):
            return {name: values[0] for name, values in outputs.items()}
        return outputs

    @property
    def models(self) -> tuple[ModelInfo, ...]:
        """The models that this device has, one per task."""
        return tuple(self._known_models().values())

    def _known_models(self) -> dict[str, ModelInfo]:
        if self._models is None:
            self._models = self._shelf.models() if self._keeps_models else {}
        return self._models

    def _choose_model(self, task: str | None) -> ModelInfo:
        known = self._known_models()
        if task is not None and task in known:
            return known[task]
        if task is None and len(known) == 1:
            return next(iter(known.values()))
        if task is None and known:
            raise ValueError(f"this device has models of {sorted(known)}: say which task")
        model = self.refresh_model(task=task)
        if model is None:
            raise PlanError("this device has no model yet, and no open round announces one")
        return model

    def close(self) -> None:
        """Close runtimes and connections that this device opened; the store stays open."""
        if self._owned_transport is not None:
            self._owned_transport.close()
        if self._keeps_models:
            self._plans.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _check_assignment(assignment: Assignment, notice: RoundNotice) -> None:
    for field in ("task", "round", "model_version", "plan_sha256", "parameters_sha256"):
        announced, assigned = getattr(notice, field), getattr(assignment, field)
        if announced != assigned:
            raise RoundEnd(
                "failed",
                "assignment_mismatch",
                f"the server announced {field} {announced!r} to everybody and gave this device "
                f"{assigned!r}",
            )
