"""The device protocol's routes; see :mod:`pocketfl.protocol` for what they mean."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from functools import lru_cache
from hashlib import sha256
from typing import Any, Final

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from pocketfl.credentials.tokens import REQUEST_BYTES
from pocketfl.decoding import encode_json
from pocketfl.protocol import (
    PROTOCOL,
    AggregatorKey,
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
)
from pocketfl_server.api.downloads import content, matches, not_modified, unchanged_content
from pocketfl_server.api.fast_routes import FastRoutes
from pocketfl_server.api.requests import (
    bearer,
    check_content_digest,
    decode_body,
    number,
    private_token,
    read_body,
    read_record,
)
from pocketfl_server.api.routes import PlainRoute, described, in_thread, json_answer
from pocketfl_server.back_end import BackEnd
from pocketfl_server.blobs import BlobKind
from pocketfl_server.group_commit import GroupCommit
from pocketfl_server.records import Health

RECORD_LIMIT: Final = 16 * 2**10
"""Largest JSON body of a device: lists of runtimes and schemas, a user."""

ENROLMENT_KEY: Final = "enrolment key"
DEVICE_TOKEN: Final = "device token"  # noqa: S105 - the name of a scheme

_REVALIDATE: Final = "no-cache"
_BYTES: Final = "application/octet-stream"
_SIGNING_REQUEST: Final = "application/private-token-request"
_SIGNING_RESPONSE: Final = "application/private-token-response"


_to_json: Final = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode


@lru_cache(maxsize=256)
def _check_in(body: bytes) -> CheckIn:
    """Decode a check-in; devices of one app version all send the same bytes."""
    return decode_body(CheckIn, body, limit=RECORD_LIMIT)


@lru_cache(maxsize=256)
def _key_fields(key: AggregatorKey) -> dict[str, Any]:
    """Return a key as it is sent; all devices of a round get the same one."""
    fields: dict[str, Any] = asdict(key)
    return fields


def _reply(answer: Assignment | RetryWindow) -> bytes:
    """Return the JSON of a ``CheckInReply``, made without looking at each field's type."""
    fields = dict(vars(answer))
    if isinstance(answer, Assignment):
        fields["aggregator"] = _key_fields(answer.aggregator)
    return _to_json({"answer": fields}).encode()


def device_router(back_end: BackEnd, group: GroupCommit, fast_routes: FastRoutes) -> APIRouter:
    """Return the routes of the device protocol.

    Parameters
    ----------
    back_end : BackEnd
        What answers.
    group : GroupCommit
        Where check-ins and uploads share transactions.
    fast_routes : FastRoutes
        Gets the routes that come by the thousand, too.
    """
    router = APIRouter(route_class=PlainRoute, prefix="/v1", tags=["device"])

    async def read(call: Callable[..., Any], *arguments: Any) -> Any:
        # A local database answers faster than a thread could be asked.
        if back_end.database.in_process:
            return call(*arguments)
        return await in_thread(call, *arguments)

    @router.get(**described("/health", answers=Health, refusals=()), summary="Is it there?")
    async def health(request: Request) -> Response:
        """Answer, and name the protocol."""
        del request
        return json_answer(Health(protocol=PROTOCOL))

    @router.post(
        **described(
            "/devices",
            takes=EnrolmentRequest,
            answers=Enrolment,
            status=201,
            refusals=(401, 408, 413, 415, 422),
            secret=ENROLMENT_KEY,
        ),
        summary="Enrol a device",
    )
    async def enrol(request: Request) -> Response:
        """Exchange the app's enrolment key for a device token, which is shown this once."""
        key = bearer(request)
        record = await read_record(request, EnrolmentRequest, limit=RECORD_LIMIT)
        enrolment = await group.run(back_end.prepare_enrol(key, record))
        return json_answer(enrolment, status=201, headers={"Cache-Control": "no-store"})

    @router.get(
        **described("/notices", answers=Notices, refusals=()), summary="Which rounds are open?"
    )
    async def notices(request: Request) -> Response:
        """List all open rounds and what is paused: the same answer for everybody, with an ETag."""
        body = encode_json(await read(back_end.notices))
        etag = f'"{sha256(body).hexdigest()}"'
        if matches(request, etag):
            return not_modified(etag, cache_control=_REVALIDATE)
        headers = {"ETag": etag, "Cache-Control": _REVALIDATE}
        return Response(body, 200, headers, media_type="application/json")

    @router.post(
        **described(
            "/tasks/{task}/rounds/{round}/check-in",
            takes=CheckIn,
            answers=CheckInReply,
            refusals=(401, 404, 408, 413, 415, 422),
            secret=DEVICE_TOKEN,
        ),
        summary="Check in to a round",
    )
    async def check_in(request: Request) -> Response:
        """Give a place in the round under a random lease, or a time at which to come back.

        Who asks shows the device token, or an anonymous one as ``PrivateToken token="..."`` (RFC 9577).
        """
        anonymous = private_token(request)
        token = bearer(request) if anonymous is None else ""
        body = await read_body(request, limit=RECORD_LIMIT, media_type="application/json")
        task, this_round = request.path_params["task"], number(request, "round")
        if anonymous is None:
            operation = back_end.prepare_check_in(token, task, this_round, _check_in(body))
        else:
            operation = back_end.prepare_anonymous_check_in(
                anonymous, task, this_round, _check_in(body)
            )
        # That a token is spent outlives everything, for its epoch is longer than the round.
        answer = await group.run(operation, durable=anonymous is not None)
        headers = {"Cache-Control": "no-store"}
        return Response(_reply(answer), 200, headers, media_type="application/json")

    @router.get(
        **described("/tasks/{task}/token-keys", answers=TokenKeys, refusals=(404, 409, 502, 503)),
        summary="Keys of anonymous tokens for epochs to come",
    )
    async def token_keys(request: Request) -> Response:
        """List the keys that sign anonymous tokens, one for each epoch: the same for everybody."""
        keys = await in_thread(back_end.token_keys, request.path_params["task"])
        return json_answer(keys, headers={"Cache-Control": _REVALIDATE})

    @router.post(
        **described(
            "/tasks/{task}/token-keys/{round}/token",
            takes=_SIGNING_REQUEST,
            answers=_SIGNING_RESPONSE,
            refusals=(401, 404, 408, 409, 413, 415, 422),
            secret=DEVICE_TOKEN,
        ),
        summary="Have an anonymous token signed",
    )
    async def sign_token(request: Request) -> Response:
        """Sign a blinded token (RFC 9578, type 2): one per device and epoch, by its first round."""
        token = bearer(request)
        body = await read_body(request, limit=REQUEST_BYTES, media_type=_SIGNING_REQUEST)
        task, this_round = request.path_params["task"], number(request, "round")
        signed = await in_thread(back_end.sign_token, token, task, this_round, body)
        headers = {"Cache-Control": "no-store"}
        return Response(signed, 200, headers, media_type=_SIGNING_RESPONSE)

    @router.put(
        **described(
            "/leases/{lease}/report",
            takes=_BYTES,
            answers=ReportReceipt,
            refusals=(404, 408, 409, 410, 413, 415, 422),
        ),
        summary="Upload a sealed report",
    )
    async def upload(request: Request) -> Response:
        """Take in a sealed report; once this answers, it is on disk. Repeating changes nothing."""
        lease = request.path_params["lease"]
        limit = await read(back_end.report_bytes, lease)
        body = await read_body(request, limit=limit, media_type=_BYTES)
        check_content_digest(request, body)
        receipt = await group.run(back_end.prepare_upload(lease, body))
        return json_answer(receipt)

    @router.get(
        **described(
            "/features/{table}",
            answers=FeaturePage,
            refusals=(401, 422),
            secret=DEVICE_TOKEN,
            query={"cursor": "The next_cursor of the page before"},
        ),
        summary="The user's own server-side features",
    )
    async def features(request: Request) -> Response:
        """Return a page of rows that hold for the user whose device asks, and for nobody else."""
        page = await read(
            back_end.encoded_features,
            bearer(request),
            request.path_params["table"],
            request.query_params.get("cursor"),
        )
        headers = {"Cache-Control": "private, no-store"}
        return Response(page.to_json(), 200, headers, media_type="application/json")

    contents: dict[BlobKind, Callable[[str], bytes]] = {
        "plan": back_end.plan,
        "parameters": back_end.parameters,
        "rollout": back_end.rollout_document,
    }

    async def download(request: Request, kind: BlobKind) -> Response:
        digest = request.path_params["sha256"]
        known = matches(request, f'"{digest}"')
        if known and await read(back_end.has_content, kind, digest):
            return unchanged_content(digest)
        return content(request, await read(contents[kind], digest), digest)

    @router.get(
        **described("/plans/{sha256}", answers=_BYTES, refusals=(404, 416)),
        summary="Download a plan",
    )
    async def plan(request: Request) -> Response:
        """Return a signed plan by its hash: immutable, with ETag and ranges."""
        return await download(request, "plan")

    @router.get(
        **described("/parameters/{sha256}", answers=_BYTES, refusals=(404, 416)),
        summary="Download parameters",
    )
    async def parameters(request: Request) -> Response:
        """Return parameters in their plan's storage by their hash: immutable, with ETag and ranges."""
        return await download(request, "parameters")

    @router.get(
        **described("/rollouts/{sha256}", answers=_BYTES, refusals=(404, 416)),
        summary="Download a rollout document",
    )
    async def rollout(request: Request) -> Response:
        """Return a signed rollout document by its hash: immutable, with ETag and ranges."""
        return await download(request, "rollout")

    fast_routes.add("POST", "/v1/tasks/{task}/rounds/{round}/check-in", check_in)
    fast_routes.add("PUT", "/v1/leases/{lease}/report", upload)
    fast_routes.add("GET", "/v1/notices", notices)
    fast_routes.add("GET", "/v1/features/{table}", features)
    fast_routes.add("GET", "/v1/parameters/{sha256}", parameters)
    fast_routes.add("GET", "/v1/plans/{sha256}", plan)
    return router
