"""Shards: the root's sum is the single machine's, and nobody else gets at a sum without noise."""

# ruff: noqa: A002 - "round" is the word of the field

from __future__ import annotations

import dataclasses
from contextlib import ExitStack, suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketfl.attestation import AttestedAggregator, TrustedIssuer
from pocketfl.attestation.issuers import DEVELOPMENT_IMAGE, DEVELOPMENT_ISSUER
from pocketfl.errors import DecodeError
from pocketfl.protocol import AggregatorKey
from pocketfl.sealing import generate_key_pair, key_id
from pocketfl_server.trusted.aggregator import Aggregator
from pocketfl_server.trusted.attesters import DevelopmentAttester
from pocketfl_server.trusted.messages import (
    SealedPartialSum,
    decode_partial_message,
    decode_sealed_release,
    encode_partial_message,
    encode_sealed_release,
)
from pocketfl_server.trusted.partial_sums import decode_partial_sum, encode_partial_sum
from pocketfl_server.trusted.refusals import (
    Conflict,
    FloorNotReached,
    MalformedRequest,
    PeerRefused,
)
from pocketfl_server.trusted.releases import NoisedRelease
from pocketfl_server.trusted.shards import Sharding
from pocketfl_server.trusted.summing import PartialSum

BOUND = 1000


class Tiers:
    """A root and shards, each with a ledger of its own; one key vouches for all of them."""

    def __init__(self, folder: Path, plan, plan_keys, stack: ExitStack) -> None:
        attester = DevelopmentAttester(folder / "attester")
        issuer = TrustedIssuer(
            service="development",
            issuer=DEVELOPMENT_ISSUER,
            keys={"development": attester.public_key},
            images=frozenset({DEVELOPMENT_IMAGE}),
        )
        self._folder, self._plan, self._plan_keys = folder, plan, plan_keys
        self._attester, self._peers, self._stack = attester, AttestedAggregator(issuer), stack
        self.root = self.start("root", "root")
        self.shards = [self.start("shard", f"shard-{number}") for number in range(3)]

    def start(self, role, name, *, peers=None, attester=None) -> Aggregator:
        tier = self._stack.enter_context(
            Aggregator(
                self._folder / f"{name}.ledger",
                plan_keys=self._plan_keys,
                attester=attester or self._attester,
                sharding=Sharding(role=role, name=name, peers=peers or self._peers),
            )
        )
        tier.register("clicks", self._plan.data)
        return tier

    @property
    def root_key(self) -> AggregatorKey:
        return attested(self.root)


def attested(tier: Aggregator) -> AggregatorKey:
    key = tier.describe("clicks").key
    return AggregatorKey(
        key_id=key.key_id, public_key=key.public_key, attestation=tier.attest("clicks")
    )


@pytest.fixture
def plan(make_plan):
    return make_plan(privacy="none", cohort_floor=5)


@pytest.fixture
def tiers(tmp_path, plan, plan_keys):
    with ExitStack() as stack:
        yield Tiers(tmp_path, plan, plan_keys, stack)


@pytest.fixture
def report(sealed_vector):
    """Submits reports of these vectors to a tier's round."""

    def submit(tier, vectors, *, first: int, round: int = 1) -> None:
        key = tier.describe("clicks").key
        entries = [
            sealed_vector(vector, key=key, lease=f"lease-{first + index:012d}", round=round)
            for index, vector in enumerate(vectors)
        ]
        tier.submit("clicks", round, 0, entries)

    return submit


VECTORS = np.random.default_rng(3).integers(-500, 500, size=(9, 3)).tolist()


def hand_all_over(tiers: Tiers) -> list[SealedPartialSum]:
    return [shard.hand_over("clicks", 1, 0, tiers.root_key) for shard in tiers.shards]


def test_the_sum_is_the_single_machine_s_bit_for_bit(
    tiers, report, tmp_path, plan, plan_keys
) -> None:
    """Three shards and the root's own devices, one report of which is above the norm bound."""
    spoilt = [*VECTORS, [999, 999, 999]]
    with Aggregator(tmp_path / "alone", plan_keys=plan_keys) as alone:
        alone.register("clicks", plan.data)
        report(alone, spoilt, first=0)
        expected = alone.release("clicks", 1, 0)
    for number, shard in enumerate(tiers.shards):
        report(shard, spoilt[2 * number : 2 * number + 2], first=2 * number)
    report(tiers.root, spoilt[6:], first=6)
    for partial in hand_all_over(tiers):
        # What Flower and the back ends carry are these bytes.
        carried = decode_partial_message(encode_partial_message(partial))
        tiers.root.accept_partial_sum(carried)
    release = tiers.root.release("clicks", 1, 0)
    np.testing.assert_array_equal(release.values, expected.values)
    assert release.summary == dataclasses.replace(expected.summary, policy_hash=release.policy_hash)
    assert release.rejected == {"norm_above_bound": 1}


def test_noise_is_added_once_at_the_root(tmp_path, make_plan, plan_keys, report) -> None:
    """A private task is charged at the root, and not at a shard; its floor is that of the total."""
    plan = make_plan(cohort_floor=4)
    with ExitStack() as stack:
        tiers = Tiers(tmp_path, plan, plan_keys, stack)
        for number, shard in enumerate(tiers.shards):
            report(shard, VECTORS[:1], first=number)
        for partial in hand_all_over(tiers):
            tiers.root.accept_partial_sum(partial)
        with pytest.raises(FloorNotReached, match="3 valid reports, 4 needed"):
            tiers.root.release("clicks", 1, 0)
        report(tiers.root, VECTORS[:1], first=9)
        release = tiers.root.release("clicks", 1, 0)
        assert isinstance(release, NoisedRelease)
        assert release.reports == 4
        assert tiers.root.describe("clicks").spent.releases == 1
        assert [shard.describe("clicks").spent.releases for shard in tiers.shards] == [0, 0, 0]


def test_a_lost_shard_costs_its_devices_reports_and_nothing_else(tiers, report) -> None:
    """The round is released without it, and what it sends afterwards is refused."""
    for number, shard in enumerate(tiers.shards):
        report(shard, VECTORS[3 * number : 3 * number + 3], first=3 * number)
    partials = hand_all_over(tiers)
    for partial in partials[:2]:
        tiers.root.accept_partial_sum(partial)
    release = tiers.root.release("clicks", 1, 0)
    np.testing.assert_array_equal(release.values, np.sum(VECTORS[:6], axis=0))
    with pytest.raises(Conflict, match="has been released"):
        tiers.root.accept_partial_sum(partials[2])
    # The next round takes it as if nothing had been.
    report(tiers.shards[2], VECTORS[:5], first=20, round=2)
    tiers.root.accept_partial_sum(tiers.shards[2].hand_over("clicks", 2, 0, tiers.root_key))
    np.testing.assert_array_equal(
        tiers.root.release("clicks", 2, 0).values, np.sum(VECTORS[:5], axis=0)
    )


def test_a_release_comes_back_to_shards_from_the_root_alone(tiers, report) -> None:
    """The same values, taken once; moved, changed or by another tier, it does not open."""
    north, south = tiers.shards[0], tiers.shards[1]
    report(north, VECTORS[:5], first=0)
    report(south, VECTORS[5:], first=5)
    tiers.root.accept_partial_sum(north.hand_over("clicks", 1, 0, tiers.root_key))
    with pytest.raises(Conflict, match="not released"):
        tiers.root.forward("clicks", 1, 0, attested(north))
    release = tiers.root.release("clicks", 1, 0)
    with pytest.raises(Conflict, match="only the root releases"):
        north.release("clicks", 1, 0)
    with pytest.raises(Conflict, match="only the root has releases"):
        tiers.shards[2].forward("clicks", 1, 0, attested(north))
    sealed = tiers.root.forward("clicks", 1, 0, attested(north))
    for changes in (
        {"round": 2},
        {"model_version": 1},
        {"key": attested(south)},
        {"sealed": sealed.sealed[:-1] + bytes([sealed.sealed[-1] ^ 1])},
    ):
        with pytest.raises(MalformedRequest, match="does not open"):
            north.adopt(dataclasses.replace(sealed, **changes))
    with pytest.raises(MalformedRequest, match="does not open"):
        south.adopt(sealed)
    with pytest.raises(Conflict, match="no shard"):
        tiers.root.adopt(tiers.root.forward("clicks", 1, 0, attested(north)))
    for _ in range(2):
        north.adopt(decode_sealed_release(encode_sealed_release(sealed)))
    adopted = north.release("clicks", 1, 0)
    assert adopted.summary == release.summary
    np.testing.assert_array_equal(adopted.values, release.values)
    with pytest.raises(Conflict, match="starts from model version 0"):
        north.release("clicks", 1, 1)
    # South was lost: the release ends its round, and its reports are deleted.
    south.adopt(tiers.root.forward("clicks", 1, 0, attested(south)))
    assert south.open_rounds() == []
    with pytest.raises(Conflict, match="abandoned"):
        south.hand_over("clicks", 1, 0, tiers.root_key)


def test_a_partial_sum_counts_once(tiers, report) -> None:
    """Repeated, it changes nothing; moved to another round, shard or version, it does not open."""
    report(tiers.shards[0], VECTORS, first=0)
    partial = tiers.shards[0].hand_over("clicks", 1, 0, tiers.root_key)
    # An answer that was lost is asked for again: the same bytes, and no second sum.
    assert tiers.shards[0].hand_over("clicks", 1, 0, tiers.root_key) == partial
    for changes in (
        {"round": 2},
        {"shard": "shard-1"},
        {"model_version": 1},
        {"key": attested(tiers.shards[1])},
        {"sealed": partial.sealed[:-1] + bytes([partial.sealed[-1] ^ 1])},
    ):
        with pytest.raises(MalformedRequest, match="does not open"):
            tiers.root.accept_partial_sum(dataclasses.replace(partial, **changes))
    for _ in range(2):
        tiers.root.accept_partial_sum(partial)
    np.testing.assert_array_equal(
        tiers.root.release("clicks", 1, 0).values, np.sum(VECTORS, axis=0)
    )


def test_a_second_partial_sum_of_a_shard_is_refused(tiers, report) -> None:
    """A shard whose ledger was put back, or that comes under another name, adds nothing."""
    report(tiers.shards[0], VECTORS[:5], first=0)
    tiers.root.accept_partial_sum(tiers.shards[0].hand_over("clicks", 1, 0, tiers.root_key))
    ledger = tiers.shards[0]._ledger
    with ledger._transaction() as connection:  # as a ledger that was rolled back would look
        connection.execute("DELETE FROM handed_over")
        connection.execute("DELETE FROM rounds")
    report(tiers.shards[0], VECTORS[5:], first=5)
    again = tiers.shards[0].hand_over("clicks", 1, 0, tiers.root_key)
    with pytest.raises(Conflict, match="another partial sum"):
        tiers.root.accept_partial_sum(again)
    tiers.shards[0]._shards.sharding = dataclasses.replace(
        tiers.shards[0]._shards.sharding, name="shard-renamed"
    )
    with ledger._transaction() as connection:
        connection.execute("DELETE FROM handed_over")
        connection.execute("DELETE FROM rounds")
    report(tiers.shards[0], VECTORS[5:], first=5)
    renamed = tiers.shards[0].hand_over("clicks", 1, 0, tiers.root_key)
    with pytest.raises(Conflict, match="another partial sum"):
        tiers.root.accept_partial_sum(renamed)
    assert tiers.root.release("clicks", 1, 0).reports == 5


def test_only_attested_tiers_exchange_sums(tiers, report, tmp_path) -> None:
    """A back end that makes up a root learns nothing; one that makes up a shard adds nothing."""
    report(tiers.shards[0], VECTORS, first=0)
    _, public = generate_key_pair()
    genuine = tiers.root_key
    for made_up in (
        AggregatorKey(key_id=key_id(public), public_key=public.hex()),
        AggregatorKey(
            key_id=key_id(public), public_key=public.hex(), attestation=genuine.attestation
        ),
    ):
        with pytest.raises(PeerRefused):
            tiers.shards[0].hand_over("clicks", 1, 0, made_up)
    # The refusal cost nothing: the round is still there for the real root.
    foreign = tiers.start(
        "shard", "foreign", attester=DevelopmentAttester(tmp_path / "another-attester")
    )
    report(foreign, VECTORS, first=0)
    with pytest.raises(PeerRefused):
        tiers.root.accept_partial_sum(foreign.hand_over("clicks", 1, 0, genuine))
    tiers.root.accept_partial_sum(tiers.shards[0].hand_over("clicks", 1, 0, genuine))
    assert tiers.root.release("clicks", 1, 0).reports == len(VECTORS)


def test_a_shard_releases_nothing_itself(tiers, report) -> None:
    """Else a round could be released twice: in part at the shard, and at the root."""
    report(tiers.shards[0], VECTORS, first=0)
    with pytest.raises(Conflict, match="only the root releases"):
        tiers.shards[0].release("clicks", 1, 0)
    with pytest.raises(Conflict, match="no shard"):
        tiers.root.hand_over("clicks", 1, 0, tiers.root_key)
    partial = tiers.shards[0].hand_over("clicks", 1, 0, tiers.root_key)
    with pytest.raises(Conflict, match="is a shard itself"):
        tiers.shards[1].accept_partial_sum(partial)
    # After it no report comes in, and no other root gets the sum.
    with pytest.raises(Conflict):
        report(tiers.shards[0], VECTORS[:1], first=50)
    with pytest.raises(Conflict, match="another root"):
        tiers.shards[0].hand_over("clicks", 1, 0, attested(tiers.shards[1]))


def test_a_sealed_sum_does_not_show_the_sum(tiers, report) -> None:
    """Not a byte of it in what is carried, nor any report left in the shard's file."""
    report(tiers.shards[0], VECTORS, first=0)
    partial = tiers.shards[0].hand_over("clicks", 1, 0, tiers.root_key)
    total = np.sum(VECTORS, axis=0).astype("<i8")
    carried = encode_partial_message(partial)
    assert not any(value.tobytes() in carried for value in total)
    assert tiers.shards[0]._ledger.report_count("clicks", 1) == 0


def test_a_tier_that_was_not_told_of_shards_knows_none(aggregator, make_plan) -> None:
    """Both sides have to be set up: the default is one tier alone."""
    aggregator.register("clicks", make_plan().data)
    public = generate_key_pair()[1]
    key = AggregatorKey(key_id=key_id(public), public_key=public.hex())
    with pytest.raises(Conflict, match="no shard"):
        aggregator.hand_over("clicks", 1, 0, key)
    partial = SealedPartialSum(
        shard="a", task="clicks", round=1, model_version=0, key=key, sealed=b"x" * 100
    )
    with pytest.raises(Conflict, match="takes no partial sums"):
        aggregator.accept_partial_sum(partial)


@pytest.mark.parametrize(
    ("values", "accepted"),
    [([BOUND + 1, 0, 0], 1), ([800, 800, 0], 1), ([1, 0, 0], 0), ([0, 0, 0], 41)],
    ids=["coordinate", "norm", "nobody", "too many"],
)
def test_a_sum_that_reports_cannot_come_to_is_refused(values, accepted) -> None:
    """Even an attested shard adds no more than its number of reports allows."""
    part = PartialSum(total=np.array(values, dtype=np.int64), accepted=accepted)
    with pytest.raises(DecodeError):
        decode_partial_sum(encode_partial_sum(part), length=3, norm_bound=BOUND, most_reports=40)


@given(st.binary(max_size=200))
def test_bytes_that_are_no_partial_sum_are_refused(data) -> None:
    """Whatever arrives is refused by the one exception, or read."""
    for read in (
        decode_partial_message,
        lambda raw: decode_partial_sum(raw, length=3, norm_bound=BOUND, most_reports=40),
    ):
        for raw in (data, b"PFS1" + data, b"PFP1" + data):
            with suppress(DecodeError):
                read(raw)
