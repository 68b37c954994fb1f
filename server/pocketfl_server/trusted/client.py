"""How the back end reaches the trusted tier."""

# ruff: noqa: A002 - "round" is the word of the field

from __future__ import annotations

from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Final, Protocol, Self, TypeVar
from urllib.parse import urlsplit

import urllib3

from pocketfl.decoding import decode_json, encode_json
from pocketfl.errors import DecodeError
from pocketfl.protocol import (
    MESSAGE_LIMIT,
    AggregatorKey,
    Attestation,
    Problem,
    check_identifier,
    check_token,
)
from pocketfl_server.trusted.messages import (
    PARTIAL_LIMIT,
    SEALED_LIMIT,
    KeyDescription,
    PublishedTokenKeys,
    SealedEntry,
    SealedPartialSum,
    SealedRelease,
    TaskDescription,
    TokenKeyDigest,
    TokenKeyDigests,
    batches,
    decode_partial_message,
    decode_sealed_release,
    encode_batch,
    encode_partial_message,
    encode_sealed_release,
)
from pocketfl_server.trusted.refusals import (
    REFUSALS,
    Conflict,
    MalformedRequest,
    TrustedTierError,
    TrustedTierUnavailable,
)
from pocketfl_server.trusted.releases import RELEASE_LIMIT, Release, decode_release

T = TypeVar("T")

_BY_CODE: Final = {kind.default_code: kind for kind in REFUSALS}
_BY_STATUS: Final = {kind.status: kind for kind in REFUSALS} | {Conflict.status: Conflict}


class TrustedTier(Protocol):
    """All that a back end can ask of a trusted tier; every method may be repeated without harm.

    Each raises a subclass of :class:`~pocketfl_server.trusted.refusals.TrustedTierError` when it
    refuses, and then its state is as it was.
    """

    def register(self, task: str, plan_data: bytes) -> KeyDescription:
        """Verify a plan and bind a key to it.

        Parameters
        ----------
        task : str
            Name of the task.
        plan_data : bytes
            The plan's archive. The same plan again gives the same key.

        Raises
        ------
        PlanRefused
            If no trusted modeller signed it, or its privacy claims cannot be kept.
        Conflict
            If the task has another plan, or the plan another task: one plan, one budget.
        """

    def describe(self, task: str) -> TaskDescription:
        """Say where a task stands: its key, its last released round, planned and spent privacy."""

    def attest(self, task: str) -> Attestation | None:
        """Vouch for a task's key with a fresh token and the ledger's head.

        Returns
        -------
        Attestation or None
            None from a trusted tier without attestation, whose key devices have to pin.

        Raises
        ------
        TrustedTierUnavailable
            With code ``attestation_failed`` if its platform gave no token.
        """

    def publish_token_keys(self, task: str, keys: Sequence[TokenKeyDigest]) -> PublishedTokenKeys:
        """Enter keys of anonymous tokens into the task's directory, and vouch for it.

        Parameters
        ----------
        task : str
            Name of the task.
        keys : sequence of TokenKeyDigest
            By their rounds. Those that are in the directory already stay as they are.

        Raises
        ------
        Conflict
            With code ``token_keys_conflict`` if the directory has another key for one of the rounds, or
            keys between these.
        TrustedTierUnavailable
            With code ``witness_failed`` or ``attestation_failed``; the keys are in the directory.
        """

    def submit(
        self, task: str, round: int, model_version: int, entries: Iterable[SealedEntry]
    ) -> None:
        """Hand over sealed reports; on return they are durable.

        Parameters
        ----------
        task : str
            Name of the task.
        round : int
            Counts from 1; must be above the last released round.
        model_version : int
            The version that the round started from; the same in every call for the round.
        entries : iterable of SealedEntry
            The same bytes for the same lease again change nothing.

        Raises
        ------
        Conflict
            If other bytes are on record for a lease (the first stay, and nothing of the call's
            current batch is kept), or the round is over.
        """

    def release(self, task: str, round: int, model_version: int) -> Release:
        """Sum a round's reports, add noise, charge the budget, and return the noised sum.

        Repeating the call, also after a crash, returns the same values and charges nothing more.

        Raises
        ------
        FloorNotReached
            Too few valid reports. Nothing was drawn or charged; submit more or abandon the round.
        BudgetExhausted
            The plan allows no further release.
        Conflict
            If the round is abandoned or not above the last released one.
        """

    def abandon(self, task: str, round: int) -> None:
        """Delete a round's sealed reports for good; it can never be released.

        Raises
        ------
        Conflict
            If the round has been released.
        """


class HttpTrustedTier:
    """The trusted tier across HTTP; implements :class:`TrustedTier`. Safe to share between threads.

    Every request is idempotent, so a lost connection is tried again.

    Parameters
    ----------
    url : str
        Such as ``http://127.0.0.1:8001``.
    token : str
        Bearer token that the trusted tier was started with.
    release_timeout : float
        Seconds to wait for a release: noise costs about 25 microseconds for each parameter.
    timeout : float
        Seconds to wait for any other answer.
    retries : int
        Further attempts when there is no answer.
    ca_file : str, optional
        PEM file of the authority that signed its certificate, unless the system knows it.

    Raises
    ------
    ValueError
        If the URL is not an http(s) URL or the token is no token.
    """

    def __init__(
        self,
        url: str,
        token: str,
        *,
        release_timeout: float = 1800.0,
        timeout: float = 60.0,
        retries: int = 3,
        ca_file: str | None = None,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username:
            raise ValueError("the trusted tier's URL must look like http://host:port")
        self._url = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"
        self._headers = {
            "Authorization": f"Bearer {check_token(token, what='the trusted tier token')}"
        }
        self._timeout = timeout
        self._release_timeout = release_timeout
        self._pool = urllib3.PoolManager(
            maxsize=8,
            ca_certs=ca_file,
            retries=urllib3.Retry(
                total=retries,
                allowed_methods=None,
                redirect=0,
                backoff_factor=0.1,
                raise_on_redirect=False,
            ),
        )

    def close(self) -> None:
        """Close the connections."""
        self._pool.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def register(self, task: str, plan_data: bytes) -> KeyDescription:
        """Verify a plan and bind a key to it; see :class:`TrustedTier`."""
        answer = self._request("PUT", _task_path(task), body=plan_data)
        return _decode(KeyDescription, answer, what="key description")

    def describe(self, task: str) -> TaskDescription:
        """Say where a task stands; see :class:`TrustedTier`."""
        return _decode(TaskDescription, self._request("GET", _task_path(task)), what="task")

    def attest(self, task: str) -> Attestation | None:
        """Vouch for a task's key; see :class:`TrustedTier`."""
        answer = self._request("POST", f"{_task_path(task)}/attestation")
        return _decode(Attestation, answer, what="attestation") if answer else None

    def publish_token_keys(self, task: str, keys: Sequence[TokenKeyDigest]) -> PublishedTokenKeys:
        """Have token keys vouched for; see :class:`TrustedTier`."""
        body = encode_json(TokenKeyDigests(keys=tuple(keys)))
        answer = self._request("PUT", f"{_task_path(task)}/token-keys", body=body)
        return _decode(PublishedTokenKeys, answer, what="published token keys")

    def submit(
        self, task: str, round: int, model_version: int, entries: Iterable[SealedEntry]
    ) -> None:
        """Hand over sealed reports, in as many requests as their size needs."""
        path = f"{_task_path(task)}/rounds/{round}/reports?model_version={model_version}"
        for batch in batches(entries):
            self._request("POST", path, body=encode_batch(batch))

    def release(self, task: str, round: int, model_version: int) -> Release:
        """Return a round's noised sum; see :class:`TrustedTier`."""
        path = f"{_task_path(task)}/rounds/{round}/release?model_version={model_version}"
        answer = self._request("POST", path, timeout=self._release_timeout, limit=RELEASE_LIMIT)
        try:
            release = decode_release(answer)
        except DecodeError as error:
            raise _nonsense(error) from None
        if (release.task, release.round, release.model_version) != (task, round, model_version):
            raise TrustedTierUnavailable(
                f"the trusted tier released round {release.round} of task {release.task!r} instead of "
                f"round {round} of task {task!r}",
                code="bad_answer",
            )
        return release

    def abandon(self, task: str, round: int) -> None:
        """Delete a round's sealed reports for good; see :class:`TrustedTier`."""
        self._request("DELETE", f"{_task_path(task)}/rounds/{round}/reports")

    def hand_over(
        self,
        task: str,
        round: int,
        model_version: int,
        root: AggregatorKey,
    ) -> SealedPartialSum:
        """Have a shard seal a round's sum to the root; see :meth:`.Aggregator.hand_over`."""
        path = f"{_task_path(task)}/rounds/{round}/partial-sum?model_version={model_version}"
        answer = self._request(
            "POST",
            path,
            body=encode_json(root),
            timeout=self._release_timeout,
            limit=PARTIAL_LIMIT,
        )
        try:
            return decode_partial_message(answer)
        except DecodeError as error:
            raise _nonsense(error) from None

    def accept_partial_sum(self, partial: SealedPartialSum) -> None:
        """Give the root a shard's sum; see :meth:`.Aggregator.accept_partial_sum`."""
        path = f"{_task_path(partial.task)}/rounds/{partial.round}/partial-sums"
        self._request("PUT", path, body=encode_partial_message(partial))

    def forward(
        self, task: str, round: int, model_version: int, shard: AggregatorKey
    ) -> SealedRelease:
        """Have the root seal a release to a shard; see :meth:`.Aggregator.forward`."""
        path = f"{_task_path(task)}/rounds/{round}/sealed-release?model_version={model_version}"
        answer = self._request("POST", path, body=encode_json(shard), limit=SEALED_LIMIT)
        try:
            return decode_sealed_release(answer)
        except DecodeError as error:
            raise _nonsense(error) from None

    def adopt(self, sealed: SealedRelease) -> None:
        """Give a shard a release of the root; see :meth:`.Aggregator.adopt`."""
        path = f"{_task_path(sealed.task)}/rounds/{sealed.round}/sealed-release"
        self._request("PUT", path, body=encode_sealed_release(sealed))

    def _request(
        self,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        timeout: float | None = None,
        limit: int = MESSAGE_LIMIT,
    ) -> bytes:
        headers = dict(self._headers)
        if body is not None:
            headers["Content-Type"] = "application/octet-stream"
        try:
            response = self._pool.request(
                method,
                self._url + path,
                body=body,
                headers=headers,
                timeout=urllib3.Timeout(connect=10.0, read=timeout or self._timeout),
                preload_content=False,
                decode_content=False,
            )
            data = response.read(limit + 1)
            # A connection with unread bytes is of no further use.
            if len(data) > limit:
                response.close()
            else:
                response.release_conn()
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise TrustedTierUnavailable(
                f"the trusted tier at {self._url} cannot be reached ({type(error).__name__}); is its "
                "process running?"
            ) from None
        if len(data) > limit:
            raise TrustedTierUnavailable(
                f"the trusted tier answered with more than {limit} bytes", code="bad_answer"
            )
        if response.status not in (200, 204):
            raise _refusal(response.status, data)
        return data


def _task_path(task: str) -> str:
    try:
        return f"/v1/tasks/{check_identifier(task, what='task')}"
    except ValueError as error:
        raise MalformedRequest(str(error)) from None


def _decode(kind: type[T], data: bytes, *, what: str) -> T:
    try:
        return decode_json(kind, data, what=what, limit=MESSAGE_LIMIT)
    except DecodeError as error:
        raise _nonsense(error) from None


def _nonsense(error: DecodeError) -> TrustedTierUnavailable:
    return TrustedTierUnavailable(
        f"the trusted tier's answer cannot be read: {error}", code="bad_answer"
    )


def _refusal(status: int, data: bytes) -> TrustedTierError:
    """Turn an answer back into the exception that the aggregator raised."""
    try:
        problem = decode_json(Problem, data, what="problem", limit=MESSAGE_LIMIT)
    except DecodeError:
        return TrustedTierUnavailable(
            f"the trusted tier answered {status} without a reason", code="bad_answer"
        )
    kind = _BY_CODE.get(problem.code) or _BY_STATUS.get(status) or TrustedTierError
    return kind(problem.message, code=problem.code, details=problem.details)
