"""Which open round this device takes part in, decided on the device before it says a word."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from pocketfl.device.attempt import Attempt, RoundEnd
from pocketfl.device.guardrails import Guardrails
from pocketfl.device.limits import DeviceLimits
from pocketfl.device.plans import OpenPlan
from pocketfl.device.sources import ModelSource
from pocketfl.errors import FeatureError, ModelStoppedError, PocketFLError
from pocketfl.protocol import RoundNotice
from pocketfl.reasons import Reason
from pocketfl.rollout import RolloutBook
from pocketfl.sampling import Participation
from pocketfl.store import ExampleStore


class RoundChoice:
    """Looks at open rounds one by one: plan, limits, eligibility, coin.

    Parameters
    ----------
    store : ExampleStore
        The device's examples.
    source : ModelSource
        Its plans.
    participation : Participation
        Its coin, and what it took part in.
    limits : DeviceLimits
        What it agrees to at most.
    guardrails : Guardrails
        Its conditions and budgets.
    rollouts : RolloutBook
        Say which models may not be trained any more.
    runtime : str
        What it trains with.
    clock : callable
        Unix time in seconds.
    """

    def __init__(
        self,
        store: ExampleStore,
        *,
        source: ModelSource,
        participation: Participation,
        limits: DeviceLimits,
        guardrails: Guardrails,
        rollouts: RolloutBook,
        runtime: str,
        clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._source = source
        self._participation = participation
        self._limits = limits
        self._guardrails = guardrails
        self._rollouts = rollouts
        self._runtime = runtime
        self._clock = clock

    def choose(
        self, attempt: Attempt, notices: Iterable[RoundNotice], *, task: str | None
    ) -> tuple[RoundNotice, OpenPlan]:
        """Return the first open round that this device shall take part in.

        Raises
        ------
        RoundEnd
            If there is none, saying why.
        """
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

    def objections(self, opened: OpenPlan) -> tuple[Reason, ...]:
        """Return why this device would refuse a plan that it knows, whatever its state is now."""
        try:
            self._limits.check(opened.plan.manifest)
            self._check_eligibility(opened)
        except (PocketFLError, RoundEnd) as error:
            end = error if isinstance(error, RoundEnd) else RoundEnd.of(error)
            fitting = Reason(
                condition=f"plan {opened.plan.manifest.name!r}",
                observed=f"not for this device ({end.reason})",
                required="one that fits",
            )
            return (fitting,)
        return ()

    def _consider(self, attempt: Attempt, notice: RoundNotice) -> OpenPlan:
        if notice.closes_at <= self._clock():
            raise RoundEnd("no_round", "round_closed", "the round's deadline has passed")
        fetching = self._guardrails.fetching(task=notice.task, round=notice.round)
        with attempt.phase("plan"), fetching as watch:
            opened = self._source.plan(notice.plan_sha256, watch=watch)
        self._limits.check(opened.plan.manifest)
        try:
            self._rollouts.require_usable(notice.task, opened.plan.manifest)
        except ModelStoppedError as error:
            raise RoundEnd("ineligible", "model_stopped", str(error)) from None
        _check_clip_norm(notice, opened)
        with attempt.phase("eligibility"):
            heads = self._participation.would_be_heads(
                task=notice.task,
                round=notice.round,
                manifest_sha256=opened.manifest_sha256,
                aggregation=opened.plan.manifest.aggregation,
            )
            # Tails need no look into the store; heads are recorded only for a device that can train.
            standing = (
                self._participation.standing(task=notice.task, round=notice.round)
                if heads
                else None
            )
            if heads and standing is None:
                self._check_eligibility(opened)
            # A coin that was tossed before, by a run that got no place, does not stand for today.
            if heads and standing in (None, "tossed"):
                self._guardrails.require(opened.plan.manifest, task=notice.task, round=notice.round)
        with attempt.phase("coin"):
            self._toss(notice, opened)
        return opened

    def _check_eligibility(self, opened: OpenPlan) -> None:
        manifest = opened.plan.manifest
        if manifest.model is not None and self._runtime not in manifest.runtimes:
            raise RoundEnd(
                "ineligible",
                "runtime_unavailable",
                f"the plan has no parts for {self._runtime}, only for {sorted(manifest.runtimes)}",
            )
        name = manifest.features.collection
        collection = self._store.find_collection(name)
        if collection is None:
            if manifest.kind != "training":
                return
            raise RoundEnd("ineligible", "no_collection", f"this device has no collection {name!r}")
        try:
            opened.pipeline.check(collection)
        except FeatureError as error:
            raise RoundEnd("ineligible", "features", str(error)) from None
        # To have no data is no reason to stay away from a question: who answers would tell.
        if manifest.kind != "training":
            return
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
            separation=opened.plan.manifest.min_separation,
        )
        what = f"round {notice.round} of {notice.task!r}"
        if toss.state == "tails":
            raise RoundEnd("not_sampled", "tails", f"the coin for {what} came up tails")
        if toss.state == "separated":
            raise RoundEnd(
                "not_sampled",
                "separated",
                f"{what} comes too soon after one that this device was in",
            )
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
            # There is no session to go on with: its collection was revoked, or an earlier version of
            # the SDK began it. Whether a report got out is unknown, so none is made again.
            self._participation.advance(task=notice.task, round=notice.round, state="abandoned")
            raise RoundEnd("failed", "interrupted", f"{what} was interrupted, and is abandoned")


def _check_clip_norm(notice: RoundNotice, opened: OpenPlan) -> None:
    """Refuse a clip norm that the modeller did not sign, before the coin is tossed."""
    try:
        opened.plan.manifest.aggregation.in_round(notice.clip_norm)
    except ValueError as error:
        raise RoundEnd("ineligible", "clip_norm_refused", str(error)) from None
