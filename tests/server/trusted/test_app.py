"""Across HTTP the trusted tier behaves as in process, and refuses clearly."""

from __future__ import annotations

import json
import logging
import threading
import time
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, HTTPServer

import httpx
import pytest
import uvicorn

from pocketfl_server.trusted.app import create_trusted_app
from pocketfl_server.trusted.client import HttpTrustedTier, TrustedTier
from pocketfl_server.trusted.messages import BATCH_LIMIT, SealedEntry, encode_batch
from pocketfl_server.trusted.refusals import (
    BudgetExhausted,
    Conflict,
    FloorNotReached,
    MalformedRequest,
    NotAuthorised,
    PlanRefused,
    TrustedTierError,
    TrustedTierUnavailable,
    UnknownTask,
)
from pocketfl_server.trusted.releases import NoisedRelease

TOKEN = "a-token-of-the-back-end"
AUTHORISED = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture
def url(aggregator):
    """A real server on loopback."""
    app = create_trusted_app(aggregator, token=TOKEN)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", access_log=False))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join()


@pytest.fixture
def tier(url):
    """The client that the back end uses."""
    with HttpTrustedTier(url, TOKEN) as client:
        yield client


def lease(number: int) -> str:
    return f"lease-{number:012d}"


def test_a_round_across_http(tier, aggregator, make_plan, sealed_vector):
    """Register, submit, release, repeat: the same answers as the aggregator gives itself."""
    typed: TrustedTier = tier
    plan = make_plan()
    key = typed.register("clicks", plan.data)
    assert key == aggregator.register("clicks", plan.data)
    tier.submit(
        "clicks", 1, 0, [sealed_vector([i, 2, 3], key=key, lease=lease(i)) for i in range(5)]
    )
    release = tier.release("clicks", 1, 0)
    assert isinstance(release, NoisedRelease)
    assert release.reports == 5
    again = tier.release("clicks", 1, 0)
    assert again.values.tolist() == release.values.tolist()
    assert again.summary == release.summary == aggregator.release("clicks", 1, 0).summary
    assert tier.describe("clicks") == aggregator.describe("clicks")
    assert tier.describe("clicks").spent.epsilon == release.epsilon


def test_large_submissions_are_split(tier, aggregator, make_plan, sealed_vector, monkeypatch):
    """More entries than a batch may have go in several requests."""
    monkeypatch.setattr("pocketfl_server.trusted.messages.MAX_BATCH_ENTRIES", 2)
    key = tier.register("clicks", make_plan(privacy="none").data)
    entries = [sealed_vector([1, 0, 0], key=key, lease=lease(i)) for i in range(7)]
    tier.submit("clicks", 1, 0, iter(entries))
    assert tier.release("clicks", 1, 0).values.tolist() == [7, 0, 0]


def test_refusals_arrive_as_what_they_are(tier, make_plan, sealed_vector):
    """Each exception of the aggregator is raised again by the client, with code and details."""
    plan = make_plan(max_rounds=1, max_participations=1)
    with pytest.raises(UnknownTask, match="clicks"):
        tier.release("clicks", 1, 0)
    with pytest.raises(PlanRefused, match="refused"):
        tier.register("clicks", b"garbage")
    key = tier.register("clicks", plan.data)
    with pytest.raises(Conflict) as conflict:
        tier.register("views", plan.data)
    assert conflict.value.code == "plan_has_other_task"
    with pytest.raises(FloorNotReached) as floor:
        tier.release("clicks", 1, 0)
    assert floor.value.details == {"accepted": 0, "floor": 3}
    for number in (1, 2):
        entries = [
            sealed_vector([1, 0, 0], key=key, lease=lease(i), round=number) for i in range(3)
        ]
        tier.submit("clicks", number, 0, entries)
    tier.release("clicks", 1, 0)
    with pytest.raises(BudgetExhausted, match="allows 1 releases"):
        tier.release("clicks", 2, 0)
    tier.abandon("clicks", 2)
    with pytest.raises(Conflict) as conflict:
        tier.release("clicks", 2, 0)
    assert conflict.value.code == "round_abandoned"
    with pytest.raises(Conflict):
        tier.abandon("clicks", 1)


BAD_REQUESTS = [
    # method, path, headers, body, status, code
    ("GET", "/v1/tasks/clicks", {}, None, 401, "not_authorised"),
    ("GET", "/v1/tasks/clicks", {"Authorization": "Bearer wrong"}, None, 401, "not_authorised"),
    ("GET", "/v1/tasks/clicks", {"Authorization": f"Basic {TOKEN}"}, None, 401, "not_authorised"),
    ("PUT", "/v1/tasks/clicks", {}, b"plan", 401, "not_authorised"),
    ("POST", "/v1/tasks/clicks/rounds/1/release?model_version=0", {}, None, 401, "not_authorised"),
    ("DELETE", "/v1/tasks/clicks/rounds/1/reports", {}, None, 401, "not_authorised"),
    ("GET", "/v1/tasks/nobody", AUTHORISED, None, 404, "unknown_task"),
    ("GET", "/v1/nothing", AUTHORISED, None, 404, "no_such_path"),
    ("PATCH", "/v1/tasks/clicks", AUTHORISED, None, 405, "no_such_path"),
    ("PUT", "/v1/tasks/views", AUTHORISED, b"", 422, "plan_refused"),
    ("PUT", "/v1/tasks/%2e%2e%5c", AUTHORISED, b"", 400, "malformed_request"),
    ("POST", "/v1/tasks/clicks/rounds/1/release", AUTHORISED, None, 400, "malformed_request"),
    (
        "POST",
        "/v1/tasks/clicks/rounds/0/release?model_version=0",
        AUTHORISED,
        None,
        400,
        "malformed_request",
    ),
    (
        "POST",
        "/v1/tasks/clicks/rounds/1/release?model_version=99999999999",
        AUTHORISED,
        None,
        400,
        "malformed_request",
    ),
    (
        "POST",
        "/v1/tasks/clicks/rounds/one/reports?model_version=0",
        AUTHORISED,
        b"",
        400,
        "malformed_request",
    ),
    (
        "POST",
        "/v1/tasks/clicks/rounds/1/reports?model_version=0",
        AUTHORISED,
        b"garbage",
        400,
        "malformed_request",
    ),
    (
        "POST",
        "/v1/tasks/clicks/rounds/1/reports?model_version=0",
        AUTHORISED,
        encode_batch([SealedEntry(lease="l" * 16, sealed=b"x")])[:-1],
        400,
        "malformed_request",
    ),
]


@pytest.mark.parametrize(("method", "path", "headers", "body", "status", "code"), BAD_REQUESTS)
def test_bad_requests_get_their_reason(
    url, aggregator, make_plan, method, path, headers, body, status, code
):
    """Each is a Problem with its status and code, and leaves nothing behind."""
    aggregator.register("clicks", make_plan(privacy="none").data)
    before = list(aggregator._ledger._connection.iterdump())
    answer = httpx.request(method, url + path, headers=headers, content=body)
    assert answer.status_code == status
    assert answer.json()["code"] == code
    assert answer.json()["message"]
    assert list(aggregator._ledger._connection.iterdump()) == before


def test_bodies_without_a_length_are_bounded(url, aggregator, make_plan, monkeypatch):
    """A chunked body is cut off at the limit although it never said how long it is."""
    monkeypatch.setattr("pocketfl_server.trusted.app.BATCH_LIMIT", 1000)
    aggregator.register("clicks", make_plan(privacy="none").data)
    answer = httpx.post(
        f"{url}/v1/tasks/clicks/rounds/1/reports?model_version=0",
        headers=AUTHORISED,
        content=(b"x" * 400 for _ in range(3)),
    )
    assert (answer.status_code, answer.json()["code"]) == (413, "request_too_large")


def test_a_stated_length_above_the_limit_is_refused_unread(url, aggregator, make_plan):
    """The answer comes although not one byte of the body was sent."""
    aggregator.register("clicks", make_plan(privacy="none").data)
    connection = HTTPConnection(url.removeprefix("http://"), timeout=200)
    connection.putrequest("POST", "/v1/tasks/clicks/rounds/1/reports?model_version=0")
    for name, value in {**AUTHORISED, "Content-Length": str(BATCH_LIMIT + 1)}.items():
        connection.putheader(name, value)
    connection.endheaders()
    answer = connection.getresponse()
    assert (answer.status, json.load(answer)["code"]) == (413, "request_too_large")
    connection.close()


def test_health_needs_no_token_and_says_nothing(url):
    """A supervisor can ask; it learns that the process serves."""
    answer = httpx.get(f"{url}/health")
    assert (answer.status_code, answer.content) == (204, b"")


def test_the_protocol_is_documented(url):
    """OpenAPI lists every path."""
    paths = httpx.get(f"{url}/openapi.json").json()["paths"]
    assert set(paths) == {
        "/health",
        "/v1/tasks/{task}",
        "/v1/tasks/{task}/attestation",
        "/v1/tasks/{task}/token-keys",
        "/v1/tasks/{task}/rounds/{round}/reports",
        "/v1/tasks/{task}/rounds/{round}/release",
        "/v1/tasks/{task}/rounds/{round}/partial-sum",
        "/v1/tasks/{task}/rounds/{round}/partial-sums",
        "/v1/tasks/{task}/rounds/{round}/sealed-release",
    }


def test_unforeseen_failures_do_not_quote_anything(url, aggregator, make_plan, monkeypatch, caplog):
    """What a bug's message would say stays inside: neither the answer nor the log repeats it."""
    caplog.set_level(logging.DEBUG)
    aggregator.register("clicks", make_plan(privacy="none").data)

    def broken(*_args, **_kwargs):
        raise ValueError("coordinates 31337 31338")

    monkeypatch.setattr(aggregator, "release", broken)
    answer = httpx.post(
        f"{url}/v1/tasks/clicks/rounds/1/release?model_version=0", headers=AUTHORISED
    )
    assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
    assert "31337" not in answer.text + caplog.text
    assert "ValueError at" in caplog.text
    with HttpTrustedTier(url, TOKEN) as tier, pytest.raises(TrustedTierError, match="failed"):
        tier.release("clicks", 1, 0)


def test_a_full_disk_may_be_tried_again(tier, aggregator, make_plan, sealed_vector):
    """The release fails as unavailable, keeps every report, and succeeds once there is room."""
    key = tier.register("clicks", make_plan(parameters=20_000, privacy="none").data)
    vector = [1] * 20_000
    tier.submit("clicks", 1, 0, [sealed_vector(vector, key=key, lease=lease(i)) for i in range(3)])
    connection = aggregator._ledger._connection
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count={pages}")
    with pytest.raises(TrustedTierUnavailable) as refusal:
        tier.release("clicks", 1, 0)
    assert refusal.value.code == "ledger_failed"
    connection.execute("PRAGMA max_page_count=1000000")
    assert tier.release("clicks", 1, 0).values.tolist() == [3] * 20_000


def test_a_wrong_token_is_an_error_of_its_own(url):
    """The client says so, and shows the token nowhere."""
    tier = HttpTrustedTier(url, "another-token-entirely")
    with tier, pytest.raises(NotAuthorised) as refusal:
        tier.describe("clicks")
    assert "another-token" not in str(refusal.value)


def test_tokens_and_urls_are_checked(aggregator):
    """A short token keeps nobody out, and a URL with a password would end up in logs."""
    with pytest.raises(ValueError, match="token"):
        create_trusted_app(aggregator, token="short")
    with pytest.raises(ValueError, match="token"):
        HttpTrustedTier("http://localhost:1", "short")
    for url in ("localhost:8001", "ftp://localhost", "http://user:secret@localhost"):
        with pytest.raises(ValueError, match="URL"):
            HttpTrustedTier(url, TOKEN)


def test_nobody_there():
    """Without a server the error says what to look at, after the retries."""
    tier = HttpTrustedTier("http://127.0.0.1:9", TOKEN, retries=1)
    with tier, pytest.raises(TrustedTierUnavailable, match="is its process running"):
        tier.describe("clicks")


def test_task_names_are_checked_before_they_reach_a_path(tier):
    """A name cannot climb out of the path."""
    for name in ("../v1", "a/b", ""):
        with pytest.raises(MalformedRequest):
            tier.describe(name)


class Answers(BaseHTTPRequestHandler):
    """A server that answers nonsense."""

    status, body = 200, b""

    def do_GET(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    do_POST = do_GET  # noqa: N815 - the name that the base class calls

    def log_message(self, *_args):
        pass


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, b"not json"),
        (200, b"{}"),
        (200, b"x" * (2**20 + 1)),
        (500, b"<html>"),
        (502, json.dumps({"message": "no code"}).encode()),
        (302, b""),
    ],
)
def test_nonsense_is_never_believed(status, body):
    """Whatever a wrong server answers becomes one clear error."""
    handler = type("Fixed", (Answers,), {"status": status, "body": body})
    server = HTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        with HttpTrustedTier(f"http://127.0.0.1:{server.server_port}", TOKEN, retries=0) as tier:
            with pytest.raises(TrustedTierUnavailable):
                tier.describe("clicks")
            if status == 200 and len(body) < 100:
                with pytest.raises(TrustedTierUnavailable):
                    tier.release("clicks", 1, 0)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
