"""Bad input over real HTTP: a clear 4xx with its reason, and a database that has not changed."""

from __future__ import annotations

import json
import socket
from base64 import b64encode
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from urllib.parse import urlsplit

import numpy as np
import pytest

from pocketfl.decoding import decode_json, encode
from pocketfl.protocol import Assignment, Problem
from pocketfl_server.leases import new_lease

from .conftest import (
    AVERAGING,
    CHECK_IN,
    ENROLMENT_KEY,
    OPERATOR_KEY,
    Fleet,
    Served,
    everything_in,
    seal_update,
)

BYTES = "application/octet-stream"


def encoded_sha256(data: bytes) -> str:
    return b64encode(sha256(data).digest()).decode()


@dataclass
class Scene:
    """An open round of task "clicks", one device with a lease and one that has reported."""

    call: Served
    token: str
    lease: str
    sealed: bytes
    used_lease: str
    other_sealed: bytes

    def check_in(self, **changes: object):
        arguments = {"token": self.token, "json": encode(CHECK_IN), **changes}
        return self.call("POST", "/v1/tasks/clicks/rounds/1/check-in", **arguments)

    def upload(
        self,
        body: object,
        *,
        lease: str | None = None,
        media_type: str = BYTES,
        headers: dict[str, str] | None = None,
    ):
        path = f"/v1/leases/{lease or self.lease}/report"
        return self.call("PUT", path, body=body, media_type=media_type, headers=headers or {})

    def operate(self, method: str, path: str, **arguments: object):
        return self.call(method, f"/v1/operator{path}", **{"token": OPERATOR_KEY, **arguments})


@pytest.fixture
def scene(served: Served, make_plan, clock) -> Iterator[Scene]:
    plan = make_plan()
    served.back_end.create_task("clicks", plan.data, optimizer=AVERAGING)
    served.back_end.open_round("clicks", seconds=60)
    fleet = Fleet(served.back_end)
    waiting: Assignment = fleet.check_in("waiting", "clicks", 1)
    done: Assignment = fleet.check_in("done", "clicks", 1)
    served.back_end.upload(done.lease, seal_update(np.ones(5), done, plan).data)
    yield Scene(
        call=served,
        token=fleet.token("fresh"),
        lease=waiting.lease,
        sealed=seal_update(np.ones(5), waiting, plan).data,
        used_lease=done.lease,
        other_sealed=seal_update(np.ones(5), done, plan).data,
    )


def optimizer(**changes: object) -> dict[str, object]:
    return {"kind": "sgd", "learning_rate": 1.0, **changes}


CASES: dict[str, tuple[Callable[[Scene], object], int, str]] = {
    # Enrolment.
    "enrol without a key": (
        lambda s: s.call("POST", "/v1/devices", json={"user": "a", "sdk": "1"}),
        401,
        "not_authenticated",
    ),
    "enrol with a wrong key": (
        lambda s: s.call("POST", "/v1/devices", token="wrong", json={"user": "a", "sdk": "1"}),
        401,
        "wrong_enrolment_key",
    ),
    "enrol with the key in another scheme": (
        lambda s: s.call(
            "POST",
            "/v1/devices",
            headers={"Authorization": f"Basic {ENROLMENT_KEY}"},
            json={"user": "a", "sdk": "1"},
        ),
        401,
        "not_authenticated",
    ),
    "enrol garbage": (
        lambda s: s.call(
            "POST",
            "/v1/devices",
            token=ENROLMENT_KEY,
            body=b"{garbage",
            media_type="application/json",
        ),
        422,
        "malformed",
    ),
    "enrol with an unknown field": (
        lambda s: s.call(
            "POST",
            "/v1/devices",
            token=ENROLMENT_KEY,
            json={"user": "a", "sdk": "1", "address": "b"},
        ),
        422,
        "malformed",
    ),
    "enrol with half a surrogate pair": (
        lambda s: s.call(
            "POST",
            "/v1/devices",
            token=ENROLMENT_KEY,
            body=b'{"user":"\\ud800","sdk":"1"}',
            media_type="application/json",
        ),
        422,
        "malformed",
    ),
    # Check-in.
    "check in without a token": (lambda s: s.check_in(token=None), 401, "not_authenticated"),
    "check in with a wrong token": (lambda s: s.check_in(token="x" * 43), 401, "unknown_token"),
    "check in with the enrolment key": (
        lambda s: s.check_in(token=ENROLMENT_KEY),
        401,
        "unknown_token",
    ),
    "check in to an unknown task": (
        lambda s: s.call(
            "POST", "/v1/tasks/none/rounds/1/check-in", token=s.token, json=encode(CHECK_IN)
        ),
        404,
        "unknown_round",
    ),
    "check in to an unknown round": (
        lambda s: s.call(
            "POST", "/v1/tasks/clicks/rounds/2/check-in", token=s.token, json=encode(CHECK_IN)
        ),
        404,
        "unknown_round",
    ),
    "check in to a round that is no number": (
        lambda s: s.call(
            "POST", "/v1/tasks/clicks/rounds/-1/check-in", token=s.token, json=encode(CHECK_IN)
        ),
        404,
        "unknown_round",
    ),
    "check in with garbage": (
        lambda s: s.check_in(json=None, body=b"\xff\xfe", media_type="application/json"),
        422,
        "malformed",
    ),
    "check in with a field of another type": (
        lambda s: s.check_in(json={"sdk": 1, "plan_schemas": [1], "runtimes": []}),
        422,
        "malformed",
    ),
    "check in with NaN": (
        lambda s: s.check_in(
            json=None,
            body=b'{"sdk":"1","plan_schemas":[NaN],"runtimes":[]}',
            media_type="application/json",
        ),
        422,
        "malformed",
    ),
    "check in with deep nesting": (
        lambda s: s.check_in(json=None, body=b"[" * 9000, media_type="application/json"),
        422,
        "malformed",
    ),
    "check in with an oversize body": (
        lambda s: s.check_in(json={"sdk": "x" * 20_000, "plan_schemas": [1], "runtimes": []}),
        413,
        "body_too_large",
    ),
    "check in with another content type": (
        lambda s: s.check_in(media_type="text/plain"),
        415,
        "unsupported_media_type",
    ),
    # Upload.
    "upload under a lease that is none": (
        lambda s: s.upload(s.sealed, lease="x" * 56),
        404,
        "unknown_lease",
    ),
    "upload under a forged lease": (
        lambda s: s.upload(s.sealed, lease=s.lease[:-1] + ("A" if s.lease[-1] != "A" else "B")),
        404,
        "unknown_lease",
    ),
    "upload under a lease of an unknown round": (
        lambda s: s.upload(s.sealed, lease=new_lease(b"x" * 8, b"k" * 32)),
        404,
        "unknown_lease",
    ),
    "upload other bytes again": (
        lambda s: s.upload(s.other_sealed, lease=s.used_lease),
        409,
        "other_report_for_lease",
    ),
    "upload bytes that changed on the way": (
        lambda s: s.upload(
            s.sealed[:-1] + bytes([s.sealed[-1] ^ 1]),
            headers={"Content-Digest": f"md5=:AAAA:, sha-256=:{encoded_sha256(s.sealed)}:"},
        ),
        422,
        "digest_mismatch",
    ),
    "upload too few bytes": (lambda s: s.upload(s.sealed[:-1]), 422, "wrong_length"),
    "upload nothing": (lambda s: s.upload(b""), 422, "wrong_length"),
    "upload too many bytes": (lambda s: s.upload(s.sealed + b"x"), 413, "body_too_large"),
    "upload without end, its length unsaid": (
        lambda s: s.upload(iter([b"x" * 1000] * 50)),
        413,
        "body_too_large",
    ),
    "upload another content type": (
        lambda s: s.upload(s.sealed, media_type="application/json"),
        415,
        "unsupported_media_type",
    ),
    # Downloads and features.
    "an unknown plan": (lambda s: s.call("GET", f"/v1/plans/{'0' * 64}"), 404, "unknown_plan"),
    "a plan by no hash": (lambda s: s.call("GET", "/v1/plans/..%2f"), 404, "no_such_path"),
    "unknown parameters": (
        lambda s: s.call("GET", f"/v1/parameters/{'0' * 64}"),
        404,
        "unknown_parameters",
    ),
    "features without a token": (
        lambda s: s.call("GET", "/v1/features/weather"),
        401,
        "not_authenticated",
    ),
    "features with a made-up cursor": (
        lambda s: s.call("GET", "/v1/features/weather?cursor=-1", token=s.token),
        422,
        "bad_cursor",
    ),
    "features of an impossible table": (
        lambda s: s.call("GET", "/v1/features/%20", token=s.token),
        422,
        "malformed",
    ),
    # The operator's routes.
    "operate without a key": (
        lambda s: s.operate("GET", "/tasks", token=None),
        401,
        "not_authenticated",
    ),
    "operate with a wrong key": (
        lambda s: s.operate("GET", "/tasks", token=ENROLMENT_KEY),
        401,
        "wrong_operator_key",
    ),
    "operate with a device token": (
        lambda s: s.operate("POST", "/tasks/clicks/rounds/1/close", token=s.token),
        401,
        "wrong_operator_key",
    ),
    "upload no plan": (
        lambda s: s.operate(
            "PUT",
            "/plans/9834876dcfb05cb167a5c24953eba58c4ac89b1adf57f28f2f9d09af107ee8f0",
            body=b"aaa",
            media_type=BYTES,
        ),
        422,
        "plan_refused",
    ),
    "upload a plan under another hash": (
        lambda s: s.operate("PUT", f"/plans/{'0' * 64}", body=b"aaa", media_type=BYTES),
        422,
        "digest_mismatch",
    ),
    "create a task of an unknown plan": (
        lambda s: s.operate(
            "POST",
            "/tasks",
            json={"name": "a", "plan_sha256": "0" * 64, "optimizer": optimizer()},
        ),
        404,
        "unknown_plan",
    ),
    "create a task with an impossible optimizer": (
        lambda s: s.operate(
            "POST",
            "/tasks",
            json={
                "name": "a",
                "plan_sha256": "0" * 64,
                "optimizer": optimizer(learning_rate=-1),
            },
        ),
        422,
        "malformed",
    ),
    "ask for an unknown task": (lambda s: s.operate("GET", "/tasks/none"), 404, "unknown_task"),
    "ask for an unknown model": (
        lambda s: s.operate("GET", "/tasks/clicks/models/99999999999"),
        404,
        "unknown_model",
    ),
    "open a second round": (
        lambda s: s.operate("POST", "/tasks/clicks/rounds", json={"seconds": 5}),
        409,
        "round_under_way",
    ),
    "open a round for no time": (
        lambda s: s.operate("POST", "/tasks/clicks/rounds", json={"seconds": 0}),
        422,
        "malformed",
    ),
    "open a round of an unknown task": (
        lambda s: s.operate("POST", "/tasks/none/rounds", json={"seconds": 5}),
        404,
        "unknown_task",
    ),
    "close an unknown round": (
        lambda s: s.operate("POST", "/tasks/clicks/rounds/7/close"),
        404,
        "unknown_round",
    ),
    "put features with a list for a value": (
        lambda s: s.operate(
            "PUT",
            "/features/weather",
            json={
                "users": [
                    {"user": "a", "rows": [{"key": "k", "valid_from": 0, "values": {"x": [1]}}]}
                ]
            },
        ),
        422,
        "malformed",
    ),
    "put features of one user twice": (
        lambda s: s.operate(
            "PUT",
            "/features/weather",
            json={"users": [{"user": "a", "rows": []}, {"user": "a", "rows": []}]},
        ),
        422,
        "malformed",
    ),
    # Paths.
    "no such path": (lambda s: s.call("GET", "/v2/notices"), 404, "no_such_path"),
    "no such method": (lambda s: s.call("DELETE", "/v1/notices"), 405, "method_not_allowed"),
}


def test_bad_input_is_refused_and_changes_nothing(scene: Scene) -> None:
    """For each line of the table: status, code and a sentence; every row of every table stays."""
    before = everything_in(scene.call.back_end)
    for case, (ask, status, code) in CASES.items():
        response = ask(scene)
        problem = decode_json(Problem, response.data, what=case, limit=10_000)
        assert (response.status, problem.code) == (status, code), case
        assert len(problem.message) > 10, case
        assert response.headers["Content-Type"] == "application/json", case
        if status == 401:
            assert response.headers["WWW-Authenticate"] == "Bearer", case
        assert everything_in(scene.call.back_end) == before, case
    # The scene still works: no refusal has spoiled anything.
    assert scene.upload(scene.sealed).status == 200


def test_an_expired_lease_is_gone(scene: Scene, clock) -> None:
    """After the deadline a report is refused, and nothing changes."""
    clock.now += 60
    before = everything_in(scene.call.back_end)
    response = scene.upload(scene.sealed)
    assert (response.status, response.json()["code"]) == (410, "lease_expired")
    assert everything_in(scene.call.back_end) == before


def test_a_closed_round_is_gone(scene: Scene) -> None:
    """After the round, too; a repeated upload still gets its receipt."""
    scene.call.back_end.close_round("clicks")
    before = everything_in(scene.call.back_end)
    response = scene.upload(scene.sealed)
    assert (response.status, response.json()["code"]) == (410, "round_closed")
    assert everything_in(scene.call.back_end) == before


def test_an_oversize_upload_is_cut_off_early(scene: Scene) -> None:
    """A body that claims a gigabyte is refused before it is sent."""
    host = urlsplit(scene.call.url)
    with socket.create_connection((host.hostname, host.port), timeout=120) as connection:
        connection.sendall(
            f"PUT /v1/leases/{scene.lease}/report HTTP/1.1\r\nHost: x\r\n"
            f"Content-Type: {BYTES}\r\nContent-Length: 1073741824\r\n\r\n".encode()
        )
        answer = connection.recv(65536)
    assert b" 413 " in answer.partition(b"\r\n")[0]


def test_a_body_that_trickles_in_is_given_up(scene: Scene, monkeypatch) -> None:
    """Whoever sends a byte now and then does not hold a connection for ever."""
    monkeypatch.setattr("pocketfl_server.api.requests.BODY_SECONDS", 0.3)
    before = everything_in(scene.call.back_end)
    host = urlsplit(scene.call.url)
    with socket.create_connection((host.hostname, host.port), timeout=120) as connection:
        connection.sendall(
            f"PUT /v1/leases/{scene.lease}/report HTTP/1.1\r\nHost: x\r\nContent-Type: {BYTES}\r\n"
            f"Content-Length: {len(scene.sealed)}\r\n\r\n".encode()
            + scene.sealed[:1]
        )
        answer = connection.recv(65536)
    assert b" 408 " in answer.partition(b"\r\n")[0]
    assert everything_in(scene.call.back_end) == before
    assert scene.upload(scene.sealed).status == 200


def test_an_upload_that_breaks_off_is_not_kept(scene: Scene) -> None:
    """Half a report leaves no trace, and the whole one is taken afterwards."""
    before = everything_in(scene.call.back_end)
    host = urlsplit(scene.call.url)
    with socket.create_connection((host.hostname, host.port), timeout=120) as connection:
        connection.sendall(
            f"PUT /v1/leases/{scene.lease}/report HTTP/1.1\r\nHost: x\r\nContent-Type: {BYTES}\r\n"
            f"Content-Length: {len(scene.sealed)}\r\n\r\n".encode()
            + scene.sealed[:20]
        )
    assert everything_in(scene.call.back_end) == before
    assert scene.upload(scene.sealed).status == 200


def test_a_failure_nobody_foresaw_says_nothing(scene: Scene, monkeypatch, caplog) -> None:
    """Neither the answer nor the log quotes what the exception said."""

    def fail(*_: object) -> None:
        raise RuntimeError("the secret of device 17")

    monkeypatch.setattr(scene.call.back_end, "notices", fail)
    response = scene.call("GET", "/v1/notices")
    assert (response.status, response.json()["code"]) == (500, "internal_error")
    assert "secret" not in response.data.decode()
    assert "secret" not in caplog.text
    assert "RuntimeError" in caplog.text


def test_every_refusal_is_documented(served: Served) -> None:
    """The OpenAPI document names every route of the table, its problems and its bodies."""
    schema = json.loads(served("GET", "/v1/openapi.json").data)
    paths = schema["paths"]
    upload = paths["/v1/leases/{lease}/report"]["put"]
    assert {"200", "404", "409", "410", "413", "415", "422"} <= set(upload["responses"])
    assert upload["requestBody"]["content"].keys() == {BYTES}
    check_in = paths["/v1/tasks/{task}/rounds/{round}/check-in"]["post"]
    assert check_in["security"] == [{"device token": []}]
    for path, methods in paths.items():
        for method, route in methods.items():
            assert route["summary"], (method, path)
            assert route["description"], (method, path)
            if path.startswith("/v1/operator"):
                assert route["security"] == [{"operator key": []}]
    references = set(json.dumps(schema).split('"#/components/schemas/')[1:])
    named = {reference.partition('"')[0] for reference in references}
    assert named <= set(schema["components"]["schemas"])
    assert {"Problem", "CheckIn", "RoundNotice", "FeatureRow"} <= named
