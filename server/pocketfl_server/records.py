"""What the back end tells its operator: frozen records, the same in process and over HTTP."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal

from pocketfl.plan.manifest import Kind, Privacy
from pocketfl.plan.storage import Storage
from pocketfl.protocol import AggregatorKey, FeatureRow
from pocketfl.rollout import Rollout
from pocketfl_server.daily_hours import DailyHours
from pocketfl_server.optimizers import OptimizerSpec

Role = Literal["viewer", "operator", "modeller", "administrator"]
RoundState = Literal["open", "closing", "aborting", "finished", "aborted"]
NextStep = Literal["round_closes", "round_opens", "resume", "nothing"]
MAX_ROUND_SECONDS: Final = 30 * 86_400


@dataclass(frozen=True, kw_only=True)
class ModelReference:
    """One version of one task's model."""

    task: str
    version: int


@dataclass(frozen=True, kw_only=True)
class Concurrency:
    """What makes a task's rounds asynchronous, where its plan allows that.

    Attributes
    ----------
    selection_size : int
        Most devices that train at once, whichever model version they have.
    open_slots : int
        Once so many places are taken, how many have to be free before devices are let in again;
        1 fills each place at once, ``selection_size`` waits for all.
    reports_per_release : int
        Reports after which the trusted tier releases; at least the plan's cohort floor.
    """

    selection_size: int
    open_slots: int
    reports_per_release: int

    def __post_init__(self) -> None:
        if not 1 <= self.selection_size <= 10_000_000:
            raise ValueError("selection_size must be 1 to 10,000,000")
        if not 1 <= self.open_slots <= self.selection_size:
            raise ValueError("open_slots must be 1 to selection_size")
        if not 1 <= self.reports_per_release <= 10_000_000:
            raise ValueError("reports_per_release must be 1 to 10,000,000")


@dataclass(frozen=True, kw_only=True)
class TaskRecord:
    """A task and where it stands.

    Attributes
    ----------
    kind : {"training", "analytics", "evaluation"}
        Of the plan.
    privacy : {"gaussian", "none"}
        Of the plan; ``none`` labels every model of the task for life.
    state : {"active", "finished"}
        A finished task opens no further round.
    finished_reason : str or None
        ``budget_exhausted``, ``max_rounds_reached`` or ``diverged``.
    latest_version : int
        Newest model version; 0 is the one that the task started from.
    aggregator : AggregatorKey
        Public key of the trusted tier for this task: what an app pins.
    optimizer : OptimizerSpec or None
        The server's; None for a task that trains nothing.
    seed_model : ModelReference or None
        Whose parameters version 0 is, if not the plan's own.
    concurrency : Concurrency or None
        Of asynchronous rounds.
    rounds_per_token : int
        Rounds that follow each other and for one of which an anonymous token is good.
    """

    name: str
    plan_sha256: str
    kind: Kind = "training"
    privacy: Privacy
    state: Literal["active", "finished"]
    finished_reason: str | None = None
    latest_version: int
    aggregator: AggregatorKey
    optimizer: OptimizerSpec | None = None
    seed_model: ModelReference | None = None
    concurrency: Concurrency | None = None
    rounds_per_token: int = 1
    created_at: float


@dataclass(frozen=True, kw_only=True)
class ModelVersion:
    """One version of a task's model and what it cost.

    Attributes
    ----------
    parameters_sha256 : str
        Where to download it.
    storage : {"float32", "float16"}
        What the download is made of.
    privacy : {"gaussian", "none"}
        ``none``: no differential privacy, for life.
    round : int or None
        The round it came of; ``None`` for version 0.
    reports : int or None
        Number of reports in that round's sum.
    noise_multiplier, epsilon, epsilon_against_back_end, delta : float or None
        What the task has spent up to this version, as the trusted tier stated it; ``None`` where
        nothing is claimed, and for version 0. A model that another seeded adds that one's.
    """

    task: str
    version: int
    parameters_sha256: str
    storage: Storage = "float32"
    privacy: Privacy
    round: int | None = None
    reports: int | None = None
    noise_multiplier: float | None = None
    epsilon: float | None = None
    epsilon_against_back_end: float | None = None
    delta: float | None = None
    created_at: float


@dataclass(frozen=True, kw_only=True)
class RoundResult:
    """A round and what came of it.

    Attributes
    ----------
    state : str
        ``finished`` made a new version, ``aborted`` made none; the others are under way.
    reason : str or None
        Why it was aborted: ``floor_not_reached``, ``budget_exhausted``, ``round_full``
        (more reports than the plan's population could have sent), ``diverged`` (parameters would not
        be finite), ``operator``, ``left_out`` (a shard's round whose sum the root did without).
    model_version : int
        Version that devices started from.
    new_version : int or None
        Version that the round made.
    """

    task: str
    round: int
    state: RoundState
    reason: str | None = None
    model_version: int
    new_version: int | None = None
    opened_at: float
    closes_at: float
    ended_at: float | None = None


@dataclass(frozen=True, kw_only=True)
class Funnel:
    """How many devices got how far in a round; counts, never names.

    Attributes
    ----------
    checked_in : int
        Check-ins of enrolled devices: leases plus those turned away.
    turned_away : dict of str to int
        Check-ins without a lease, by reason.
    leases : int
        Places given out.
    uploaded : int
        Sealed reports received in time.
    accepted : int or None
        Reports in the released sum; ``None`` before there is one.
    rejected : dict of str to int
        Reports that the trusted tier left out, by reason.
    """

    task: str
    round: int
    checked_in: int
    turned_away: dict[str, int]
    leases: int
    uploaded: int
    accepted: int | None = None
    rejected: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class FleetVersions:
    """What devices that got a place in a round run; coarse counts, never names.

    Attributes
    ----------
    round : int
        The last one that has ended.
    sdk : dict of str to int
        Devices by version of the SDK, in whole tens; versions of fewer than 20 are ``other`` together,
        and are left out if even that is fewer.
    plan_schema : dict of str to int
        The same by the newest plan schema that they understand.
    """

    task: str
    round: int
    sdk: dict[str, int]
    plan_schema: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class CreateTask:
    """Request: make a task of an uploaded plan; one that trains needs an optimizer."""

    name: str
    plan_sha256: str
    optimizer: OptimizerSpec | None = None
    seed_model: ModelReference | None = None
    concurrency: Concurrency | None = None
    rounds_per_token: int | None = None


@dataclass(frozen=True, kw_only=True)
class OpenRound:
    """Request: open a task's next round for so many seconds.

    Attributes
    ----------
    number : int or None
        Of the round, where shards count theirs together: above those before. None for the next.
    """

    seconds: float
    number: int | None = None


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Request: open a task's rounds, one after the other.

    Attributes
    ----------
    round_seconds : float
        How long each is open.
    pause_seconds : float
        From the end of one to the opening of the next.
    rounds : int or None
        So many are opened; None for as many as the plan and its budget allow.
    hours : str or None
        ``HH:MM-HH:MM``, each day in UTC: rounds open and close within. None for any time.
    """

    round_seconds: float
    pause_seconds: float = 0.0
    rounds: int | None = None
    hours: str | None = None

    def __post_init__(self) -> None:
        if not 0 < self.round_seconds <= MAX_ROUND_SECONDS:
            raise ValueError(f"round_seconds must be more than 0 and at most {MAX_ROUND_SECONDS}")
        if not 0 <= self.pause_seconds <= MAX_ROUND_SECONDS:
            raise ValueError(f"pause_seconds must be 0 to {MAX_ROUND_SECONDS}")
        if self.rounds is not None and not 1 <= self.rounds <= 1_000_000:
            raise ValueError("rounds must be 1 to 1,000,000")
        if self.hours is not None:
            fits = DailyHours.parse(self.hours).seconds
            if self.round_seconds > fits:
                raise ValueError(
                    f"a round of {self.round_seconds:g} seconds does not fit into the {fits} seconds "
                    f"of {self.hours}"
                )


@dataclass(frozen=True, kw_only=True)
class ScheduleRecord:
    """How a task's rounds follow one another, and what happens next.

    Attributes
    ----------
    schedule : Schedule or None
        What was asked for last.
    state : {"never_started", "running", "ended"}
        Whether rounds open by themselves.
    reason : str or None
        Why they no longer do: ``stopped`` by an operator, ``all_rounds_opened``, or why the task is
        finished, see :class:`TaskRecord`.
    opened : int
        Rounds that this schedule has opened.
    round : int or None
        The one under way, whoever opened it.
    next : {"round_closes", "round_opens", "resume", "nothing"}
        What comes next; ``resume``: the task is paused, and goes on when it is resumed.
    next_at : float or None
        When, in Unix seconds; of a round that opens the earliest time.
    following_at : float or None
        When the round after the one under way opens, if it closes in time.
    """

    task: str
    schedule: Schedule | None = None
    state: Literal["never_started", "running", "ended"]
    reason: str | None = None
    opened: int = 0
    started_at: float | None = None
    ended_at: float | None = None
    round: int | None = None
    next: NextStep
    next_at: float | None = None
    following_at: float | None = None


@dataclass(frozen=True, kw_only=True)
class PauseRequest:
    """Request: let devices stay away from a task, or from all.

    Attributes
    ----------
    reason : str
        A few words, which devices show their users.
    min_seconds, max_seconds : float
        Each device looks again at a random time within this window, counted from its last look.
    """

    reason: str
    min_seconds: float = 1800.0
    max_seconds: float = 5400.0


@dataclass(frozen=True, kw_only=True)
class PauseRecord:
    """A pause that holds until it is taken back.

    Attributes
    ----------
    task : str or None
        None for every task.
    paused_at : float
        Unix time in seconds.
    """

    task: str | None = None
    reason: str
    min_seconds: float
    max_seconds: float
    paused_at: float


@dataclass(frozen=True, kw_only=True)
class PauseList:
    """All pauses, that of the whole fleet first."""

    pauses: tuple[PauseRecord, ...]


@dataclass(frozen=True, kw_only=True)
class UserFeatures:
    """Server-side features of one user for one table."""

    user: str
    rows: tuple[FeatureRow, ...]


@dataclass(frozen=True, kw_only=True)
class PutFeatures:
    """Request: add rows, or replace those with the same key and time."""

    users: tuple[UserFeatures, ...]


@dataclass(frozen=True, kw_only=True)
class FeaturesStored:
    """Answer: how many rows were stored."""

    rows: int


@dataclass(frozen=True, kw_only=True)
class PlanStored:
    """Answer: the plan was verified and is there."""

    sha256: str
    name: str
    version: str
    privacy: Privacy


@dataclass(frozen=True, kw_only=True)
class TaskList:
    """All tasks."""

    tasks: tuple[TaskRecord, ...]


@dataclass(frozen=True, kw_only=True)
class ModelList:
    """All versions of a task's model, oldest first."""

    models: tuple[ModelVersion, ...]


@dataclass(frozen=True, kw_only=True)
class RoundList:
    """All rounds of a task, oldest first."""

    rounds: tuple[RoundResult, ...]


@dataclass(frozen=True, kw_only=True)
class CreateAccessToken:
    """Request: let somebody use the operator's routes.

    Attributes
    ----------
    role : {"viewer", "operator", "modeller", "administrator"}
        ``viewer`` looks; ``operator`` runs rounds, pauses and stores features as well; ``modeller``
        looks, uploads plans and makes tasks; ``administrator`` may do everything.
    """

    name: str
    role: Role


@dataclass(frozen=True, kw_only=True)
class NewAccessToken:
    """Answer: a token, told this once."""

    name: str
    role: Role
    token: str


@dataclass(frozen=True, kw_only=True)
class AccessToken:
    """Who has a token; the token itself is known to its owner alone."""

    name: str
    role: Role
    created_at: float


@dataclass(frozen=True, kw_only=True)
class AccessTokenList:
    """All tokens by name."""

    tokens: tuple[AccessToken, ...]


@dataclass(frozen=True, kw_only=True)
class AuditEntry:
    """One action of an operator, or one release.

    Attributes
    ----------
    sequence : int
        Rises from entry to entry.
    at : float
        Unix time in seconds.
    actor, role : str
        Whose token; ``coordinator`` is the back end itself.
    action : str
        Method and path of an action; ``release`` for a release.
    task : str or None
        Which it is about.
    details : str
        JSON: parameters of the path; of a release its round, counts, epsilon and privacy event.
    status : int or None
        Of HTTP; None for an action that has not ended, or was cut short.
    """

    sequence: int
    at: float
    actor: str
    role: str
    action: str
    task: str | None = None
    details: str
    status: int | None = None


@dataclass(frozen=True, kw_only=True)
class AuditPage:
    """Entries of the log, oldest first; ask again after the last one's sequence for more."""

    entries: tuple[AuditEntry, ...]


@dataclass(frozen=True, kw_only=True)
class Health:
    """The back end answers."""

    status: Literal["ok"] = "ok"
    protocol: str


@dataclass(frozen=True, kw_only=True)
class RolloutRecord:
    """A rollout document that was published.

    Attributes
    ----------
    sha256 : str
        Of the signed document.
    signed_by : str
        Public key, 64 hex digits.
    published_at : float
        Unix time in seconds.
    rollout : Rollout
        What it says.
    """

    sha256: str
    signed_by: str
    published_at: float
    rollout: Rollout


@dataclass(frozen=True, kw_only=True)
class RolloutList:
    """A task's rollout documents, oldest first; the last one holds."""

    rollouts: tuple[RolloutRecord, ...]
