"""The device protocol over HTTP: requests as documented, answers distrusted, failures repeated."""

from __future__ import annotations

import datetime
import gzip
import ipaddress
import json
import socket
import ssl
import threading
from hashlib import sha256

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from pocketfl.errors import TransportError
from pocketfl.protocol import MESSAGE_LIMIT, Assignment, EnrolmentRequest, RetryWindow
from pocketfl.transport import DownloadCache, HttpTransport, RetryPolicy, Timeouts

from .conftest import ASSIGNMENT, CHECK_IN, CONTENT, DIGEST, HANG_UP, LEASE, TOKEN, answer


def test_enrolment_sends_the_key_in_the_header(server, transport) -> None:
    """The key authorises; user and SDK version are the body; the token comes back."""
    server.answers = [answer({"token": TOKEN}, status=201)]
    enrolment = transport.enrol("enrolment-key-123", EnrolmentRequest(user="u7", sdk="0.1.0"))
    assert enrolment.token == TOKEN
    (request,) = server.requests
    assert (request.method, request.path) == ("POST", "/v1/devices")
    assert request.headers["authorization"] == "Bearer enrolment-key-123"
    assert json.loads(request.body) == {"user": "u7", "sdk": "0.1.0"}


def test_check_in_gives_an_assignment_or_a_retry_window(server, transport) -> None:
    """Both documented answers are told apart and decoded in full."""
    window = {"kind": "retry", "reason": "round_closed", "min_seconds": 5, "max_seconds": 9.5}
    server.answers = [answer({"answer": ASSIGNMENT}), answer({"answer": window})]
    assigned = transport.check_in(TOKEN, "clicks", 3, CHECK_IN)
    assert isinstance(assigned, Assignment)
    assert (assigned.lease, assigned.aggregator.key_id) == (LEASE, "c" * 64)
    turned_away = transport.check_in(TOKEN, "clicks", 3, CHECK_IN)
    assert turned_away == RetryWindow(reason="round_closed", min_seconds=5, max_seconds=9.5)
    assert server.requests[0].path == "/v1/tasks/clicks/rounds/3/check-in"
    assert server.requests[0].headers["authorization"] == f"Bearer {TOKEN}"


def test_identity_is_left_out_after_the_check_in(server, transport, report) -> None:
    """Downloads and the upload carry no token: they are known by hash and lease alone."""
    content = b"plan"
    digest = sha256(content).hexdigest()
    receipt = answer({"lease": LEASE, "sha256": report.sha256})
    server.answers = [answer(content), answer(content), receipt]
    transport.plan(digest)
    transport.parameters(digest)
    transport.upload(LEASE, report)
    assert [r.path for r in server.requests] == [
        f"/v1/plans/{digest}",
        f"/v1/parameters/{digest}",
        f"/v1/leases/{LEASE}/report",
    ]
    assert all("authorization" not in r.headers for r in server.requests)
    assert all("cookie" not in r.headers for r in server.requests)


def test_an_upload_is_repeated_until_the_receipt(server, transport, naps, report) -> None:
    """A lost answer is no lost report: the very same bytes go again under the same lease."""
    server.answers = [
        None,
        answer(status=500),
        answer({"lease": LEASE, "sha256": report.sha256}),
    ]
    receipt = transport.upload(LEASE, report)
    assert receipt.sha256 == report.sha256
    assert [r.method for r in server.requests] == ["PUT"] * 3
    assert {r.body for r in server.requests} == {report.data}
    assert server.requests[0].headers["content-type"] == "application/octet-stream"
    assert naps == [1.0, 2.0]


def test_a_receipt_for_something_else_is_an_error(server, transport, report) -> None:
    """The device does not believe that its report arrived when the hash says otherwise."""
    server.answers = [answer({"lease": LEASE, "sha256": "0" * 64})]
    with pytest.raises(TransportError, match="another report") as caught:
        transport.upload(LEASE, report)
    assert caught.value.code == "wrong_receipt"


def test_a_report_goes_under_its_own_lease_only(transport, report) -> None:
    """Mixing up leases is a programming error, found before anything is sent."""
    with pytest.raises(ValueError, match="another lease"):
        transport.upload("other-lease-0123456789", report)


def test_a_check_in_is_not_repeated_when_it_may_have_counted(server, transport, naps) -> None:
    """A broken answer or a server error leaves open whether the place was given: do not ask twice."""
    for broken in (None, answer(status=500)):
        server.answers = [broken]
        server.requests.clear()
        with pytest.raises(TransportError) as caught:
            transport.check_in(TOKEN, "clicks", 3, CHECK_IN)
        assert len(server.requests) == 1
        assert caught.value.retryable
    assert naps == []


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_server_is_asked_again_after_the_time_it_names(
    server, transport, naps, status
) -> None:
    """429 and 503 mean that nothing was done, so even a check-in is repeated, and not too early."""
    server.answers = [
        answer(status=status, Retry_After="7"),
        answer(status=status),
        answer({"answer": ASSIGNMENT}),
    ]
    assert transport.check_in(TOKEN, "clicks", 3, CHECK_IN).lease == LEASE
    assert naps == [7 + 1.0, 2.0]


def test_an_exorbitant_retry_after_is_not_waited_for(server, transport, naps) -> None:
    """Beyond the bound the request fails and passes the time on."""
    server.answers = [answer(status=503, Retry_After="86400")]
    with pytest.raises(TransportError) as caught:
        transport.notices()
    assert caught.value.retry_after == 86400
    assert (naps, len(server.requests)) == ([], 1)


def test_patience_ends(server, transport, naps) -> None:
    """After the policy's attempts the last error is raised, with growing waits before it."""
    server.answers = [answer(status=502)]
    with pytest.raises(TransportError, match="HTTP 502") as caught:
        transport.notices()
    assert (len(server.requests), naps) == (4, [1.0, 2.0, 4.0])
    assert (caught.value.status, caught.value.retryable) == (502, True)


def test_refusals_carry_the_servers_code_and_message(server, transport, naps) -> None:
    """A documented problem becomes an error with its code, at once and without repetition."""
    problem = {"code": "lease_expired", "message": "the lease expired 3 s ago", "details": {}}
    server.answers = [answer(problem, status=410)]
    with pytest.raises(TransportError, match="the lease expired 3 s ago") as caught:
        transport.plan("a" * 64)
    assert (caught.value.status, caught.value.code) == (410, "lease_expired")
    assert not caught.value.retryable
    assert (len(server.requests), naps) == (1, [])


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b'{"code": 7}', b"\xff\xfe", b"[" * 5000, b'{"code":"a","code":"b"}']
)
def test_a_refusal_without_a_problem_is_still_an_error(server, transport, body) -> None:
    """An unreadable refusal is reported by its status."""
    server.answers = [answer(body, status=404)]
    with pytest.raises(TransportError, match="HTTP 404") as caught:
        transport.plan("a" * 64)
    assert caught.value.code is None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"garbage",
        b"[]",
        b'{"answer": {"kind": "other"}}',
        b'{"answer": null}',
        json.dumps({"answer": {**ASSIGNMENT, "lease": "x"}}).encode(),
        json.dumps({"answer": {**ASSIGNMENT, "round": "3"}}).encode(),
        json.dumps({"answer": {**ASSIGNMENT, "expires_at": float("nan")}}).encode(),
        json.dumps({"answer": {**ASSIGNMENT, "surprise": 1}}).encode(),
    ],
)
def test_garbage_answers_are_refused(server, transport, body) -> None:
    """Whatever is not exactly a documented answer is an error that says so."""
    server.answers = [answer(body)]
    with pytest.raises(TransportError, match="unusable") as caught:
        transport.check_in(TOKEN, "clicks", 3, CHECK_IN)
    assert caught.value.code == "bad_answer"


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_redirects_are_not_followed(server, transport, status) -> None:
    """A token never travels to where an answer points."""
    server.answers = [answer(status=status, Location=server.url + "/elsewhere")]
    with pytest.raises(TransportError, match="redirects") as caught:
        transport.check_in(TOKEN, "clicks", 3, CHECK_IN)
    assert caught.value.code == "redirect"
    assert len(server.requests) == 1


def test_a_body_announced_too_large_is_not_read(server, transport) -> None:
    """The announced length alone is enough to refuse."""
    server.answers = [
        f"HTTP/1.1 200 OK\r\nContent-Length: {MESSAGE_LIMIT + 1}\r\n\r\n".encode() + HANG_UP
    ]
    with pytest.raises(TransportError, match="larger than") as caught:
        transport.notices()
    assert caught.value.code == "too_large"
    assert transport.traffic.bytes_down < 200


def test_an_endless_body_is_cut_off(server, transport) -> None:
    """Without an announced length, reading stops at the limit."""
    chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
    server.answers = [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk * 40 + HANG_UP
    ]
    with pytest.raises(TransportError, match="larger than"):
        transport.notices()
    assert transport.traffic.bytes_down < MESSAGE_LIMIT + 200_000


def test_compressed_answers_are_not_inflated(server, transport) -> None:
    """A compression bomb stays as small as it came, and is no JSON."""
    server.answers = [answer(gzip.compress(b" " * 10**7), Content_Encoding="gzip")]
    with pytest.raises(TransportError, match="unusable"):
        transport.notices()
    assert server.requests[0].headers["accept-encoding"] == "identity"


def test_a_server_that_drips_is_given_up(server) -> None:
    """However slowly bytes arrive, an answer as a whole has its time."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def drip() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
                try:
                    while not stop.wait(0.02):
                        connection.sendall(b" ")
                except OSError:
                    return

        stop = threading.Event()
        thread = threading.Thread(target=drip, daemon=True)
        thread.start()
        port = listener.getsockname()[1]
        with pytest.raises(TransportError, match=r"longer than 0.2 s"):
            HttpTransport(
                f"http://127.0.0.1:{port}",
                timeouts=Timeouts(answer=0.2),
                retries=RetryPolicy(attempts=1),
            ).notices()
        stop.set()
        thread.join()


def test_silence_is_a_timeout(naps) -> None:
    """A server that accepts and says nothing is retried and then given up."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        transport = HttpTransport(
            f"http://127.0.0.1:{listener.getsockname()[1]}",
            timeouts=Timeouts(read=0.05),
            retries=RetryPolicy(attempts=2),
            sleep=naps.append,
        )
        with pytest.raises(TransportError, match="TimeoutError") as caught:
            transport.notices()
    assert caught.value.code == "unreachable"
    assert len(naps) == 1


def test_nobody_at_home_is_an_error_that_may_pass(naps) -> None:
    """A refused connection did nothing, so even a check-in is tried again."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    transport = HttpTransport(url, sleep=naps.append)
    with pytest.raises(TransportError, match="broke off") as caught:
        transport.check_in(TOKEN, "clicks", 3, CHECK_IN)
    assert caught.value.retryable
    assert len(naps) == 3


def test_content_that_does_not_match_its_name_is_refused(server, transport, naps) -> None:
    """A server cannot swap a plan or parameters: their name is their hash."""
    server.answers = [answer(b"something else")]
    for fetch in (transport.plan, transport.parameters):
        with pytest.raises(TransportError, match="not the content named") as caught:
            fetch(sha256(b"expected").hexdigest())
        assert caught.value.code == "hash_mismatch"
    assert naps == []


@pytest.mark.parametrize("digest", ["", "A" * 64, "../../etc/passwd", "a" * 63])
def test_names_that_are_no_hash_are_not_asked_for(transport, digest) -> None:
    """Nothing but a digest ever becomes part of a path."""
    with pytest.raises(ValueError, match="SHA-256"):
        transport.plan(digest)


def test_a_broken_download_goes_on_where_it_stopped(server, transport) -> None:
    """The second request asks for the rest only, and the whole is verified."""

    def rest(request):
        start = int(request.headers["range"].removeprefix("bytes=").removesuffix("-"))
        return answer(
            CONTENT[start:],
            status=206,
            Content_Range=f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}",
        )

    server.answers = [answer(CONTENT, cut=100_000), rest]
    assert transport.parameters(DIGEST) == CONTENT
    assert server.requests[1].headers["range"] == "bytes=100000-"
    assert server.bytes_sent < len(CONTENT) + 1000


def test_a_download_restarts_where_ranges_are_not_served(server, transport) -> None:
    """A 200 to a range request brings everything, so the part is thrown away."""
    server.answers = [answer(CONTENT, cut=100_000), answer(CONTENT)]
    assert transport.parameters(DIGEST) == CONTENT
    assert "range" in server.requests[1].headers


@pytest.mark.parametrize(
    "second",
    [
        answer(status=416),
        answer(CONTENT[50:], status=206, Content_Range="bytes 50-255999/256000", cut=10),
        answer(CONTENT[50:], status=206, cut=10),
    ],
)
def test_a_wrong_continuation_starts_over(server, transport, second) -> None:
    """A range that was not asked for, or cannot be served, never ends up in the middle."""
    server.answers = [answer(CONTENT, cut=100_000), second, answer(CONTENT)]
    assert transport.parameters(DIGEST) == CONTENT


def test_progress_renews_patience(server, transport, naps) -> None:
    """Many interruptions are survived as long as each attempt gets on, but not without progress."""

    large = CONTENT * 4
    digest = sha256(large).hexdigest()

    def large_piece(request):
        start = int(request.headers.get("range", "bytes=0-").removeprefix("bytes=")[:-1])
        extra = {"Content_Range": f"bytes {start}-{len(large) - 1}/{len(large)}"} if start else {}
        return answer(large[start:], status=206 if start else 200, cut=70_000, **extra)

    server.answers = [large_piece]
    assert transport.plan(digest) == large
    assert len(server.requests) == 15
    assert set(naps) == {1.0}

    naps.clear()
    server.answers = [answer(CONTENT, cut=1000)]
    with pytest.raises(TransportError, match="broke off"):
        transport.plan(DIGEST)
    assert naps == [1.0, 2.0, 4.0]


def test_a_download_larger_than_allowed_is_refused(server) -> None:
    """The app's own bound holds, also over several pieces."""
    transport = HttpTransport(server.url, max_download_bytes=150_000, sleep=lambda _: None)
    server.answers = [
        answer(CONTENT[:140_000], cut=100_000),
        answer(CONTENT[100_000:], status=206, Content_Range="bytes 100000-255999/256000"),
    ]
    with pytest.raises(TransportError, match="larger than the 150000"):
        transport.plan(DIGEST)


def test_connections_are_kept_alive(server, transport) -> None:
    """Requests of a round share a connection, also after a refusal and an unchanged answer."""
    server.answers = [
        answer({"notices": []}, ETag='"1"'),
        answer(status=304),
        answer({"code": "x", "message": "y", "details": {}}, status=404),
        answer({"answer": ASSIGNMENT}),
    ]
    transport.notices()
    transport.notices()
    with pytest.raises(TransportError):
        transport.plan("a" * 64)
    transport.check_in(TOKEN, "clicks", 3, CHECK_IN)
    assert server.connections == 1


def test_features_are_paged_by_an_opaque_cursor(server, transport) -> None:
    """The cursor is escaped, the token sent, and the rows decoded."""
    row = {"key": "JFK", "valid_from": 1.5, "values": {"wind": 3.5, "gust": None}}
    server.answers = [answer({"table": "weather", "rows": [row], "next_cursor": "a b&c"})]
    page = transport.features(TOKEN, "weather", "x/y?&")
    assert page.rows[0].values == {"wind": 3.5, "gust": None}
    assert page.next_cursor == "a b&c"
    (request,) = server.requests
    assert request.path == "/v1/features/weather?cursor=x%2Fy%3F%26"
    assert request.headers["authorization"] == f"Bearer {TOKEN}"


def test_features_of_another_table_are_refused(server, transport) -> None:
    """Rows cannot be passed off as another table's."""
    server.answers = [answer({"table": "other", "rows": []})]
    with pytest.raises(TransportError, match="asked for the table 'weather'"):
        transport.features(TOKEN, "weather", None)


@pytest.mark.parametrize("key", ["", "with space", "line\nbreak", "ümlaut", "x" * 513])
def test_tokens_that_would_break_a_header_are_refused(transport, key) -> None:
    """No header is ever split by a token."""
    with pytest.raises(ValueError, match="printable ASCII"):
        transport.enrol(key, EnrolmentRequest(user="", sdk="0"))


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://example.com", "plain http to another machine"),
        ("ftp://example.com", "not a URL"),
        ("example.com", "not a URL"),
        ("https://user:secret@example.com", "no user name"),
        ("https://example.com/?x=1", "no user name, query"),
    ],
)
def test_urls_that_would_not_be_safe_are_refused(url, message) -> None:
    """Tokens do not go over plain http to other machines unless the app says so."""
    with pytest.raises(ValueError, match=message):
        HttpTransport(url)


def test_plain_http_can_be_allowed_and_a_path_prefixed(server) -> None:
    """An app on a trusted network may say so; a base path is kept."""
    HttpTransport("http://example.com", allow_plain_http=True).close()
    server.answers = [answer({"notices": []})]
    HttpTransport(server.url + "/fl/").notices()
    assert server.requests[0].path == "/fl/v1/notices"


def test_errors_do_not_repeat_tokens(server, transport) -> None:
    """Neither a refusal nor a lost connection puts a token into an app's log."""
    for broken in (answer(status=403), None, answer(b"garbage")):
        server.answers = [broken]
        with pytest.raises(TransportError) as caught:
            transport.check_in(TOKEN, "clicks", 3, CHECK_IN)
        assert TOKEN not in str(caught.value) + repr(caught.value)


def test_a_certificate_that_nobody_vouches_for_is_refused(tmp_path, naps) -> None:
    """TLS is verified: a self-signed server is an error of its own kind and is not retried."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    pem = tmp_path / "server.pem"
    authority = tmp_path / "authority.pem"
    authority.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    pem.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    body = answer({"notices": []})

    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    raw, _ = listener.accept()
                except OSError:
                    return
                try:
                    with context.wrap_socket(raw, server_side=True) as connection:
                        while connection.recv(65536):
                            connection.sendall(body)
                except OSError:
                    continue

        threading.Thread(target=serve, daemon=True).start()
        url = f"https://127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(TransportError, match="no secure connection") as caught:
            HttpTransport(url, sleep=naps.append).notices()
        assert (caught.value.code, naps) == ("tls", [])
        trusting = HttpTransport(url, ca_certs=str(authority))
        assert trusting.notices().notices == ()
        assert trusting.traffic.bytes_down == len(body)
        trusting.close()


def test_several_threads_share_one_transport(server) -> None:
    """Concurrent downloads through one cache load once and count for each device."""
    server.answers = [answer(CONTENT)]
    cache = DownloadCache()
    first = HttpTransport(server.url, cache=cache)
    devices = [first.for_another_device() for _ in range(8)]
    threads = [threading.Thread(target=device.plan, args=(DIGEST,)) for device in devices]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(server.requests) == 1
    assert len({device.traffic for device in devices}) == 1
    assert devices[0].traffic.bytes_down > len(CONTENT)
    assert first.traffic.requests == 0
    first.close()
