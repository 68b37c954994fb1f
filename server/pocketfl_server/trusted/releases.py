"""What leaves the trusted tier: a sum with noise, or one of a plan that says that it has none.

A noised sum and an unprotected one are two types, so that code that takes one cannot be handed the
other. A release travels as a small JSON header and the raw sum.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import ClassVar, Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pocketfl.decoding import decode_json, encode_json
from pocketfl.errors import DecodeError
from pocketfl.plan.aggregation import BudgetUnit
from pocketfl.plan.models import MAX_PARAMETERS
from pocketfl.protocol import check_digest, check_identifier

IntegerVector: TypeAlias = NDArray[np.int64]
HEADER_LIMIT: Final = 64 * 2**10
RELEASE_LIMIT: Final = 8 * MAX_PARAMETERS + HEADER_LIMIT + 8
"""Largest release in bytes."""
_RELEASE_MAGIC: Final = b"PFR1"


@dataclass(frozen=True, kw_only=True)
class BudgetStatement:
    """Where an account stands that several tasks share.

    Attributes
    ----------
    name : str
        As the tasks' plans name it.
    epsilon, delta : float
        What all of its releases may come to together.
    unit : {"device", "device-day"}
        Whose data it protects.
    spent, spent_against_back_end : float
        Epsilon of all releases of all its tasks so far, at ``delta``: against someone who sees the
        released sums, and someone who sees who took part as well.
    releases : dict of str to int
        Releases so far of each of its tasks.
    """

    name: str
    epsilon: float
    delta: float
    unit: BudgetUnit
    spent: float
    spent_against_back_end: float
    releases: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class ReleaseSummary:
    """All that a release says besides its values.

    Attributes
    ----------
    kind : {"noised", "unprotected"}
        Which of the two types it is.
    task, round, model_version, plan_sha256, policy_hash
        What it is a release of.
    reports : int
        Number of reports in the sum.
    rejected : dict of str to int
        Number of reports that were not taken, by reason.
    grid_step : float
        One integer unit in the model's own units.
    expected_cohort : float
        What the sum is to be divided by; fixed by the plan.
    noise_multiplier : float
        0 for an unprotected release.
    epsilon, epsilon_against_back_end, delta : float or None
        What the task has spent with this release included; ``None`` for an unprotected one, about
        which nothing can be claimed.
    budget : BudgetStatement or None
        The account that the task shares with others, with this release included.
    clip_norm, next_clip_norm, share_within : float or None
        Where the plan lets the clip norm adapt: of this round, of the next one, and the noised share of
        updates that were within it.
    privacy_event : str or None
        The event tree of all of the task's releases, this one included; see :mod:`.events`. None of
        releases of earlier versions.
    """

    kind: Literal["noised", "unprotected"]
    task: str
    round: int
    model_version: int
    plan_sha256: str
    policy_hash: str
    reports: int
    rejected: dict[str, int] = field(default_factory=dict)
    grid_step: float
    expected_cohort: float
    noise_multiplier: float
    epsilon: float | None = None
    epsilon_against_back_end: float | None = None
    delta: float | None = None
    budget: BudgetStatement | None = None
    clip_norm: float | None = None
    next_clip_norm: float | None = None
    share_within: float | None = None
    privacy_event: str | None = None

    def __post_init__(self) -> None:
        check_identifier(self.task, what="task")
        check_digest(self.plan_sha256, what="plan_sha256")
        check_digest(self.policy_hash, what="policy_hash")
        protected = self.kind == "noised"
        claims = (self.epsilon, self.epsilon_against_back_end, self.delta)
        if protected != (self.noise_multiplier > 0) or any(
            (claim is not None) != protected for claim in claims
        ):
            raise ValueError("noise, epsilon and delta go with a noised release, and only with it")
        if self.round < 1 or self.model_version < 0 or self.reports < 1:
            raise ValueError("round and reports count from 1, model_version from 0")
        adaptive = (self.clip_norm, self.next_clip_norm, self.share_within)
        if len({value is None for value in adaptive}) != 1:
            raise ValueError("clip_norm, next_clip_norm and share_within go together")


@dataclass(frozen=True, kw_only=True, eq=False)
class _Release:
    """Values of a release with their summary."""

    summary: ReleaseSummary
    values: IntegerVector

    kind: ClassVar[Literal["noised", "unprotected"]]

    def __post_init__(self) -> None:
        if self.summary.kind != self.kind:
            raise ValueError(
                f"a summary of kind {self.summary.kind!r} cannot make a {self.kind} sum"
            )
        if self.values.dtype != np.int64 or self.values.ndim != 1:
            raise ValueError("the values of a release are one int64 vector")
        self.values.flags.writeable = False

    @property
    def task(self) -> str:
        """Name of the task."""
        return self.summary.task

    @property
    def round(self) -> int:
        """Round of the task."""
        return self.summary.round

    @property
    def model_version(self) -> int:
        """Version that the round started from."""
        return self.summary.model_version

    @property
    def plan_sha256(self) -> str:
        """The plan's archive."""
        return self.summary.plan_sha256

    @property
    def policy_hash(self) -> str:
        """Hash of the bounds that were enforced."""
        return self.summary.policy_hash

    @property
    def reports(self) -> int:
        """Number of reports in the sum."""
        return self.summary.reports

    @property
    def rejected(self) -> dict[str, int]:
        """Number of reports that were not taken, by reason."""
        return self.summary.rejected

    @property
    def grid_step(self) -> float:
        """One integer unit in the model's own units."""
        return self.summary.grid_step

    @property
    def expected_cohort(self) -> float:
        """What the sum is to be divided by."""
        return self.summary.expected_cohort

    @property
    def noise_multiplier(self) -> float:
        """Standard deviation of the noise over the norm bound."""
        return self.summary.noise_multiplier

    @property
    def epsilon(self) -> float | None:
        """Spent so far against someone who sees the released models only."""
        return self.summary.epsilon

    @property
    def epsilon_against_back_end(self) -> float | None:
        """Spent so far against someone who also sees who took part."""
        return self.summary.epsilon_against_back_end

    @property
    def delta(self) -> float | None:
        """Goes with both epsilons."""
        return self.summary.delta

    @property
    def budget(self) -> BudgetStatement | None:
        """The account that the task shares with others, if any."""
        return self.summary.budget

    @property
    def next_clip_norm(self) -> float | None:
        """The next round's, where the plan lets it adapt."""
        return self.summary.next_clip_norm


class NoisedRelease(_Release):
    """An exact sum plus discrete Gaussian noise, charged to the task's budget.

    Attributes
    ----------
    summary : ReleaseSummary
        Its fields are also properties of the release.
    values : ndarray of int64, shape (P,)
        In grid units; read-only.
    """

    kind = "noised"


class UnprotectedRelease(_Release):
    """An exact sum without any noise, for a plan that says ``privacy: none``.

    It has no differential privacy: ``epsilon`` and ``delta`` are ``None``, which stands for
    "unbounded" and not for "unknown", and every model made of it is labelled for life.
    """

    kind = "unprotected"


Release: TypeAlias = NoisedRelease | UnprotectedRelease


def encode_release(release: Release) -> bytes:
    """Return a release's bytes: magic, length of the header, JSON header, little-endian int64."""
    header = encode_json(release.summary)
    values = release.values.astype("<i8", copy=False).tobytes()
    return b"".join([_RELEASE_MAGIC, struct.pack("<I", len(header)), header, values])


def decode_release(data: bytes) -> Release:
    """Read what :func:`encode_release` made.

    Raises
    ------
    DecodeError
        If it is truncated, not a release, or its header contradicts itself.
    """
    if len(data) > RELEASE_LIMIT:
        raise DecodeError(f"release: {len(data)} bytes, more than the {RELEASE_LIMIT} allowed")
    if len(data) < 8 or data[:4] != _RELEASE_MAGIC:
        raise DecodeError("release: not a release of the trusted tier")
    (size,) = struct.unpack_from("<I", data, 4)
    body = data[8 + size :]
    if size > HEADER_LIMIT or len(data) < 8 + size or not body or len(body) % 8:
        raise DecodeError("release: truncated or out of bounds")
    summary = decode_json(
        ReleaseSummary, data[8 : 8 + size], what="release header", limit=HEADER_LIMIT
    )
    values = np.frombuffer(body, dtype="<i8").astype(np.int64)
    kind = NoisedRelease if summary.kind == "noised" else UnprotectedRelease
    return kind(summary=summary, values=values)
