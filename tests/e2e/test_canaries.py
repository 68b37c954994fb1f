"""What a device knows must not turn up where it has no business: the central promise, searched for."""

from __future__ import annotations

import secrets
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

import pocketfl.reports
from pocketfl.attestation import AttestedAggregator
from pocketfl.device import Device
from pocketfl.plan import Plan, public_key_hex
from pocketfl.store import ExampleStore
from pocketfl_server.local import LocalDeployment
from pocketfl_server.optimizers import OptimizerSpec

DEVICES = 100


def numeric_forms(value: float) -> set[bytes]:
    """The ways in which a number could lie about: binary in either byte order, and decimal text.

    Not as float32: four bytes turn up by chance in hundreds of megabytes.
    """
    return {struct.pack("<d", value), struct.pack(">d", value), repr(value).encode()}


def all_files(directory: Path) -> bytes:
    return b"\n".join(path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file())


def test_no_feature_label_or_update_of_a_device_reaches_the_back_end(
    tmp_path: Path,
    exported: Plan,
    modeller_key: Ed25519PrivateKey,
    open_store: Callable[..., ExampleStore],
    wire_tap: Callable[[str], object],
    memory_search: Callable[[int, set[bytes]], set[bytes]],
    search: Callable[[bytes, set[bytes]], set[bytes]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Markers in features and labels of 100 devices, and their updates in the clear, are nowhere in the
    back end's memory, files or logs, nor on the wire; the same search finds what ought to be there.
    """
    plaintexts: list[bytes] = []
    encode = pocketfl.reports.encode_vector

    def recording(values: np.ndarray, *, bits: int) -> bytes:
        data = encode(values, bits=bits)
        plaintexts.append(data)
        return data

    monkeypatch.setattr(pocketfl.reports, "encode_vector", recording)
    markers: set[bytes] = set()
    trusted = public_key_hex(modeller_key)
    with LocalDeployment(tmp_path / "server", plan_keys=[trusted]) as site:
        site.operator.create_task(
            "visits", exported.data, optimizer=OptimizerSpec(kind="adam", learning_rate=0.05)
        )
        tap = wire_tap(site.url)
        notice = site.operator.open_round("visits", seconds=600)
        outcomes = []
        for number in range(DEVICES):
            place = f"CANARY-{secrets.token_hex(12)}"
            minutes = 100.0 + secrets.randbelow(10**12) / 1e10
            rating = 3.0 + secrets.randbelow(10**12) / 1e12
            markers |= {place.encode(), *numeric_forms(minutes), *numeric_forms(rating)}
            store = open_store(
                f"device{number}",
                [{"place": place, "minutes": minutes, "rating": rating}] * 5
                + [{"place": "home", "minutes": 10.0, "rating": 1.0}] * 5,
            )
            with Device(
                store,
                server=tap.url,
                plan_keys=[trusted],
                aggregator=AttestedAggregator.development(site.attestation_key),
                enrolment_key=site.enrolment_key,
                user=f"user{number}",
            ) as device:
                outcomes.append(device.run_once())
                assert device.predict({"place": place, "minutes": minutes})["output"].shape == ()
        assert {(o.status, o.reason) for o in outcomes} == {("completed", outcomes[0].reason)}
        assert len(plaintexts) == DEVICES

        # An update in the clear: coordinates without the header that all reports share. From the first
        # that is not zero on, because memory is full of zeros.
        updates = {data[5:].lstrip(b"\0")[:48] for data in plaintexts}
        assert len(updates) == DEVICES
        secret = markers | updates
        back_end = site.processes["gateway"].pid
        before_release = memory_search(back_end, {*secret, site.operator_key.encode()})
        site.operator.close_round("visits", notice.round)
        after_release = memory_search(back_end, {*secret, site.operator_key.encode()})
        files = all_files(tmp_path / "server")
        wire = tap.recorded()
        token = store.database.read_state("enrolment.token")
        assert place in store.select("visits", limit=10, seed=0).columns["place"]
        own_files = all_files(tmp_path)

    # The searches work: they find what is known to be there.
    assert token and token in wire
    assert exported.data[:64] in wire
    assert before_release == after_release == {site.operator_key.encode()}
    assert search(files, {site.operator_key.encode()}) == {site.operator_key.encode()}
    assert token in own_files

    # Not even a device's own files have an example in the clear.
    for where, content in (("files", own_files), ("the wire", wire)):
        leaked = search(content, secret)
        assert not leaked, f"{len(leaked)} markers in {where}"
