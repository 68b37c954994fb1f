"""Traffic is what went over the wire, to the byte."""

from __future__ import annotations

from hashlib import sha256

import pytest

from pocketfl.errors import TransportError
from pocketfl.protocol import EnrolmentRequest
from pocketfl.transport import REQUEST_KINDS, DownloadCache, HttpTransport, Traffic
from pocketfl.transport.metering import metered

from .conftest import ASSIGNMENT, CHECK_IN, CONTENT, DIGEST, HANG_UP, LEASE, TOKEN, answer


def counted(server) -> tuple[int, int]:
    return server.bytes_received, server.bytes_sent


def test_every_byte_of_a_round_is_counted(server, transport, report) -> None:
    """Both directions equal what the server's own socket saw, headers included."""
    server.answers = [
        answer({"notices": []}, ETag='"1"', X_Padding="y" * 50),
        answer(CONTENT),
        answer({"answer": ASSIGNMENT}),
        answer({"lease": LEASE, "sha256": report.sha256}),
        answer(status=304),
    ]
    transport.notices()
    transport.plan(DIGEST)
    transport.check_in(TOKEN, "clicks", 3, CHECK_IN)
    transport.upload(LEASE, report)
    transport.notices()
    traffic = transport.traffic
    assert (traffic.bytes_up, traffic.bytes_down) == counted(server)
    assert traffic.requests == 5


def test_failures_and_repetitions_are_counted(server, transport) -> None:
    """An attempt that fails costs bytes too."""
    server.answers = [
        answer(status=503),
        answer(CONTENT, cut=len(CONTENT) - 1),
        answer(CONTENT[-1:], status=206, Content_Range=f"bytes {len(CONTENT) - 1}-255999/256000"),
    ]
    transport.plan(DIGEST)
    traffic = transport.traffic
    assert (traffic.bytes_up, traffic.bytes_down) == counted(server)
    assert traffic.requests == 3


def test_chunked_answers_are_counted_with_their_framing(server, transport) -> None:
    """Chunk sizes are bytes like others."""
    body = b'{"notices": []}'
    server.answers = [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        + b"5\r\n"
        + body[:5]
        + b"\r\na\r\n"
        + body[5:]
        + b"\r\n0\r\n\r\n"
        + HANG_UP
    ]
    transport.notices()
    assert (transport.traffic.bytes_up, transport.traffic.bytes_down) == counted(server)


def test_a_device_served_by_the_cache_is_charged_what_the_download_cost(server) -> None:
    """Two devices that share a cache each account for the download, once each."""
    server.answers = [answer(CONTENT)]
    first = HttpTransport(server.url, cache=DownloadCache())
    second = first.for_another_device()
    first.parameters(DIGEST)
    second.parameters(DIGEST)
    second.parameters(DIGEST)
    assert len(server.requests) == 1
    assert second.traffic == first.traffic
    assert first.traffic.bytes_down == server.bytes_sent
    first.close()


def test_notices_from_the_cache_are_charged_as_if_asked_for(server) -> None:
    """In full the first time, as an unchanged answer afterwards, in full again when they changed."""
    now = 0.0
    cache = DownloadCache(notices_seconds=5, clock=lambda: now)
    first = HttpTransport(server.url, cache=cache)
    second = first.for_another_device()
    full = answer({"notices": []}, ETag='"1"')
    unchanged = answer(status=304, ETag='"1"')
    server.answers = [full, unchanged, answer({"notices": []}, ETag='"2"')]
    first.notices()
    second.notices()
    assert second.traffic == first.traffic
    assert second.traffic.bytes_down == len(full)

    now = 6.0
    first.notices()  # asks: 304
    before = second.traffic
    second.notices()
    assert (second.traffic - before).bytes_down == len(unchanged)

    cache.expire_notices()
    first.notices()  # asks: another state
    before = second.traffic
    second.notices()
    assert (second.traffic - before).bytes_down == len(full)
    assert len(server.requests) == 3
    first.close()


def test_what_other_threads_and_meters_do_is_not_counted(server) -> None:
    """A device's meter holds its own requests only."""
    server.answers = [answer({"notices": []})]
    first = HttpTransport(server.url)
    second = first.for_another_device()
    with metered() as outer:
        first.notices()
    assert outer.down == 0  # the transport counts for itself
    assert second.traffic == Traffic()
    second.notices()
    assert second.traffic == first.traffic
    first.close()


def test_traffic_can_be_subtracted() -> None:
    """The cost of a round is the difference of two readings."""
    earlier = Traffic(bytes_up=1, bytes_down=2, requests=3)
    later = Traffic(bytes_up=10, bytes_down=20, requests=30)
    assert later - earlier == Traffic(bytes_up=9, bytes_down=18, requests=27)


def test_a_request_that_is_never_answered_counts_what_was_sent(server, transport) -> None:
    """Bytes up are spent whether or not anybody answers."""
    server.answers = [None]
    with pytest.raises(TransportError):
        transport.check_in(TOKEN, "clicks", 3, CHECK_IN)
    assert transport.traffic.bytes_up == server.bytes_received > 0
    assert transport.traffic.bytes_down == 0


def test_each_kind_of_request_is_counted_by_itself(server, transport, report) -> None:
    """The kinds name every request of the protocol and add up to the whole."""
    server.answers = [
        answer({"token": "t" * 20}),
        answer({"notices": []}),
        answer(CONTENT),
        answer(CONTENT),
        answer({"answer": ASSIGNMENT}),
        answer({"table": "weather", "rows": []}),
        answer(
            {
                "task": "clicks",
                "next_round": 1,
                "separation": 1,
                "keys": [],
                "start": {"sequence": 0, "digest": DIGEST},
                "policy_hash": DIGEST,
                "aggregator": ASSIGNMENT["aggregator"],
            }
        ),
        answer(b"a document"),
        answer(status=503),
        answer({"lease": LEASE, "sha256": report.sha256}),
    ]
    transport.enrol("enrolment-key", EnrolmentRequest(user="ada", sdk="1"))
    transport.notices()
    transport.plan(DIGEST)
    transport.parameters(DIGEST)
    transport.check_in(TOKEN, "clicks", 3, CHECK_IN)
    transport.features(TOKEN, "weather", None)
    transport.token_keys("clicks")
    transport.rollout(sha256(b"a document").hexdigest())
    transport.upload(LEASE, report)
    traffic = transport.traffic
    assert set(traffic.by_kind) == set(REQUEST_KINDS)
    assert traffic.by_kind["upload"].requests == 2
    assert traffic.by_kind["plan"].bytes_down > len(CONTENT) > traffic.by_kind["upload"].bytes_down
    kinds = traffic.by_kind.values()
    assert sum(kind.bytes_up for kind in kinds) == traffic.bytes_up == server.bytes_received
    assert sum(kind.bytes_down for kind in kinds) == traffic.bytes_down == server.bytes_sent
    assert sum(kind.requests for kind in kinds) == traffic.requests == 10


def test_a_kind_without_new_requests_is_no_part_of_a_difference(server, transport) -> None:
    """The cost of a step names the requests of that step only."""
    server.answers = [answer({"notices": []}), answer(CONTENT)]
    transport.notices()
    before = transport.traffic
    transport.plan(DIGEST)
    assert set((transport.traffic - before).by_kind) == {"plan"}


def test_bytes_that_arrived_before_a_connection_broke_are_counted(server, transport) -> None:
    """A status line that breaks off costs what came of it, in each of the four attempts."""
    server.answers = [b"HTTP/1." + HANG_UP]
    with pytest.raises(TransportError):
        transport.notices()
    assert (transport.traffic.bytes_up, transport.traffic.bytes_down) == counted(server)
    assert transport.traffic.by_kind["notices"].requests == 4


def test_a_refused_answer_is_counted_as_far_as_it_arrived(server, transport) -> None:
    """Bytes of a body that is too large were received all the same, wanted or not."""
    server.answers = [answer(b"x" * 3000, status=302)]
    with pytest.raises(TransportError, match="redirects"):
        transport.notices()
    assert transport.traffic.bytes_down > 0
    assert transport.traffic.bytes_down <= server.bytes_sent
