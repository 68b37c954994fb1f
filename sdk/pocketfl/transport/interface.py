"""What a device asks of whatever carries its messages, and the count of what that cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol, TypeAlias

from pocketfl.protocol import (
    Assignment,
    CheckIn,
    Enrolment,
    EnrolmentRequest,
    FeaturePage,
    Notices,
    ReportReceipt,
    RetryWindow,
    TokenKeys,
)
from pocketfl.reports import SealedReport

RequestKind: TypeAlias = Literal[
    "enrol", "notices", "check_in", "plan", "parameters", "upload", "features", "tokens", "rollout"
]
"""The requests of the device protocol, as traffic is listed."""

REQUEST_KINDS: Final[tuple[RequestKind, ...]] = (
    "enrol",
    "notices",
    "check_in",
    "plan",
    "parameters",
    "upload",
    "features",
    "tokens",
    "rollout",
)

DownloadWatch: TypeAlias = Callable[[int, int], None]
"""Asked before more of a download comes over the network: told how many bytes have come so far, those
of attempts that broke off included, and the most that come until it is asked again. What it raises ends
the download."""


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """Bytes and requests so far.

    Attributes
    ----------
    bytes_up, bytes_down : int
        Sent and received; each transport says which bytes it counts.
    requests : int
        Requests, repeated ones included.
    by_kind : mapping of RequestKind to Traffic
        The same by kind of request, for transports that tell them apart; adds up to the whole.
    """

    bytes_up: int = 0
    bytes_down: int = 0
    requests: int = 0
    by_kind: Mapping[RequestKind, Traffic] = field(default_factory=dict, hash=False)

    def __sub__(self, earlier: Traffic) -> Traffic:
        if self is earlier:
            return _NONE
        before = earlier.by_kind
        differences = {
            kind: total - before.get(kind, _NONE)
            for kind, total in self.by_kind.items()
            # A kind without a new request is still the same object.
            if total is not before.get(kind)
        }
        return Traffic(
            bytes_up=self.bytes_up - earlier.bytes_up,
            bytes_down=self.bytes_down - earlier.bytes_down,
            requests=self.requests - earlier.requests,
            by_kind={
                kind: spent
                for kind, spent in differences.items()
                if spent.requests or spent.bytes_up or spent.bytes_down
            },
        )

    def with_request(self, kind: RequestKind, *, up: int, down: int) -> Traffic:
        """Return the traffic after one more request of a kind; ``up`` and ``down`` in bytes."""
        before = self.by_kind.get(kind, _NONE)
        of_kind = Traffic(
            bytes_up=before.bytes_up + up,
            bytes_down=before.bytes_down + down,
            requests=before.requests + 1,
        )
        return Traffic(
            bytes_up=self.bytes_up + up,
            bytes_down=self.bytes_down + down,
            requests=self.requests + 1,
            by_kind={**self.by_kind, kind: of_kind},
        )


_NONE: Final = Traffic()


class Transport(Protocol):
    """One device's line to the back end. Every method raises ``TransportError`` when it fails.

    Nothing that goes through here is a device's own data but a :class:`~pocketfl.reports.SealedReport`,
    and nothing that comes back is trusted: content is checked against its hash by the transport, plans
    against their signature and everything against the plan by the device.
    """

    def enrol(self, enrolment_key: str, request: EnrolmentRequest) -> Enrolment:
        """Exchange the app's enrolment key for a device token; once per install."""

    def notices(self) -> Notices:
        """Return the open rounds, the same for everybody."""

    def check_in(
        self,
        token: str,
        task: str,
        round: int,  # noqa: A002
        request: CheckIn,
    ) -> Assignment | RetryWindow:
        """Ask for a place in a round after the coin came up heads."""

    def check_in_anonymously(
        self,
        token: bytes,
        task: str,
        round: int,  # noqa: A002
        request: CheckIn,
    ) -> Assignment | RetryWindow:
        """Ask for a place in a round with a single-use token that names nobody."""

    def token_keys(self, task: str) -> TokenKeys:
        """Return the keys that sign tokens for rounds to come."""

    def sign_token(
        self,
        token: str,
        task: str,
        round: int,  # noqa: A002
        request: bytes,
    ) -> bytes:
        """Have a blinded token signed; doing it again changes nothing."""

    def plan(self, sha256: str, *, watch: DownloadWatch | None = None) -> bytes:
        """Return a plan's archive with this hash; what needs no network asks no watch."""

    def parameters(self, sha256: str, *, watch: DownloadWatch | None = None) -> bytes:
        """Return flat little-endian float32 parameters with this hash; ``watch`` as for a plan."""

    def rollout(self, sha256: str) -> bytes:
        """Return a signed rollout document with this hash."""

    def upload(self, lease: str, report: SealedReport) -> ReportReceipt:
        """Hand over a report under its lease; doing it again changes nothing."""

    def features(self, token: str, table: str, cursor: str | None) -> FeaturePage:
        """Return the user's own server-side features after a cursor."""

    @property
    def traffic(self) -> Traffic:
        """What has gone over this transport since it was made."""

    def close(self) -> None:
        """Give back connections."""
