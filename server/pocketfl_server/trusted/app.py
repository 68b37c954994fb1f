"""The trusted tier over HTTP: a thin skin over the aggregator, for the back end alone.

==============================================  ==================================================
``GET /health``                                 204 when it serves; the one path without a token
``PUT /v1/tasks/T``                             plan archive -> :class:`.messages.KeyDescription`
``GET /v1/tasks/T``                             :class:`.messages.TaskDescription`
``PUT /v1/tasks/T/token-keys``                  digests of token keys -> what vouches for them
``POST /v1/tasks/T/rounds/R/reports``           a batch of sealed reports; idempotent
``POST /v1/tasks/T/rounds/R/release``           the noised sum; repeated, the same bytes
``DELETE /v1/tasks/T/rounds/R/reports``         abandon the round
``POST /v1/tasks/T/rounds/R/partial-sum``       a shard's sum, sealed to the root's key in the body
``PUT /v1/tasks/T/rounds/R/partial-sums``       such a sum, for the root; idempotent
``POST /v1/tasks/T/rounds/R/sealed-release``    the root's release, sealed to the key in the body
``PUT /v1/tasks/T/rounds/R/sealed-release``     such a release, for the shard; idempotent
==============================================  ==================================================

``model_version`` is a query parameter of the POSTs. Every refusal is a
:class:`pocketfl.protocol.Problem`; an unforeseen failure is logged by type and place, never with its
message, which might quote a value.
"""

# ruff: noqa: A002 - "round" is the word of the field

from __future__ import annotations

import hmac
import logging
import traceback
from collections.abc import Callable
from typing import Annotated, Any, Final, TypeVar

from fastapi import Depends, FastAPI, Path, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from pocketfl.decoding import decode_json, encode, encode_json
from pocketfl.errors import DecodeError
from pocketfl.plan.archive import PLAN_LIMIT
from pocketfl.protocol import MESSAGE_LIMIT, AggregatorKey, Problem, check_token
from pocketfl_server.trusted.aggregator import Aggregator
from pocketfl_server.trusted.ledger import LedgerError
from pocketfl_server.trusted.messages import (
    BATCH_LIMIT,
    PARTIAL_LIMIT,
    SEALED_LIMIT,
    TokenKeyDigests,
    decode_batch,
    decode_partial_message,
    decode_sealed_release,
    encode_partial_message,
    encode_sealed_release,
)
from pocketfl_server.trusted.refusals import (
    MalformedRequest,
    NotAuthorised,
    RequestTooLarge,
    TrustedTierError,
    TrustedTierUnavailable,
)
from pocketfl_server.trusted.releases import encode_release

logger: Final = logging.getLogger(__name__)

T = TypeVar("T")

Task = Annotated[str, Path(max_length=128)]
Round = Annotated[int, Path(ge=1, lt=2**31)]
ModelVersion = Annotated[int, Query(ge=0, lt=2**31)]
_BINARY: Final[dict[str, Any]] = {
    "requestBody": {"required": True, "content": {"application/octet-stream": {}}}
}


def create_trusted_app(aggregator: Aggregator, *, token: str) -> FastAPI:
    """Serve an aggregator.

    Parameters
    ----------
    aggregator : Aggregator
        Owned by the caller, who also closes it.
    token : str
        Bearer token of the back end: 16 to 128 URL-safe characters.

    Returns
    -------
    FastAPI
        Documented by its ``/openapi.json``.

    Raises
    ------
    ValueError
        If the token is too short to keep anybody out.
    """
    expected = f"Bearer {check_token(token, what='the trusted tier token')}".encode()

    def authorise(request: Request) -> None:
        given = request.headers.get("authorization", "").encode("utf-8", "replace")
        if not hmac.compare_digest(given, expected):
            raise NotAuthorised("the bearer token of the trusted tier is missing or wrong")

    app = FastAPI(title="PocketFL trusted tier", version="1", docs_url=None, redoc_url=None)
    _handle_errors(app)

    @app.get("/health", status_code=204)
    def health() -> None:
        """Answer 204."""

    @app.put("/v1/tasks/{task}", dependencies=[Depends(authorise)], openapi_extra=_BINARY)
    async def register(task: Task, request: Request) -> Response:
        """Verify the plan in the body and return the key that is bound to it."""
        data = await _body(request, PLAN_LIMIT)
        return _json(await _call(lambda: aggregator.register(task, data)))

    @app.get("/v1/tasks/{task}", dependencies=[Depends(authorise)])
    async def describe(task: Task) -> Response:
        """Return the task's key, its last released round, and planned and spent privacy."""
        return _json(await _call(lambda: aggregator.describe(task)))

    @app.post("/v1/tasks/{task}/attestation", dependencies=[Depends(authorise)])
    async def attest(task: Task) -> Response:
        """Return a fresh token for the task's key and the ledger's head; 204 without attestation."""
        attestation = await _call(lambda: aggregator.attest(task))
        return Response(status_code=204) if attestation is None else _json(attestation)

    @app.put("/v1/tasks/{task}/token-keys", dependencies=[Depends(authorise)])
    async def publish_token_keys(task: Task, request: Request) -> Response:
        """Enter the keys in the body into the task's directory; return what vouches for it."""
        body = await _body(request, MESSAGE_LIMIT)
        wanted = decode_json(TokenKeyDigests, body, what="token keys", limit=MESSAGE_LIMIT)
        return _json(await _call(lambda: aggregator.publish_token_keys(task, wanted.keys)))

    @app.post(
        "/v1/tasks/{task}/rounds/{round}/reports",
        status_code=204,
        dependencies=[Depends(authorise)],
        openapi_extra=_BINARY,
    )
    async def submit(
        task: Task, round: Round, model_version: ModelVersion, request: Request
    ) -> Response:
        """Store the sealed reports in the body; they are durable when this answers."""
        entries = decode_batch(await _body(request, BATCH_LIMIT))
        await _call(lambda: aggregator.submit(task, round, model_version, entries))
        return Response(status_code=204)

    @app.post("/v1/tasks/{task}/rounds/{round}/release", dependencies=[Depends(authorise)])
    async def release(task: Task, round: Round, model_version: ModelVersion) -> Response:
        """Return the round's noised sum; the first call makes and charges it."""
        data = await _call(lambda: encode_release(aggregator.release(task, round, model_version)))
        return Response(data, media_type="application/octet-stream")

    @app.delete(
        "/v1/tasks/{task}/rounds/{round}/reports",
        status_code=204,
        dependencies=[Depends(authorise)],
    )
    async def abandon(task: Task, round: Round) -> Response:
        """Delete the round's sealed reports for good."""
        await _call(lambda: aggregator.abandon(task, round))
        return Response(status_code=204)

    @app.post("/v1/tasks/{task}/rounds/{round}/partial-sum", dependencies=[Depends(authorise)])
    async def hand_over(
        task: Task, round: Round, model_version: ModelVersion, request: Request
    ) -> Response:
        """Return the round's sum, sealed to the root whose key is in the body; end the round."""
        body = await _body(request, MESSAGE_LIMIT)
        root = decode_json(AggregatorKey, body, what="the root's key", limit=MESSAGE_LIMIT)
        partial = await _call(lambda: aggregator.hand_over(task, round, model_version, root))
        return Response(encode_partial_message(partial), media_type="application/octet-stream")

    @app.put(
        "/v1/tasks/{task}/rounds/{round}/partial-sums",
        status_code=204,
        dependencies=[Depends(authorise)],
        openapi_extra=_BINARY,
    )
    async def accept_partial_sum(task: Task, round: Round, request: Request) -> Response:
        """Keep the shard's sealed sum in the body for the round's release."""
        partial = decode_partial_message(await _body(request, PARTIAL_LIMIT))
        if (partial.task, partial.round) != (task, round):
            raise MalformedRequest("the partial sum is of another task or round than the path")
        await _call(lambda: aggregator.accept_partial_sum(partial))
        return Response(status_code=204)

    @app.post("/v1/tasks/{task}/rounds/{round}/sealed-release", dependencies=[Depends(authorise)])
    async def forward(
        task: Task, round: Round, model_version: ModelVersion, request: Request
    ) -> Response:
        """Return the round's release, sealed to the shard whose key is in the body."""
        body = await _body(request, MESSAGE_LIMIT)
        shard = decode_json(AggregatorKey, body, what="the shard's key", limit=MESSAGE_LIMIT)
        sealed = await _call(lambda: aggregator.forward(task, round, model_version, shard))
        return Response(encode_sealed_release(sealed), media_type="application/octet-stream")

    @app.put(
        "/v1/tasks/{task}/rounds/{round}/sealed-release",
        status_code=204,
        dependencies=[Depends(authorise)],
        openapi_extra=_BINARY,
    )
    async def adopt(task: Task, round: Round, request: Request) -> Response:
        """Keep the root's sealed release in the body as what this shard's round came to."""
        sealed = decode_sealed_release(await _body(request, SEALED_LIMIT))
        if (sealed.task, sealed.round) != (task, round):
            raise MalformedRequest("the release is of another task or round than the path")
        await _call(lambda: aggregator.adopt(sealed))
        return Response(status_code=204)

    return app


def _handle_errors(app: FastAPI) -> None:
    @app.exception_handler(TrustedTierError)
    async def refused(request: Request, error: TrustedTierError) -> JSONResponse:
        del request
        return _problem(error)

    @app.exception_handler(DecodeError)
    async def undecodable(request: Request, error: DecodeError) -> JSONResponse:
        del request
        return _problem(MalformedRequest(str(error)))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        del request
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        return _problem(MalformedRequest(f"{place}: {first['msg']}"))

    @app.exception_handler(HTTPException)
    async def unrouted(request: Request, error: HTTPException) -> JSONResponse:
        del request
        problem = Problem(code="no_such_path", message=str(error.detail))
        return JSONResponse(encode(problem), status_code=error.status_code, headers=error.headers)


async def _call(work: Callable[[], T]) -> T:
    """Run blocking work in a thread, letting out refusals and nothing else of a failure."""

    def guarded() -> T:
        try:
            return work()
        except TrustedTierError:
            raise
        except LedgerError as error:
            logger.error("%s", error)  # noqa: TRY400 - SQLite's own words, without values
            raise TrustedTierUnavailable(
                "the trusted tier cannot write its ledger; its log says why", code="ledger_failed"
            ) from None
        except Exception as error:
            frames = traceback.extract_tb(error.__traceback__)
            places = ", ".join(f"{frame.name}:{frame.lineno}" for frame in frames)
            logger.error("request failed: %s at %s", type(error).__name__, places)  # noqa: TRY400
        # Raised outside the handler, so that the first error is no context of this one.
        raise TrustedTierError(
            "the trusted tier failed; its state is unchanged, see its log", code="internal_error"
        )

    return await run_in_threadpool(guarded)


async def _body(request: Request, limit: int) -> bytes:
    """Read a body, stopping as soon as it is longer than allowed."""
    too_large = RequestTooLarge(f"the body has more than the {limit} bytes allowed")
    stated = request.headers.get("content-length", "")
    if stated.isdecimal() and int(stated) > limit:
        raise too_large
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:
            raise too_large
        chunks.append(chunk)
    return b"".join(chunks)


def _json(record: object) -> Response:
    return Response(encode_json(record), media_type="application/json")


def _problem(error: TrustedTierError) -> JSONResponse:
    problem = Problem(code=error.code, message=str(error), details=error.details)
    headers = {"WWW-Authenticate": "Bearer"} if error.status == 401 else None
    return JSONResponse(encode(problem), status_code=error.status, headers=headers)
