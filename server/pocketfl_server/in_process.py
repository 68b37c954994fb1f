"""A device's line to a back end in the same process: no HTTP, the same answers and refusals."""

# ruff: noqa: A002 - "round" is the word of the field

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from pocketfl.decoding import encode_json
from pocketfl.errors import TransportError
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
from pocketfl.transport import DownloadWatch, RequestKind, Traffic
from pocketfl_server.back_end import BackEnd
from pocketfl_server.errors import Refusal
from pocketfl_server.trusted.refusals import TrustedTierError

T = TypeVar("T")


class InProcessTransport:
    """Implements :class:`~pocketfl.transport.Transport` on the service layer.

    For simulations and tests, where the network is not the point. Contents are counted in ``traffic``
    by their own bytes (JSON, archives, reports), without any of HTTP; a download is counted the first
    time that this device asks for it, as if it were cached afterwards.

    Parameters
    ----------
    back_end : BackEnd
        Shared by all devices, owned by the caller.
    """

    def __init__(self, back_end: BackEnd) -> None:
        self._back_end = back_end
        self._traffic = Traffic()
        self._downloaded: set[str] = set()

    @property
    def traffic(self) -> Traffic:
        """Bytes of contents and number of requests so far."""
        return self._traffic

    def close(self) -> None:
        """Do nothing: there is no connection."""

    def enrol(self, enrolment_key: str, request: EnrolmentRequest) -> Enrolment:
        """Exchange the app's enrolment key for a device token."""
        enrolment = self._ask(lambda: self._back_end.enrol(enrolment_key, request))
        self._count("enrol", sent=encode_json(request), received=encode_json(enrolment))
        return enrolment

    def notices(self) -> Notices:
        """Return the open rounds."""
        notices = self._ask(self._back_end.notices)
        self._count("notices", received=encode_json(notices))
        return notices

    def check_in(
        self, token: str, task: str, round: int, request: CheckIn
    ) -> Assignment | RetryWindow:
        """Ask for a place in a round."""
        answer = self._ask(lambda: self._back_end.check_in(token, task, round, request))
        self._count("check_in", sent=encode_json(request), received=encode_json(answer))
        return answer

    def check_in_anonymously(
        self, token: bytes, task: str, round: int, request: CheckIn
    ) -> Assignment | RetryWindow:
        """Ask for a place in a round with a token that names nobody."""
        answer = self._ask(lambda: self._back_end.check_in_anonymously(token, task, round, request))
        self._count("check_in", sent=token + encode_json(request), received=encode_json(answer))
        return answer

    def token_keys(self, task: str) -> TokenKeys:
        """Return the keys that sign tokens for rounds to come."""
        keys = self._ask(lambda: self._back_end.token_keys(task))
        self._count("tokens", received=encode_json(keys))
        return keys

    def sign_token(self, token: str, task: str, round: int, request: bytes) -> bytes:
        """Have a blinded token signed."""
        response = self._ask(lambda: self._back_end.sign_token(token, task, round, request))
        self._count("tokens", sent=request, received=response)
        return response

    def plan(self, sha256: str, *, watch: DownloadWatch | None = None) -> bytes:
        """Return a plan's archive."""
        del watch  # there is no network
        return self._download("plan", self._back_end.plan, sha256)

    def parameters(self, sha256: str, *, watch: DownloadWatch | None = None) -> bytes:
        """Return parameters, flat and little-endian, in the storage of their plan."""
        del watch
        return self._download("parameters", self._back_end.parameters, sha256)

    def rollout(self, sha256: str) -> bytes:
        """Return a signed rollout document."""
        return self._download("rollout", self._back_end.rollout_document, sha256)

    def upload(self, lease: str, report: SealedReport) -> ReportReceipt:
        """Hand over a report under its lease."""
        if report.lease != lease:
            raise ValueError("the report is sealed for another lease")
        receipt = self._ask(lambda: self._back_end.upload(lease, report.data))
        self._count("upload", sent=report.data, received=encode_json(receipt))
        return receipt

    def features(self, token: str, table: str, cursor: str | None) -> FeaturePage:
        """Return the user's own server-side features after a cursor."""
        page = self._ask(lambda: self._back_end.encoded_features(token, table, cursor))
        self._count("features", received=page.to_json())
        return page.decode()

    def _download(self, kind: RequestKind, get: Callable[[str], bytes], digest: str) -> bytes:
        data = self._ask(lambda: get(digest))
        if digest not in self._downloaded:
            self._downloaded.add(digest)
            self._count(kind, received=data)
        return data

    def _count(self, kind: RequestKind, *, sent: bytes = b"", received: bytes = b"") -> None:
        self._traffic = self._traffic.with_request(kind, up=len(sent), down=len(received))

    @staticmethod
    def _ask(call: Callable[[], T]) -> T:
        try:
            return call()
        except Refusal as refusal:
            raise TransportError(str(refusal), status=refusal.status, code=refusal.code) from None
        except TrustedTierError as error:
            raise TransportError(f"trusted tier: {error}", status=502, code=error.code) from None
