"""The device protocol, version 1: what devices and back end say to each other.

=========================================  ====================================================
``POST /v1/devices``                       enrol: enrolment key -> device token (:class:`Enrolment`)
``GET /v1/notices``                        open rounds and pauses, the same for everybody, with ETag
``POST /v1/tasks/T/rounds/R/check-in``     device token -> :class:`Assignment` or :class:`RetryWindow`
``GET /v1/plans/SHA256``                   the plan's archive; immutable
``GET /v1/parameters/SHA256``              flat parameters in the plan's storage; immutable
``GET /v1/rollouts/SHA256``                which version to predict with, signed; immutable
``PUT /v1/leases/L/report``                sealed report under the lease; idempotent
``GET /v1/features/TABLE``                 the user's own server-side features; device token
``GET /v1/tasks/T/token-keys``             keys for anonymous tokens of rounds to come
``POST /v1/tasks/T/token-keys/R/token``    device token -> a blinded token is signed (RFC 9578)
=========================================  ====================================================

An upload carries the ``Content-Digest`` of its body (RFC 9530), so that a report that was changed on
the way is refused and not kept in its place.

With an anonymous token (``Authorization: PrivateToken token="..."``) a check-in does not say whose it
is. The device token appears at enrolment, check-in, features and the signing of such tokens only. What
follows a check-in is known by its random lease alone, and the back end keeps no table that joins them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final, Literal

PROTOCOL: Final = "pocketfl/1"
MESSAGE_LIMIT: Final = 1 * 2**20
"""Largest JSON answer of the protocol in bytes, features apart."""
FEATURES_LIMIT: Final = 32 * 2**20
MAX_RETRY_SECONDS: Final = 30 * 86_400.0
TOKEN_LIMIT: Final = 32 * 2**10
"""Largest attestation token in characters; those with a certificate chain take about 8,000."""
ROLLOUT_LIMIT: Final = 64 * 2**10
"""Largest signed rollout document in bytes."""
REPORT_OVERHEAD: Final = 64
"""HPKE adds 32 bytes of encapsulated key and 16 of tag; the report's own header takes the rest."""

_HEX_DIGEST = re.compile(r"[0-9a-f]{64}\Z")
_IDENTIFIER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}\Z")
_TOKEN = re.compile(r"[A-Za-z0-9_-]{16,128}\Z")
_COMPACT_JWS = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\Z")


def check_identifier(value: str, *, what: str) -> str:
    """Return a task or table name that is safe in a path, else raise ``ValueError``."""
    if not _IDENTIFIER.match(value):
        raise ValueError(f"{what} {value[:40]!r} needs letters, digits, '.', '_', '-'; 128 at most")
    return value


def check_digest(value: str, *, what: str) -> str:
    """Return a SHA-256 in lower-case hex, else raise ``ValueError``."""
    if not _HEX_DIGEST.match(value):
        raise ValueError(f"{what} {value[:70]!r} is not a SHA-256 in lower-case hex")
    return value


def check_token(value: str, *, what: str) -> str:
    """Return a URL-safe random token of 16 to 128 characters, else raise ``ValueError``."""
    if not _TOKEN.match(value):
        raise ValueError(f"{what} is not a token of 16 to 128 URL-safe characters")
    return value


def check_window(min_seconds: float, max_seconds: float) -> None:
    """Raise ``ValueError`` unless these are the bounds of a time to come back, in seconds from now."""
    if not 0 <= min_seconds <= max_seconds <= MAX_RETRY_SECONDS:
        raise ValueError("a retry window lies between 0 seconds and 30 days")


@dataclass(frozen=True, kw_only=True)
class RoundNotice:
    """An open round, as everybody sees it. Devices toss their coin on it before they say anything.

    Attributes
    ----------
    task : str
        Name of the task.
    round : int
        Counts from 1 within the task.
    plan_sha256, parameters_sha256 : str
        What to download.
    model_version : int
        Version that the round starts from.
    closes_at : float
        Unix time in seconds; later reports are refused.
    clip_norm : float or None
        Of this round, where the plan lets it adapt; devices hold it against the plan's bounds.
    """

    task: str
    round: int
    plan_sha256: str
    parameters_sha256: str
    model_version: int
    closes_at: float
    clip_norm: float | None = None

    def __post_init__(self) -> None:
        check_identifier(self.task, what="task")
        check_digest(self.plan_sha256, what="plan_sha256")
        check_digest(self.parameters_sha256, what="parameters_sha256")
        if self.round < 1 or self.model_version < 0:
            raise ValueError("round counts from 1 and model_version from 0")


@dataclass(frozen=True, kw_only=True)
class Pause:
    """The operator wants no sessions for now; devices stay away and look again within the window.

    Attributes
    ----------
    task : str or None
        Which task; None for every one, the kill switch of a whole fleet.
    reason : str
        A few words for people, 200 characters at most.
    min_seconds, max_seconds : float
        From now.
    """

    task: str | None = None
    reason: str
    min_seconds: float
    max_seconds: float

    def __post_init__(self) -> None:
        if self.task is not None:
            check_identifier(self.task, what="task")
        if not (0 < len(self.reason) <= 200 and self.reason.isprintable()):
            raise ValueError("the reason of a pause needs 1 to 200 printable characters")
        check_window(self.min_seconds, self.max_seconds)

    @property
    def code(self) -> str:
        """How an outcome names it: ``paused`` for a task, ``fleet_paused`` for every one."""
        return "fleet_paused" if self.task is None else "paused"


@dataclass(frozen=True, kw_only=True)
class RolloutNotice:
    """A task's latest rollout document; what it says counts only once its signature was checked.

    Attributes
    ----------
    task : str
        Whose model it deploys.
    sha256 : str
        What to download.
    """

    task: str
    sha256: str

    def __post_init__(self) -> None:
        check_identifier(self.task, what="task")
        check_digest(self.sha256, what="sha256 of a rollout")


@dataclass(frozen=True, kw_only=True)
class Notices:
    """All open rounds, and what is paused.

    Attributes
    ----------
    notices : tuple of RoundNotice
        Rounds of paused tasks are not among them.
    pauses : tuple of Pause
        A device obeys them whatever rounds are listed.
    rollouts : tuple of RolloutNotice or None
        Which versions devices predict with; None where no task has a rollout.
    """

    notices: tuple[RoundNotice, ...]
    pauses: tuple[Pause, ...] = ()
    rollouts: tuple[RolloutNotice, ...] | None = None

    def pause_of(self, task: str | None) -> Pause | None:
        """Return the pause that holds for a task, one of the whole fleet before one of its own.

        Parameters
        ----------
        task : str or None
            Name of the task; None asks for a pause of the whole fleet only.
        """
        by_task = {pause.task: pause for pause in self.pauses}
        return by_task.get(None) or by_task.get(task)


@dataclass(frozen=True, kw_only=True)
class EnrolmentRequest:
    """What an app sends once per install; the enrolment key goes in the Authorization header."""

    user: str
    sdk: str


@dataclass(frozen=True, kw_only=True)
class Enrolment:
    """The device token: shown to the device once, kept by the back end only as a hash."""

    token: str

    def __post_init__(self) -> None:
        check_token(self.token, what="device token")


@dataclass(frozen=True, kw_only=True)
class CheckIn:
    """What a device says when its coin came up heads."""

    sdk: str
    plan_schemas: tuple[int, ...]
    runtimes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class LedgerHead:
    """How far a trusted tier's ledger has come, in a form that can only grow.

    There is one for the releases of all tasks, and one for the token keys of each task.

    Attributes
    ----------
    sequence : int
        Number of entries.
    digest : str
        SHA-256 (hex) that chains them: of the digest before, and the latest entry.
    """

    sequence: int
    digest: str

    def __post_init__(self) -> None:
        if not 0 <= self.sequence < 2**63:
            raise ValueError("the sequence of a ledger head counts from 0")
        check_digest(self.digest, what="digest of the ledger head")


@dataclass(frozen=True, kw_only=True)
class Attestation:
    """What vouches for a trusted tier's key.

    Attributes
    ----------
    token : str
        Of an attestation service: a compact JWS, :data:`TOKEN_LIMIT` characters at most.
    head : LedgerHead
        The ledger's head when the token was asked for; the token vouches for it too.
    """

    token: str
    head: LedgerHead

    def __post_init__(self) -> None:
        if len(self.token) > TOKEN_LIMIT or not _COMPACT_JWS.match(self.token):
            raise ValueError(f"a token is a compact JWS of at most {TOKEN_LIMIT} characters")


@dataclass(frozen=True, kw_only=True)
class AggregatorKey:
    """A trusted tier's public key, as the back end relays it; worth nothing until verified.

    Attributes
    ----------
    key_id : str
        SHA-256 (hex) of the raw public key.
    public_key : str
        X25519 public key, 32 bytes in hex.
    attestation : Attestation or None
        What vouches for the key; None for a trusted tier whose key apps pin.
    """

    key_id: str
    public_key: str
    attestation: Attestation | None = None

    def __post_init__(self) -> None:
        check_digest(self.key_id, what="key_id")
        check_digest(self.public_key, what="public_key")


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """A place in a round: valid under its lease until it expires."""

    kind: Literal["assignment"] = "assignment"
    lease: str
    expires_at: float
    task: str
    round: int
    model_version: int
    plan_sha256: str
    parameters_sha256: str
    aggregator: AggregatorKey

    def __post_init__(self) -> None:
        check_token(self.lease, what="lease")
        check_identifier(self.task, what="task")
        check_digest(self.plan_sha256, what="plan_sha256")
        check_digest(self.parameters_sha256, what="parameters_sha256")


@dataclass(frozen=True, kw_only=True)
class RetryWindow:
    """Turned away, which is no error: come back at a random time within the window.

    Attributes
    ----------
    reason : str
        A code such as ``round_closed``, ``already_checked_in``, ``runtime_unsupported``, ``paused``.
    min_seconds, max_seconds : float
        From now.
    """

    kind: Literal["retry"] = "retry"
    reason: str
    min_seconds: float
    max_seconds: float

    def __post_init__(self) -> None:
        check_window(self.min_seconds, self.max_seconds)


@dataclass(frozen=True, kw_only=True)
class TokenKey:
    """The key that signs tokens for one epoch: each is good for one check-in in one of its rounds.

    Attributes
    ----------
    first_round, last_round : int
        Both included.
    public_key : str
        DER in hex, see :func:`pocketfl.credentials.tokens.encode_key`.
    """

    first_round: int
    last_round: int
    public_key: str

    def __post_init__(self) -> None:
        if not 1 <= self.first_round <= self.last_round:
            raise ValueError("an epoch has at least one round, and rounds count from 1")


@dataclass(frozen=True, kw_only=True)
class TokenKeys:
    """For which rounds tokens are to be had: the same answer for everybody.

    Attributes
    ----------
    task : str
        Name of the task.
    next_round : int
        The round that opens next. Tokens are to be had for epochs that begin with it or later.
    separation : int
        Fewest rounds between those of two tokens that one device gets.
    keys : tuple of TokenKey
        In the order of their rounds, from the epoch under way on.
    start : LedgerHead
        Of the directory before the first of these keys; see :mod:`pocketfl.credentials.directory`.
    policy_hash : str
        Of the task's plan.
    aggregator : AggregatorKey
        The task's trusted tier, with a token that vouches for the directory.
    """

    task: str
    next_round: int
    separation: int
    keys: tuple[TokenKey, ...]
    start: LedgerHead
    policy_hash: str
    aggregator: AggregatorKey

    def __post_init__(self) -> None:
        check_digest(self.policy_hash, what="policy_hash")
        ends = [0, *(key.last_round for key in self.keys)]
        if any(key.first_round <= before for key, before in zip(self.keys, ends, strict=False)):
            raise ValueError("the keys of two epochs are for the same round, or out of order")
        if self.next_round < 1 or self.separation < 1:
            raise ValueError("rounds and separation count from 1")


@dataclass(frozen=True, kw_only=True)
class CheckInReply:
    """Wraps the union, so that one decoder serves."""

    answer: Assignment | RetryWindow


@dataclass(frozen=True, kw_only=True)
class ReportReceipt:
    """The back end holds the sealed report durably; sending it again changes nothing."""

    lease: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class FeatureRow:
    """One row of a user's server-side features, valid from a time on.

    Attributes
    ----------
    key : str
        What the device joins on.
    valid_from : float
        Unix time in seconds.
    values : dict
        Field name to number, string, bool or null.
    """

    key: str
    valid_from: float
    values: dict[str, str | int | float | bool | None]


@dataclass(frozen=True, kw_only=True)
class FeaturePage:
    """Rows after a cursor; ask again with ``next_cursor`` until it is absent."""

    table: str
    rows: tuple[FeatureRow, ...]
    next_cursor: str | None = None


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Every refusal of the server: a code for programs and a sentence for people."""

    code: str
    message: str
    details: dict[str, str | int | float | bool | None] = field(default_factory=dict)
