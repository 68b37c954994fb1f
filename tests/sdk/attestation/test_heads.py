"""A device never goes back behind a ledger head that it has seen."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketfl.attestation.heads import HeadGuard
from pocketfl.errors import AggregatorRefusedError
from pocketfl.protocol import AggregatorKey, Attestation, LedgerHead
from pocketfl.sealing import generate_key_pair, key_id
from pocketfl.store import ExampleStore


class Believes:
    """Trusts every key, so that only heads decide."""

    evidence = "everything"

    def verify(self, key, *, policy_hash, plan_sha256):
        return bytes.fromhex(key.public_key)


def offer(public: bytes, sequence: int, digest: str = "a") -> AggregatorKey:
    head = LedgerHead(sequence=sequence, digest=digest * 64)
    return AggregatorKey(
        key_id=key_id(public),
        public_key=public.hex(),
        attestation=Attestation(token="a.b.c", head=head),
    )


def accepts(guard: HeadGuard, key: AggregatorKey) -> bool:
    try:
        guard.verify(key, policy_hash="0" * 64, plan_sha256="0" * 64)
    except AggregatorRefusedError:
        return False
    return True


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 1), st.integers(0, 5), st.sampled_from("ab")), max_size=12)
)
def test_heads_only_grow_per_key_also_over_restarts(offers) -> None:
    """Whatever is offered in whatever order, what is accepted is one growing history for each key."""
    keys = [generate_key_pair()[1] for _ in range(2)]
    with ExampleStore(":memory:") as store:
        newest: dict[int, tuple[int, str]] = {}
        for which, sequence, digest in offers:
            expected = which not in newest or sequence > newest[which][0]
            expected = expected or (sequence, digest) == newest[which]
            # A new guard each time stands for an app that was started again.
            guard = HeadGuard(Believes(), store.database)
            assert accepts(guard, offer(keys[which], sequence, digest)) is expected
            if expected:
                newest[which] = (sequence, digest)


def test_a_pinned_key_has_no_head_to_check(open_file) -> None:
    """Keys without attestation pass as the wrapped verifier decides."""
    public = generate_key_pair()[1]
    guard = HeadGuard(Believes(), open_file.database)
    bare = AggregatorKey(key_id=key_id(public), public_key=public.hex())
    assert guard.verify(bare, policy_hash="0" * 64, plan_sha256="0" * 64) == public
    assert guard.evidence == "everything"


def test_a_damaged_memory_is_no_excuse(open_file) -> None:
    """A device that cannot tell how far it was does not send."""
    public = generate_key_pair()[1]
    guard = HeadGuard(Believes(), open_file.database)
    assert accepts(guard, offer(public, 3))
    open_file.database.write_state("ledger_head." + key_id(public), b"{")
    with pytest.raises(AggregatorRefusedError, match="damaged"):
        guard.verify(offer(public, 4), policy_hash="0" * 64, plan_sha256="0" * 64)


@pytest.fixture
def open_file(tmp_path):
    with ExampleStore(tmp_path / "device.db") as store:
        yield store
