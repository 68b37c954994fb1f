"""The device: a federated round from the notice to the upload, and prediction.

The server proposes, the device decides. It believes what a plan's signature vouches for, seals only to
a trusted tier that its verifier accepts, keeps to its app's limits, tosses its own coin, and reports at
most once per round.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Self, TextIO

import numpy as np
from numpy.typing import NDArray

from pocketfl.attestation.heads import HeadGuard
from pocketfl.budgets import DEFAULT_BUDGETS, Budgets, Meter
from pocketfl.conditions import ConditionSpec, PlatformSignals, SignalProvider
from pocketfl.device.admission import Admission
from pocketfl.device.attempt import Attempt, RoundEnd
from pocketfl.device.contribution import Contribution
from pocketfl.device.deployment import Deployment, DeploymentInfo
from pocketfl.device.enrolment import DeviceToken, FeatureDownloads
from pocketfl.device.explanation import Explanation, explain
from pocketfl.device.guardrails import Guardrails
from pocketfl.device.hooks import SessionHooks
from pocketfl.device.leases import Leases
from pocketfl.device.limits import DeviceLimits
from pocketfl.device.models import ModelInfo, ModelShelf
from pocketfl.device.objections import Objections
from pocketfl.device.outcome import RoundOutcome
from pocketfl.device.plans import PlanCache
from pocketfl.device.prediction import Prediction
from pocketfl.device.rounds import RoundChoice
from pocketfl.device.sessions import PendingSession, Sessions
from pocketfl.device.sources import ModelSource
from pocketfl.device.turns import Turns
from pocketfl.errors import (
    AggregatorRefusedError,
    KeyConsistencyError,
    PocketFLError,
    StoreError,
    TransportError,
)
from pocketfl.funnel import DayLog
from pocketfl.funnel.hooks import FunnelHooks
from pocketfl.ledger import Ledger
from pocketfl.plan.signing import parse_public_keys
from pocketfl.receipts import Receipts
from pocketfl.rollout import STABLE, RolloutBook
from pocketfl.sampling import Participation
from pocketfl.scheduling import Scheduler
from pocketfl.sealing import AggregatorVerifier, RefuseEveryAggregator
from pocketfl.store import ExampleStore
from pocketfl.training import CheckpointPolicy
from pocketfl.transport import HttpTransport, Transport

if TYPE_CHECKING:
    from pocketfl.credentials.directory import KeyDirectory
    from pocketfl.credentials.wallet import Wallet


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
    conditions : ConditionSpec, optional
        The app's own, which tighten every plan's; none by default.
    budgets : Budgets, optional
        The app's own, which every plan can only tighten;
        :data:`~pocketfl.budgets.DEFAULT_BUDGETS` by default.
    signals : SignalProvider, optional
        The state of this device; the platform's own by default.
    meter : callable, optional
        Makes the meter of a session; by default one that counts the whole process.
    hard_stop_seconds : float or None
        How long a condition may stay broken until the step under way is cancelled, where the runtime
        can; None lets every step end by itself.
    plans : PlanCache, optional
        Shares verified plans and opened runtimes among the devices of one process. Such a device keeps
        no model in its store: the process has it.
    features_max_age : float
        Seconds after which server-side features are asked for again.
    seed : int, optional
        Makes the choice and order of training examples reproducible; never the coin or the rounding.
    checkpoints : CheckpointPolicy, optional
        How often training is written down.
    anonymous : bool
        Check in with single-use tokens that name nobody. They are fetched by :meth:`run_due` at times
        of their own, or by :meth:`fetch_tokens`; a round for which there is none is left out.
    rollout_keys : iterable of str or bytes, optional
        Ed25519 public keys of those who decide which version the fleet predicts with; those of
        ``plan_keys`` by default.
    channel : str
        What this app is built for, such as ``canary`` for testers; see :mod:`pocketfl.rollout`.
    hooks : SessionHooks, optional
        What else happens when a session moves on.
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
        conditions: ConditionSpec | None = None,
        budgets: Budgets = DEFAULT_BUDGETS,
        signals: SignalProvider | None = None,
        meter: Callable[[], Meter] = Meter,
        hard_stop_seconds: float | None = 5.0,
        plans: PlanCache | None = None,
        features_max_age: float = 86_400.0,
        seed: int | None = None,
        checkpoints: CheckpointPolicy | None = None,
        anonymous: bool = False,
        rollout_keys: Iterable[str | bytes] | None = None,
        channel: str = STABLE,
        hooks: SessionHooks | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._clock = clock
        self._running = threading.Lock()
        self._owned_transport = HttpTransport(server) if isinstance(server, str) else None
        self._transport: Transport = self._owned_transport or server  # type: ignore[assignment]
        self._owned_plans = PlanCache() if plans is None else None
        limits = limits if limits is not None else DeviceLimits()
        verifier = aggregator if aggregator is not None else RefuseEveryAggregator()
        aggregator = HeadGuard(verifier, store.database)
        self._ledger = Ledger(store.database, clock=clock)
        self._admission = Admission(
            store.database,
            ledger=self._ledger,
            signals=signals if signals is not None else PlatformSignals(store.database.path),
            conditions=conditions if conditions is not None else ConditionSpec.none(),
            budgets=budgets,
            clock=clock,
        )
        log = DayLog(store.database, clock=clock)
        self._funnel = FunnelHooks(log, inner=hooks if hooks is not None else SessionHooks())
        self._guardrails = Guardrails(
            store.database,
            transport=self._transport,
            admission=self._admission,
            ledger=self._ledger,
            meter=meter,
            hard_stop_seconds=hard_stop_seconds,
            evidence=aggregator.evidence,
            inner=self._funnel,
            clock=clock,
        )
        participation = Participation(store.database, clock=clock)
        self._sessions = Sessions(store.database)
        self._token = DeviceToken(store, self._transport, enrolment_key=enrolment_key, user=user)
        self._wallet: Wallet | None = None
        directory: KeyDirectory | None = None
        if anonymous:
            # Blind signatures are for those who use them; others need not keep their code in memory.
            from pocketfl.credentials.directory import DirectoryVerifier, KeyDirectory
            from pocketfl.credentials.wallet import Wallet

            if not isinstance(verifier, DirectoryVerifier):
                raise ValueError(
                    "anonymous=True needs an aggregator that also verifies token keys, such as "
                    "AttestedAggregator: without one a back end could give each device keys of its own"
                )
            directory = KeyDirectory(verifier, store.database)
            self._wallet = Wallet(
                store.database,
                self._transport,
                directory=directory,
                device_token=self._token.get,
                clock=clock,
            )
        leases = Leases(
            store,
            self._transport,
            token=self._token,
            wallet=self._wallet,
            runtime=runtime,
            user=user,
            seed=seed,
            clock=clock,
        )
        trusted_keys = parse_public_keys(plan_keys)
        self._rollouts = RolloutBook(
            store.database,
            trusted_keys=trusted_keys if rollout_keys is None else parse_public_keys(rollout_keys),
        )
        self._source = ModelSource(
            self._transport,
            shelf=ModelShelf(store.database),
            plans=plans if plans is not None else self._owned_plans,  # type: ignore[arg-type]
            keeps_models=plans is None,
            trusted_keys=trusted_keys,
        )
        self._deployment = Deployment(
            store,
            self._transport,
            source=self._source,
            book=self._rollouts,
            channel=channel,
            runtime=runtime,
            log=log,
        )
        self._prediction = Prediction(
            store,
            self._transport,
            source=self._source,
            deployment=self._deployment,
            runtime=runtime,
            clock=clock,
        )
        choice = RoundChoice(
            store,
            source=self._source,
            participation=participation,
            limits=limits,
            guardrails=self._guardrails,
            rollouts=self._rollouts,
            runtime=runtime,
            clock=clock,
        )
        self._contribution = Contribution(
            store,
            self._transport,
            source=self._source,
            features=FeatureDownloads(
                store,
                self._transport,
                token=self._token,
                max_age=features_max_age,
                clock=clock,
            ),
            sessions=self._sessions,
            participation=participation,
            aggregator=aggregator,
            limits=limits,
            runtime=runtime,
            checkpoints=checkpoints if checkpoints is not None else CheckpointPolicy(),
            hooks=self._guardrails,
            log=log,
            clock=clock,
        )
        self._objections = Objections(
            self._sessions,
            source=self._source,
            admission=self._admission,
            choice=choice,
            directory=directory,
        )
        self._turns = Turns(
            store.database,
            self._transport,
            admission=self._admission,
            guardrails=self._guardrails,
            choice=choice,
            leases=leases,
            contribution=self._contribution,
            source=self._source,
            scheduler=lambda: self.scheduler,
        )

    # When to take part.

    @cached_property
    def scheduler(self) -> Scheduler[RoundOutcome]:
        """Says when this device tries to take part, and remembers it over restarts."""
        return Scheduler(
            self,
            database=self._store.database,
            switch=self._admission.switch,
            clock=self._clock,
        )

    def fetch_tokens(self, task: str) -> int:
        """Fetch anonymous tokens for a task's next rounds; returns how many came.

        :meth:`run_due` does it by itself. An app that calls this does so at times that have nothing to
        do with rounds, such as at install: the back end sees who fetches.

        Raises
        ------
        TransportError
            If the server cannot be reached or refuses.
        CredentialError
            If what it answers is not what was asked for, or not what it was before.
        AggregatorRefusedError
            If no trusted tier vouches for the keys.
        ValueError
            If this device does not check in anonymously.
        """
        if self._wallet is None:
            raise ValueError("this device was not made with anonymous=True; it needs no tokens")
        return self._wallet.refill(task)

    def _fetch_due_tokens(self) -> bool:
        """Fetch tokens for every task that has few; if it did, nothing else happens in this run."""
        if self._wallet is None or not self.scheduler.decide().due:
            return False
        fetched = False
        with suppress(TransportError):
            for task in sorted({notice.task for notice in self._transport.notices().notices}):
                if self._wallet.is_due(task):
                    fetched = True
                    # What was wrong with the keys, explain() says.
                    with suppress(KeyConsistencyError, AggregatorRefusedError):
                        self._wallet.refill(task)
        return fetched

    def run_due(self) -> tuple[RoundOutcome, ...]:
        """Take part if it is time to, and no other process of this app is at it.

        What an app calls whenever the system lets it work in the background; see
        :meth:`~pocketfl.scheduling.Scheduler.run_due`.
        """
        if self._fetch_due_tokens():
            self._guardrails.receipts.account()
            return ()
        outcomes = self.scheduler.run_due()
        if outcomes:
            # A device that had a reason to ask no server asks none now, either.
            if any("notices" in outcome.phases for outcome in outcomes):
                self._look_for_rollouts()
            self._guardrails.receipts.account()
        return outcomes

    def _look_for_rollouts(self) -> None:
        """Obey rollouts; a version is downloaded and judged only under the app's own conditions."""
        with suppress(PocketFLError):
            announced = self._transport.notices().rollouts
            tasks = self._deployment.hear(announced, tasks=self._deployment.tasks())
            if tasks and not self._admission.unmet(None):
                for task in tasks:
                    fetching = self._guardrails.fetching(task=task, round=0)
                    with suppress(PocketFLError), fetching as watch:
                        self._deployment.apply(task, watch=watch)

    def stop(self) -> None:
        """Have the session under way stop at its next batch; it goes on another time."""
        self._guardrails.stop()

    def explain(self, *, task: str | None = None, file: TextIO | None = None) -> Explanation:
        """Say why this device is or is not going to train now, and when it will try again.

        Looks at schedule, conditions, budgets and the plans that are known; asks no server, tosses no
        coin and sets nothing aside.

        Parameters
        ----------
        task : str, optional
            Of which task; by default the one of those known that stands the best chance.
        file : TextIO, optional
            Where to print the explanation; standard output by default.

        Returns
        -------
        Explanation
            What was printed, as values.
        """
        decision = self.scheduler.decide()
        explanation = explain(
            decision.reasons + self._objections.of(task),
            now=self._clock(),
            scheduled=decision.next_attempt,
            off=decision.next_attempt is None,
        )
        print(explanation, file=file)
        return explanation

    @property
    def receipts(self) -> Receipts:
        """What left this device, and what for."""
        return self._guardrails.receipts

    @property
    def ledger(self) -> Ledger:
        """What this device's rounds cost it."""
        return self._ledger

    # A federated round.

    def run_once(self, *, task: str | None = None) -> RoundOutcome:
        """Take part in one open round, if there is one and everything speaks for it.

        A session that an earlier run began, and that was interrupted or could not upload its report,
        comes first: it goes on where it stopped, within its lease.

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
            return self._run(attempt, task)
        finally:
            self._running.release()

    def _run(self, attempt: Attempt, task: str | None) -> RoundOutcome:
        self._guardrails.begin_run()
        self._funnel.run_began()
        end = RoundEnd("completed", "reported", "the report was uploaded")
        try:
            self._turns.take(attempt, task)
        except RoundEnd as ended:
            self._guardrails.say_why(ended)
            end = ended
        except PocketFLError as error:
            end = RoundEnd.of(error)
        except Exception as error:
            self._funnel.run_crashed(error)
            raise
        outcome = attempt.outcome(end)
        self._funnel.run_ended(outcome, reasons=self._guardrails.stop_reasons)
        return outcome

    @property
    def pending(self) -> tuple[PendingSession, ...]:
        """Sessions that wait to go on, the oldest first."""
        return self._sessions.pending()

    def enrol(self) -> None:
        """Get this device's token now, as an app does at install, not at the first check-in.

        Does nothing when the device has one. Makes the tables that rounds will need, too.

        Raises
        ------
        TransportError
            If the server cannot be reached or refuses, or there is no enrolment key.
        """
        self._guardrails.prepare_tables()
        try:
            self._token.get()
        except RoundEnd as end:
            raise TransportError(str(end), code=end.code) from None

    def opt_out(self, reason: str = "opted out") -> int:
        """Stop taking part, for good: a person's decision, and no server is asked.

        Training is switched off over restarts and in all processes, sessions that wait are given up
        with their checkpoints and reports, and the token by which the back end knows this device is
        dropped. Examples, receipts and the latest model stay; :meth:`ExampleStore.revoke` erases
        examples. To take part again, ``scheduler.switch.enable()``: the device enrols anew.

        Parameters
        ----------
        reason : str
            A few words for :meth:`explain`, see :meth:`KillSwitch.disable`.

        Returns
        -------
        int
            Sessions that were given up. A report that may have arrived before cannot be taken back; its
            receipt says ``unknown``.
        """
        self._admission.switch.disable(reason)
        abandoned = self._contribution.abandon_all(code="opted_out")
        self._token.forget()
        return abandoned

    # The model.

    def refresh_model(self, *, task: str | None = None) -> ModelInfo | None:
        """Look for what to predict with: the version of the rollout, or else of an open round.

        A version of a rollout is judged on this device's own examples first, unless it is older than
        the one in use: a rollback is obeyed at once. :meth:`run_due` looks for rollouts, too.

        Parameters
        ----------
        task : str, optional
            Whose model; the first announced by default.

        Returns
        -------
        ModelInfo or None
            The model that :meth:`predict` uses from now on; None if nothing announces one.

        Raises
        ------
        TransportError
            If the server cannot be reached.
        PlanError
            If the plan or its parameters cannot be trusted.
        RolloutError
            If the rollout is forged, replayed, or stops the model.
        """
        return self._prediction.refresh(task=task)

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
            Outputs by name, one row per example; for a single mapping the row itself. Where the plan
            balances classes, its output is corrected to the classes' shares in life.

        Raises
        ------
        PlanError
            If there is no model yet and no round announces one.
        ModelStoppedError
            If the task's rollout stops its model.
        FeatureError
            Naming field and row.
        TransportError
            If there is no model yet and the server cannot be reached.
        """
        return self._prediction.predict(examples, task=task, times=times)

    @property
    def models(self) -> tuple[ModelInfo, ...]:
        """The models that this device has, one per task."""
        return tuple(self._source.models().values())

    @property
    def deployments(self) -> tuple[DeploymentInfo, ...]:
        """Where the rollout of each task stands on this device."""
        return self._deployment.infos()

    def close(self) -> None:
        """Close runtimes and connections that this device opened; the store stays open."""
        if self._owned_plans is not None or self._guardrails.has_receipts:
            # An app may have closed its store before; a device is closed all the same.
            with suppress(StoreError):
                self._guardrails.receipts.account()
        if self._owned_transport is not None:
            self._owned_transport.close()
        if self._owned_plans is not None:
            self._owned_plans.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
