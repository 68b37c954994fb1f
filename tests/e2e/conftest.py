"""Parts for tests that cross tiers: a wire tap, a look into another process's memory."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pocketfl.features.transforms import (
    FeatureSpec,
    FieldSpec,
    InputSpec,
    LabelSpec,
    LogScale,
    OneHot,
    Scale,
)
from pocketfl.plan import (
    AggregationSpec,
    DifferentialPrivacySpec,
    Plan,
    TrainingSpec,
    build_plan,
    generate_signing_key,
    public_key_hex,
)
from pocketfl.store import Collection, ExampleStore, Field
from pocketfl_server.back_end import BackEnd
from pocketfl_server.trusted.aggregator import Aggregator


class WireTap:
    """A TCP proxy on loopback that forwards every byte unchanged and keeps a copy of it."""

    def __init__(self, target: str) -> None:
        parts = urlsplit(target)
        assert parts.hostname and parts.port
        self._target = (parts.hostname, parts.port)
        self._lock = threading.Lock()
        self._recorded: list[bytearray] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(self._target)
            for source, sink in ((client, server), (server, client)):
                stream = bytearray()
                with self._lock:
                    self._recorded.append(stream)
                threading.Thread(
                    target=self._pump, args=(source, sink, stream), daemon=True
                ).start()

    @staticmethod
    def _pump(source: socket.socket, sink: socket.socket, stream: bytearray) -> None:
        try:
            while chunk := source.recv(65536):
                stream += chunk
                sink.sendall(chunk)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            source.close()
            sink.close()

    def recorded(self) -> bytes:
        """Everything that went over the wire so far, both ways, connection by connection."""
        with self._lock:
            return b"\n".join(bytes(stream) for stream in self._recorded)

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def wire_tap() -> Iterator[type[WireTap]]:
    """The class, so that a test can tap the address that it has."""
    taps: list[WireTap] = []

    class Tracked(WireTap):
        def __init__(self, target: str) -> None:
            super().__init__(target)
            taps.append(self)

    yield Tracked
    for tap in taps:
        tap.close()


class Needles:
    """Many byte strings of 4 bytes or more, searched for in one pass."""

    def __init__(self, needles: Iterable[bytes]) -> None:
        self._by_start: dict[bytes, list[bytes]] = {}
        for needle in needles:
            self._by_start.setdefault(needle[:4], []).append(needle)
        starts = np.frombuffer(b"".join(self._by_start), dtype="<u2").reshape(-1, 2)
        # Two look-ups of two bytes each leave few places where Python has to look closer.
        self._first, self._second = (np.zeros(65536, dtype=bool) for _ in range(2))
        self._first[starts[:, 0]] = True
        self._second[starts[:, 1]] = True
        self.longest = max(len(n) for group in self._by_start.values() for n in group)

    def within(self, content: bytes) -> set[bytes]:
        """Return those that occur."""
        if len(content) < 4:
            return set()
        octets = np.frombuffer(content, dtype=np.uint8)
        pairs = octets[:-1] | (octets[1:].astype(np.uint16) << 8)
        places = np.flatnonzero(self._first[pairs[:-2]] & self._second[pairs[2:]])
        return {
            needle
            for place in places.tolist()
            for needle in self._by_start.get(content[place : place + 4], ())
            if content.startswith(needle, place)
        }


def search_memory(pid: int, needles: Iterable[bytes]) -> set[bytes]:
    """Return those needles that lie anywhere in the writable memory of a process (Linux)."""
    wanted = Needles(needles)
    found: set[bytes] = set()
    with (
        Path(f"/proc/{pid}/maps").open() as maps,
        Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory,
    ):
        for line in maps:
            span, permissions, *_ = line.split()
            if "rw" not in permissions or "[vvar]" in line:
                continue
            start, end = (int(edge, 16) for edge in span.split("-"))
            tail = b""
            while start < end:
                memory.seek(start)
                try:
                    chunk = memory.read(min(1 << 22, end - start))
                except OSError:
                    break
                if not chunk:
                    break
                found |= wanted.within(tail + chunk)
                tail = chunk[-wanted.longest :]
                start += len(chunk)
    return found


@pytest.fixture
def memory_search() -> Callable[[int, Iterable[bytes]], set[bytes]]:
    """:func:`search_memory`; a parent may read its child's memory."""
    return search_memory


@pytest.fixture
def search() -> Callable[[bytes, Iterable[bytes]], set[bytes]]:
    """The same search over bytes at hand."""
    return lambda content, needles: Needles(needles).within(content)


class Clock:
    """The system's clock, set ahead by a test."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


@pytest.fixture
def clock() -> Clock:
    """The clock of a test in one process."""
    return Clock()


@pytest.fixture
def back_end(tmp_path: Path, modeller_key: Ed25519PrivateKey, clock: Clock) -> Iterator[BackEnd]:
    """Back end and trusted tier in this process, for tests that are not about what separates them."""
    keys = [public_key_hex(modeller_key)]
    with (
        Aggregator(tmp_path / "ledger.db", plan_keys=keys) as trusted,
        BackEnd(
            f"sqlite:///{tmp_path / 'back_end.db'}",
            trusted=trusted,
            plan_keys=keys,
            enrolment_key="an-enrolment-key-of-the-app",
            clock=clock,
        ) as running,
    ):
        yield running


@pytest.fixture(scope="session")
def modeller_key() -> Ed25519PrivateKey:
    """The modeller's signing key of this test run."""
    return generate_signing_key()


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory, modeller_key: Ed25519PrivateKey) -> Plan:
    """A plan as the exporter writes it: a small click-like model over two device-only fields."""
    import torch
    from torch import nn

    from pocketfl_export import export_plan

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layers(x).squeeze(-1)

    torch.manual_seed(0)
    return export_plan(
        Model(),
        nn.functional.binary_cross_entropy_with_logits,
        torch.randn(8, 6),
        torch.randint(0, 2, (8,)).float(),
        tmp_path_factory.mktemp("plan") / "visits.pocketfl",
        name="visits",
        version="1",
        signing_key=modeller_key,
        features=FeatureSpec(
            collection="visits",
            fields=(
                FieldSpec(name="place", type="str"),
                FieldSpec(name="minutes", type="float"),
                FieldSpec(name="rating", type="float"),
            ),
            inputs=(
                InputSpec(
                    tensor="x",
                    columns=(
                        OneHot(field="place", vocabulary=("home", "work", "shop")),
                        Scale(field="minutes", low=0.0, high=600.0),
                        LogScale(field="minutes", high=600.0),
                    ),
                ),
            ),
            label=LabelSpec(field="rating", above=3.0),
        ),
        training=TrainingSpec(epochs=2, learning_rate=0.3),
        aggregation=AggregationSpec(
            clip_norm=0.5, population=100, cohort_floor=50, max_rounds=20, max_participations=20
        ),
        dp=DifferentialPrivacySpec(noise_multiplier=3.0, epsilon=10.0, delta=1e-5),
        runtimes=("onnxruntime",),
    )


@pytest.fixture(scope="session")
def plan_with(exported: Plan, modeller_key: Ed25519PrivateKey) -> Callable[..., Plan]:
    """Signs the exported graphs again under other rules."""

    def build(**changes: object) -> Plan:
        manifest = exported.manifest
        arguments: dict[str, object] = {
            field: getattr(manifest, field)
            for field in (
                "name",
                "version",
                "privacy",
                "model",
                "training",
                "features",
                "aggregation",
                "dp",
                "eligibility",
                "runtimes",
            )
        }
        arguments["parts"] = {part.name: exported.part(part.name) for part in manifest.parts}
        return build_plan(**{**arguments, **changes}, signing_key=modeller_key)  # type: ignore[arg-type]

    return build


VISITS = Collection(
    "visits", {"place": Field("str"), "minutes": Field("float"), "rating": Field("float")}
)


@pytest.fixture
def open_store(tmp_path: Path) -> Iterator[Callable[..., ExampleStore]]:
    """Makes a device's store with examples in it; all are closed at the end."""
    stores: list[ExampleStore] = []

    def make(name: str, examples: Iterable[dict[str, object]]) -> ExampleStore:
        store = ExampleStore(tmp_path / f"{name}.db")
        store.create_collection(VISITS)
        store.append("visits", examples)
        stores.append(store)
        return store

    yield make
    for store in stores:
        store.close()
