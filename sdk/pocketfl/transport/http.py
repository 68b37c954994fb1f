"""The device protocol over HTTP.

Every answer is checked before anybody parses it. Requests that can be repeated without harm are
repeated when they fail. A download that breaks off goes on where it stopped.
"""

from __future__ import annotations

import random
import re
import time
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from hashlib import sha256
from http.client import HTTPResponse
from typing import Final, TypeVar
from urllib.parse import quote

from pocketfl.decoding import decode_json, encode_json
from pocketfl.errors import DecodeError, TransportError
from pocketfl.protocol import (
    FEATURES_LIMIT,
    MESSAGE_LIMIT,
    ROLLOUT_LIMIT,
    Assignment,
    CheckIn,
    CheckInReply,
    Enrolment,
    EnrolmentRequest,
    FeaturePage,
    Notices,
    ReportReceipt,
    RetryWindow,
    TokenKeys,
    check_digest,
    check_identifier,
    check_token,
)
from pocketfl.reports import SealedReport
from pocketfl.transport.connection import ServerConnection, Timeouts
from pocketfl.transport.downloads import CachedNotices, Download, DownloadCache
from pocketfl.transport.interface import DownloadWatch, RequestKind, Traffic
from pocketfl.transport.metering import (
    Exchange,
    Meter,
    metered,
)
from pocketfl.transport.retrying import (
    FailedAttemptError,
    Retrier,
    RetryPolicy,
)

T = TypeVar("T")

PROGRESS_BYTES: Final = 64 * 2**10
"""A broken download that brought this much counts as progress, and failures count from zero."""

HEADERS_ALLOWANCE: Final = 8 * 2**10
"""What a watch is told of the bytes of an answer's head, and what is read along with it."""

_CONTENT_RANGE: Final = re.compile(r"bytes (\d{1,15})-\d{1,15}/(?:\d{1,15}|\*)\Z")


class HttpTransport:
    """One device's line to a back end over HTTP; implements :class:`~pocketfl.transport.Transport`.

    Parameters
    ----------
    url : str
        Where the back end is, such as ``https://fl.example.com``. Plain ``http`` is accepted for this
        very machine only, unless ``allow_plain_http`` says otherwise.
    cache : DownloadCache, optional
        Keeps downloads; may be shared. Without one every download goes to the server.
    timeouts : Timeouts, optional
        How long to wait.
    retries : RetryPolicy, optional
        How often to ask again.
    max_download_bytes : int
        Largest plan or parameter vector that is accepted.
    connections : int
        Keep-alive connections that are kept open.
    ca_certs : str, optional
        File of certificate authorities instead of the system's.
    allow_plain_http : bool
        Accept ``http`` to other machines. Reports are sealed, device tokens would be readable.
    sleep, uniform, clock : callable, optional
        For tests: waiting, drawing the jitter, Unix time.

    Notes
    -----
    ``traffic`` counts the bytes of HTTP (see :mod:`pocketfl.transport.metering`). What a shared cache
    served is counted too, at what it cost when it was downloaded, the first time that this device asks
    for it: the figure is what the device would have used on its own. A list of open rounds that the
    cache held counts as the answer "not modified" if this device had that same list before.
    """

    def __init__(
        self,
        url: str,
        *,
        cache: DownloadCache | None = None,
        timeouts: Timeouts | None = None,
        retries: RetryPolicy | None = None,
        max_download_bytes: int = 256 * 2**20,
        connections: int = 4,
        ca_certs: str | None = None,
        allow_plain_http: bool = False,
        sleep: Callable[[float], None] = time.sleep,
        uniform: Callable[[float, float], float] = random.uniform,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._connection = ServerConnection(
            url,
            timeouts=timeouts or Timeouts(),
            connections=connections,
            ca_certs=ca_certs,
            allow_plain_http=allow_plain_http,
            clock=clock,
        )
        self._owns_connection = True
        self._url = url
        self._cache = cache if cache is not None else DownloadCache(memory_bytes=0)
        self._retrier = Retrier(retries or RetryPolicy(), sleep=sleep, uniform=uniform)
        self._max_download_bytes = max_download_bytes
        self._meter = Meter()
        self._downloaded: set[str] = set()
        self._known_notices: CachedNotices | None = None

    def for_another_device(self) -> HttpTransport:
        """Return a transport with the same settings, connections and cache, and its own traffic.

        For many devices in one process. Close the first transport last: it owns the connections.
        """
        twin = object.__new__(HttpTransport)
        twin.__dict__.update(self.__dict__)
        twin._owns_connection = False
        twin._meter = Meter()
        twin._downloaded = set()
        twin._known_notices = None
        return twin

    @property
    def traffic(self) -> Traffic:
        """What this device has sent and received; see the class's notes."""
        return self._meter.total

    def close(self) -> None:
        """Close the connections, if this transport opened them."""
        if self._owns_connection:
            self._connection.close()

    def enrol(self, enrolment_key: str, request: EnrolmentRequest) -> Enrolment:
        """Exchange the app's enrolment key for a device token."""
        body = self._call(
            "enrol",
            "POST",
            "/v1/devices",
            token=enrolment_key,
            body=encode_json(request),
            idempotent=False,
        )
        return _decode(Enrolment, body, what="enrolment")

    def notices(self) -> Notices:
        """Return the open rounds, revalidating what is known by its ETag."""
        found, was_cached = self._cache.fetch_notices(self._url, self._ask_for_notices)
        if was_cached:
            known = self._known_notices
            unchanged = known is not None and known.notices is found.notices
            self._meter.add(
                "notices",
                up=found.bytes_up,
                down=found.bytes_unchanged if unchanged else found.bytes_down,
            )
        self._known_notices = found
        return found.notices

    def _ask_for_notices(self, known: CachedNotices | None) -> CachedNotices:
        def attempt() -> CachedNotices:
            request = self._request("notices", "GET", "/v1/notices", headers=headers)
            with request as (response, exchange):
                header_bytes = exchange.down
                if known is not None and response.status == 304:
                    self._connection.read(response, limit=0)
                    return CachedNotices(
                        notices=known.notices,
                        etag=known.etag,
                        bytes_up=exchange.up,
                        bytes_down=known.bytes_down,
                        bytes_unchanged=exchange.down,
                    )
                body = bytes(self._connection.answer(response, limit=MESSAGE_LIMIT))
                return CachedNotices(
                    notices=_decode(Notices, body, what="notices"),
                    etag=response.headers.get("ETag"),
                    bytes_up=exchange.up,
                    bytes_down=exchange.down,
                    bytes_unchanged=header_bytes,
                )

        headers = {"If-None-Match": known.etag} if known is not None and known.etag else {}
        return self._retrier.run(attempt, idempotent=True)

    def check_in(
        self,
        token: str,
        task: str,
        round: int,  # noqa: A002
        request: CheckIn,
    ) -> Assignment | RetryWindow:
        """Ask for a place in a round. Repeated only if the server certainly did not act on it."""
        body = self._call(
            "check_in",
            "POST",
            f"/v1/tasks/{check_identifier(task, what='task')}/rounds/{int(round)}/check-in",
            token=token,
            body=_encode_check_in(request),
            idempotent=False,
        )
        return _decode(CheckInReply, body, what="check-in reply").answer

    def check_in_anonymously(
        self,
        token: bytes,
        task: str,
        round: int,  # noqa: A002
        request: CheckIn,
    ) -> Assignment | RetryWindow:
        """Ask for a place with a single-use token, in the authentication scheme of RFC 9577."""
        encoded = urlsafe_b64encode(token).decode()
        body = self._call(
            "check_in",
            "POST",
            f"/v1/tasks/{check_identifier(task, what='task')}/rounds/{int(round)}/check-in",
            authorization=f'PrivateToken token="{encoded}"',
            body=_encode_check_in(request),
            idempotent=False,
        )
        return _decode(CheckInReply, body, what="check-in reply").answer

    def token_keys(self, task: str) -> TokenKeys:
        """Return the keys that sign tokens for rounds to come."""
        path = f"/v1/tasks/{check_identifier(task, what='task')}/token-keys"
        body = self._call("tokens", "GET", path, idempotent=True)
        keys = _decode(TokenKeys, body, what="token keys")
        if keys.task != task:
            raise TransportError("the token keys are for another task", code="bad_answer")
        return keys

    def sign_token(
        self,
        token: str,
        task: str,
        round: int,  # noqa: A002
        request: bytes,
    ) -> bytes:
        """Have a blinded token signed."""
        return self._call(
            "tokens",
            "POST",
            f"/v1/tasks/{check_identifier(task, what='task')}/token-keys/{int(round)}/token",
            token=token,
            body=request,
            content_type="application/private-token-request",
            idempotent=True,
        )

    def plan(self, sha256: str, *, watch: DownloadWatch | None = None) -> bytes:
        """Return a plan's archive, verified against its hash."""
        return self._content("plan", "plans", sha256, watch=watch)

    def parameters(self, sha256: str, *, watch: DownloadWatch | None = None) -> bytes:
        """Return parameters, verified against their hash."""
        return self._content("parameters", "parameters", sha256, watch=watch)

    def rollout(self, sha256: str) -> bytes:
        """Return a rollout document, verified against its hash."""
        return self._content("rollout", "rollouts", sha256, limit=ROLLOUT_LIMIT)

    def upload(self, lease: str, report: SealedReport) -> ReportReceipt:
        """Upload a report, as often as it takes until the server's receipt names its hash."""
        if report.lease != lease:
            raise ValueError("the report is sealed for another lease")
        body = self._call(
            "upload",
            "PUT",
            f"/v1/leases/{check_token(lease, what='lease')}/report",
            body=report.data,
            content_type="application/octet-stream",
            digest=report.sha256,
            idempotent=True,
        )
        receipt = _decode(ReportReceipt, body, what="receipt")
        if (receipt.lease, receipt.sha256) != (lease, report.sha256):
            raise TransportError(
                "the server's receipt is for another report than the one uploaded",
                code="wrong_receipt",
            )
        return receipt

    def features(self, token: str, table: str, cursor: str | None) -> FeaturePage:
        """Return a page of the user's server-side features."""
        query = "" if cursor is None else f"?cursor={quote(cursor, safe='')}"
        body = self._call(
            "features",
            "GET",
            f"/v1/features/{check_identifier(table, what='table')}{query}",
            token=token,
            limit=FEATURES_LIMIT,
            idempotent=True,
        )
        page = _decode(FeaturePage, body, what="features", limit=FEATURES_LIMIT)
        if page.table != table:
            raise TransportError(
                f"asked for the table {table!r}, the server answered with {page.table[:40]!r}",
                code="wrong_table",
            )
        return page

    def _call(
        self,
        kind: RequestKind,
        method: str,
        path: str,
        *,
        token: str | None = None,
        authorization: str | None = None,
        body: bytes | None = None,
        content_type: str = "application/json",
        limit: int = MESSAGE_LIMIT,
        digest: str | None = None,
        idempotent: bool,
    ) -> bytes:
        headers = {}
        if digest is not None:
            # RFC 9530: what was changed on the way is refused, and not kept in place of the report.
            encoded = b64encode(bytes.fromhex(digest)).decode()
            headers["Content-Digest"] = f"sha-256=:{encoded}:"
        if token is not None:
            authorization = _bearer(token)
        if authorization is not None:
            headers["Authorization"] = authorization
        if body is not None:
            headers["Content-Type"] = content_type

        def attempt() -> bytes:
            request = self._request(kind, method, path, headers=headers, body=body)
            with request as (response, _):
                return bytes(self._connection.answer(response, limit=limit))

        return self._retrier.run(attempt, idempotent=idempotent)

    def _content(
        self,
        kind: RequestKind,
        folder: str,
        digest: str,
        *,
        limit: int | None = None,
        watch: DownloadWatch | None = None,
    ) -> bytes:
        check_digest(digest, what=f"name of {folder}")
        path, most = f"/v1/{folder}/{digest}", limit or self._max_download_bytes
        download, was_cached = self._cache.fetch(
            digest, lambda: self._download(kind, path, digest, limit=most, watch=watch)
        )
        if was_cached and digest not in self._downloaded:
            self._meter.add(kind, up=download.bytes_up, down=download.bytes_down)
        self._downloaded.add(digest)
        return download.data

    def _download(
        self,
        kind: RequestKind,
        path: str,
        digest: str,
        *,
        limit: int,
        watch: DownloadWatch | None,
    ) -> Download:
        content = bytearray()
        exchanges: list[Exchange] = []

        def expecting(most: int) -> None:
            if watch is not None:
                watch(sum(exchange.down for exchange in exchanges), most)

        def attempt() -> bytes:
            expecting(HEADERS_ALLOWANCE)
            start = len(content)
            headers = {"Range": f"bytes={start}-"} if start else {}
            with self._request(kind, "GET", path, headers=headers) as (response, exchange):
                exchanges.append(exchange)
                if response.status == 416:
                    # What we have is no beginning of what the server has: start over.
                    content.clear()
                    raise FailedAttemptError(
                        TransportError(
                            "the server could not continue a download", status=416, retryable=True
                        )
                    )
                if start and not _continues(response, start):
                    content.clear()
                try:
                    self._connection.answer(
                        response, limit=limit, into=content, expecting=expecting
                    )
                except FailedAttemptError as failure:
                    raise FailedAttemptError(
                        failure.error, progressed=len(content) - start >= PROGRESS_BYTES
                    ) from None
            return bytes(content)

        data = self._retrier.run(attempt, idempotent=True)
        if sha256(data).hexdigest() != digest:
            raise TransportError(
                f"the server sent {len(data)} bytes that are not the content named {digest[:16]}...",
                code="hash_mismatch",
            )
        return Download(
            data,
            bytes_up=sum(exchange.up for exchange in exchanges),
            bytes_down=sum(exchange.down for exchange in exchanges),
        )

    @contextmanager
    def _request(
        self,
        kind: RequestKind,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str],
        body: bytes | None = None,
    ) -> Iterator[tuple[HTTPResponse, Exchange]]:
        """Send one request, and count what it took once its answer is read."""
        with metered() as exchange:
            try:
                with self._connection.request(method, path, headers=headers, body=body) as response:
                    yield response, exchange
            finally:
                self._meter.add(kind, up=exchange.up, down=exchange.down)


@lru_cache(maxsize=16)
def _encode_check_in(request: CheckIn) -> bytes:
    """Encode what an app says of itself, which is the same in every round."""
    return encode_json(request)


def _continues(response: HTTPResponse, start: int) -> bool:
    match = _CONTENT_RANGE.match(response.headers.get("Content-Range", ""))
    return response.status == 206 and match is not None and int(match[1]) == start


def _decode(kind: type[T], body: bytes, *, what: str, limit: int = MESSAGE_LIMIT) -> T:
    try:
        return decode_json(kind, body, what=what, limit=limit)
    except DecodeError as error:
        raise TransportError(
            f"the server's answer is unusable: {error}", code="bad_answer"
        ) from None


def _bearer(token: str) -> str:
    if not (0 < len(token) <= 512 and token.isascii() and token.isprintable() and " " not in token):
        raise ValueError(
            "a token or enrolment key is 1 to 512 printable ASCII characters, no spaces"
        )
    return f"Bearer {token}"
