"""Every byte between a device and its back end is in a receipt or in the overhead beside it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pocketfl.attestation import AttestedAggregator
from pocketfl.device import Device
from pocketfl.plan import AggregationSpec, Plan, public_key_hex
from pocketfl.receipts import read_audit
from pocketfl.store import ExampleStore
from pocketfl.transport import HttpTransport, RetryPolicy
from pocketfl_server.local import LocalDeployment
from pocketfl_server.optimizers import OptimizerSpec

EXAMPLES = [{"place": "home", "minutes": 10.0 * n, "rating": n / 4} for n in range(20)]


class CountingProxy:
    """Forwards connections, counts what the device's side of them carries, and can lose answers."""

    def __init__(self, target: str) -> None:
        parts = urlsplit(target)
        self._target = (parts.hostname, parts.port)
        self._lock = threading.Lock()
        self.bytes_up = self.bytes_down = 0
        self.uploads_to_lose = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        lost = threading.Event()
        with client, socket.create_connection(self._target) as server:
            back = threading.Thread(
                target=self._give_back, args=(server, client, lost), daemon=True
            )
            back.start()
            while chunk := _received(client):
                with self._lock:
                    self.bytes_up += len(chunk)
                    if chunk.startswith(b"PUT ") and self.uploads_to_lose:
                        self.uploads_to_lose -= 1
                        lost.set()
                server.sendall(chunk)
            server.shutdown(socket.SHUT_WR)
            back.join()

    def _give_back(self, server: socket.socket, client: socket.socket, lost: threading.Event):
        while chunk := _received(server):
            if lost.is_set():
                # The server has the report, and the device never hears of it.
                client.shutdown(socket.SHUT_RDWR)
                return
            with self._lock:
                self.bytes_down += len(chunk)
            client.sendall(chunk)

    def close(self) -> None:
        self._listener.close()


def _received(source: socket.socket) -> bytes:
    try:
        return source.recv(65536)
    except OSError:
        return b""


@pytest.fixture
def site(tmp_path: Path, modeller_key: Ed25519PrivateKey) -> Iterator[LocalDeployment]:
    with LocalDeployment(tmp_path / "server", plan_keys=[public_key_hex(modeller_key)]) as running:
        yield running


@pytest.fixture
def proxy(site: LocalDeployment) -> Iterator[CountingProxy]:
    opened = CountingProxy(site.url)
    yield opened
    opened.close()


def test_every_byte_is_accounted_for(
    site: LocalDeployment,
    proxy: CountingProxy,
    plan_with: Callable[..., Plan],
    open_store: Callable[..., ExampleStore],
) -> None:
    """Through lost answers, repeated uploads, a new process and rounds without a place."""
    few = AggregationSpec(
        clip_norm=0.5, population=4, cohort_floor=1, max_rounds=9, max_participations=9
    )
    plan = plan_with(name="visits", aggregation=few)
    task = site.operator.create_task(
        "visits", plan.data, optimizer=OptimizerSpec(kind="sgd", learning_rate=1.0)
    )
    store = open_store("device", EXAMPLES)

    def run() -> str:
        """One run of a process of its own: nothing is known but what is in the store."""
        policy = RetryPolicy(attempts=3, first_wait=0.01, longest_wait=0.02)
        with (
            closing(HttpTransport(proxy.url, retries=policy)) as transport,
            Device(
                store,
                server=transport,
                plan_keys=[plan.signed_by],
                aggregator=AttestedAggregator.development(site.attestation_key),
                enrolment_key=site.enrolment_key,
                user="ana",
            ) as device,
        ):
            return device.run_once().code

    def check() -> None:
        audit = read_audit(store.database.path)
        assert (audit.bytes_up, audit.bytes_down) == (proxy.bytes_up, proxy.bytes_down)

    assert run() == "no_round"
    check()
    site.operator.open_round("visits", seconds=600)
    proxy.uploads_to_lose = 2
    assert run() == "reported"
    check()
    assert run() == "already_reported"
    check()
    site.operator.close_round("visits", 1)
    site.operator.open_round("visits", seconds=600)
    proxy.uploads_to_lose = 3
    assert run() == "unreachable"
    check()
    assert run() == "reported"
    check()

    audit = read_audit(store.database.path)
    first, second = audit.receipts
    assert (first.round, first.outcome, first.uploads) == (1, "accepted", 3)
    assert (second.round, second.outcome, second.uploads) == (2, "accepted", 4)
    for receipt in audit.receipts:
        assert receipt.bytes_up > receipt.uploads * receipt.report_bytes
        assert receipt.plan_sha256 == plan.sha256
        assert receipt.aggregator_key_id == task.aggregator.key_id
    kinds = {item.kind: item.requests for item in audit.overhead}
    # The repeated upload asked first whether the server wants a pause.
    assert kinds == {"enrol": 1, "notices": 5, "plan": 1, "check_in": 2, "parameters": 2}
    assert site.operator.funnel("visits", 2).uploaded == 1
