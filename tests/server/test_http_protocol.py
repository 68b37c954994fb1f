"""The device protocol over real HTTP, spoken by the device's own transport."""

from __future__ import annotations

import json
import threading
from hashlib import sha256

import numpy as np
import pytest

from pocketfl.decoding import encode
from pocketfl.protocol import Assignment, EnrolmentRequest, FeatureRow, RetryWindow
from pocketfl.transport import HttpTransport

from .conftest import AVERAGING, CHECK_IN, ENROLMENT_KEY, Fleet, Served, seal_update


@pytest.fixture
def plan(served: Served, make_plan):
    """The plan of an open round of task "clicks"."""
    plan = make_plan(parameters=500, initial=np.arange(500.0))
    served.back_end.create_task("clicks", plan.data, optimizer=AVERAGING)
    served.back_end.open_round("clicks", seconds=60)
    return plan


@pytest.fixture
def transport(served: Served):
    transport = HttpTransport(served.url)
    yield transport
    transport.close()


def test_a_whole_round_over_http(served, plan, transport) -> None:
    """Enrol, notice, check in, download, upload; then the model has moved."""
    for index in range(4):
        token = transport.enrol(ENROLMENT_KEY, EnrolmentRequest(user=f"u{index}", sdk="1")).token
        (notice,) = transport.notices().notices
        answer = transport.check_in(token, notice.task, notice.round, CHECK_IN)
        assert isinstance(answer, Assignment)
        assert transport.plan(answer.plan_sha256) == plan.data
        parameters = np.frombuffer(transport.parameters(answer.parameters_sha256), "<f4")
        np.testing.assert_array_equal(parameters, np.arange(500.0))
        report = seal_update(np.full(500, 0.01), answer, plan)
        receipt = transport.upload(answer.lease, report)
        assert transport.upload(answer.lease, report) == receipt
        again = transport.check_in(token, notice.task, notice.round, CHECK_IN)
        assert isinstance(again, RetryWindow)
        assert again.reason == "already_checked_in"
    assert served.back_end.close_round("clicks").new_version == 1
    assert transport.notices().notices == ()


def test_features_come_page_by_page(served, transport, monkeypatch) -> None:
    """The device's transport reads what the operator put, whatever the page size."""
    from pocketfl_server import user_features

    monkeypatch.setattr(user_features, "PAGE_BYTES", 200)
    rows = tuple(
        FeatureRow(key=f"k{index}", valid_from=index * 0.5, values={"a": index, "b": None})
        for index in range(20)
    )
    served.back_end.put_features("ada", "weather", rows)
    token = transport.enrol(ENROLMENT_KEY, EnrolmentRequest(user="ada", sdk="1")).token
    found, cursor = [], None
    while True:
        page = transport.features(token, "weather", cursor)
        found += page.rows
        cursor = page.next_cursor
        if cursor is None:
            break
    assert tuple(found) == rows


def test_notices_are_validated_by_etag(served, plan) -> None:
    """The same list is not sent twice; another list has another tag."""
    first = served("GET", "/v1/notices")
    etag = first.headers["ETag"]
    assert first.headers["Cache-Control"] == "no-cache"
    again = served("GET", "/v1/notices", headers={"If-None-Match": etag})
    assert (again.status, again.data, again.headers["ETag"]) == (304, b"", etag)
    served.back_end.abort_round("clicks")
    changed = served("GET", "/v1/notices", headers={"If-None-Match": etag})
    assert changed.status == 200
    assert changed.json() == {"notices": [], "pauses": []}


def test_notices_are_the_same_for_everybody(served, plan) -> None:
    """A token or a cookie changes nothing, so the list cannot single anybody out."""
    plain = served("GET", "/v1/notices")
    token = Fleet(served.back_end).token("ada")
    with_token = served("GET", "/v1/notices", token=token, headers={"Cookie": "id=7"})
    assert with_token.data == plain.data
    assert "Set-Cookie" not in with_token.headers


@pytest.mark.parametrize("kind", ["plans", "parameters"])
def test_downloads_are_immutable(served, plan, kind) -> None:
    """Content by its hash: cached for ever, validated by ETag, and by nothing weaker."""
    (notice,) = served.back_end.notices().notices
    digest = notice.plan_sha256 if kind == "plans" else notice.parameters_sha256
    path = f"/v1/{kind}/{digest}"
    response = served("GET", path)
    assert sha256(response.data).hexdigest() == digest
    assert response.headers["ETag"] == f'"{digest}"'
    assert "immutable" in response.headers["Cache-Control"]
    assert response.headers["Accept-Ranges"] == "bytes"
    for tag in (f'"{digest}"', f'W/"{digest}"', f'"other", "{digest}"'):
        known = served("GET", path, headers={"If-None-Match": tag})
        assert (known.status, known.data) == (304, b"")
    assert served("GET", path, headers={"If-None-Match": '"other"'}).status == 200
    missing = f"/v1/{kind}/{'0' * 64}"
    tag = '"' + "0" * 64 + '"'
    assert served("GET", missing, headers={"If-None-Match": tag}).status == 404


RANGES = {
    "bytes=0-9": (206, slice(0, 10)),
    "bytes=10-": (206, slice(10, None)),
    "bytes=-7": (206, slice(-7, None)),
    "bytes=0-999999": (206, slice(0, None)),
    "bytes=-999999": (206, slice(0, None)),
    "bytes=5-4": (200, slice(None)),  # not a range at all: ignored
    "bytes=0-1,5-6": (200, slice(None)),
    "lines=0-1": (200, slice(None)),
    "bytes=-": (200, slice(None)),
}


def test_a_download_resumes_by_range(served, plan) -> None:
    """One range gives that part with its place; what is not understood gives the whole."""
    (notice,) = served.back_end.notices().notices
    whole = served.back_end.parameters(notice.parameters_sha256)
    path = f"/v1/parameters/{notice.parameters_sha256}"
    for asked, (status, part) in RANGES.items():
        response = served("GET", path, headers={"Range": asked})
        assert (response.status, response.data) == (status, whole[part]), asked
        if status == 206:
            start = range(len(whole))[part][0]
            last = start + len(response.data) - 1
            assert response.headers["Content-Range"] == f"bytes {start}-{last}/{len(whole)}"
    for asked in ("bytes=2000-", "bytes=2000-2001", "bytes=-0"):
        response = served("GET", path, headers={"Range": asked})
        assert response.status == 416, asked
        assert response.headers["Content-Range"] == "bytes */2000"
        assert response.json()["code"] == "range_not_satisfiable"


def test_a_range_of_another_version_gives_the_whole(served, plan) -> None:
    """If-Range with another tag means that the requester's part is of something else."""
    (notice,) = served.back_end.notices().notices
    path = f"/v1/parameters/{notice.parameters_sha256}"
    headers = {"Range": "bytes=0-3", "If-Range": '"other"'}
    assert served("GET", path, headers=headers).status == 200
    headers["If-Range"] = f'"{notice.parameters_sha256}"'
    assert served("GET", path, headers=headers).status == 206


def test_optimizer_states_are_no_downloads(served, plan) -> None:
    """What the server remembers between rounds is not served under any path."""
    Fleet(served.back_end).reports(4, "clicks", 1, np.full(500, 0.01), plan)
    served.back_end.close_round("clicks")
    with served.back_end.database.reading() as connection:
        from pocketfl_server.database import blobs

        kinds = {row.sha256: row.kind for row in connection.execute(blobs.select())}
    states = [digest for digest, kind in kinds.items() if kind == "optimizer_state"]
    assert len(states) == 1
    for kind in ("plans", "parameters"):
        assert served("GET", f"/v1/{kind}/{states[0]}").status == 404


def test_a_token_leaves_the_server_once(served) -> None:
    """The enrolment's answer is not to be cached, and nothing else contains the token."""
    response = served("POST", "/v1/devices", token=ENROLMENT_KEY, json={"user": "ada", "sdk": "1"})
    assert response.status == 201
    assert response.headers["Cache-Control"] == "no-store"
    assert set(response.json()) == {"token"}


def test_many_devices_at_once_each_count_once(served, plan) -> None:
    """Parallel check-ins and uploads, each sent twice: every device has one lease and one report."""
    fleet = Fleet(served.back_end)
    names = [f"d{index}" for index in range(24)]
    tokens = {name: fleet.token(name) for name in names}
    answers: dict[str, list[dict]] = {name: [] for name in names}

    def check_in(name: str) -> None:
        response = served(
            "POST",
            "/v1/tasks/clicks/rounds/1/check-in",
            token=tokens[name],
            json=encode(CHECK_IN),
        )
        answers[name].append(json.loads(response.data)["answer"])

    def in_parallel(work, arguments) -> None:
        threads = [threading.Thread(target=work, args=(argument,)) for argument in arguments]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    in_parallel(check_in, names * 2)
    leases = []
    for name in names:
        kinds = sorted(answer["kind"] for answer in answers[name])
        assert kinds == ["assignment", "retry"]
        leases += [a["lease"] for a in answers[name] if a["kind"] == "assignment"]
    assert len(set(leases)) == 24
    body = bytes(500 * 2 + 5 + 48)
    statuses = []

    def upload(lease: str) -> None:
        path = f"/v1/leases/{lease}/report"
        response = served("PUT", path, body=body, media_type="application/octet-stream")
        statuses.append(response.status)

    in_parallel(upload, leases * 2)
    assert statuses == [200] * 48
    funnel = served.back_end.funnel("clicks", 1)
    assert (funnel.leases, funnel.uploaded) == (24, 24)
    assert funnel.turned_away == {"already_checked_in": 24}
