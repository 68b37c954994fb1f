"""Only sound reports are summed, only noised sums come out, and never more than the budget allows."""

from __future__ import annotations

import logging
import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from pocketfl.encoding import EncodingSpec
from pocketfl.plan import generate_signing_key
from pocketfl.protocol import PROTOCOL
from pocketfl.reports import encode_vector
from pocketfl.sealing import ReportContext, key_id, seal
from pocketfl_server.trusted.accounting import spent_privacy
from pocketfl_server.trusted.aggregator import Aggregator
from pocketfl_server.trusted.client import TrustedTier
from pocketfl_server.trusted.messages import SealedEntry
from pocketfl_server.trusted.refusals import (
    BudgetExhausted,
    Conflict,
    FloorNotReached,
    MalformedRequest,
    PlanRefused,
    UnknownTask,
)
from pocketfl_server.trusted.releases import NoisedRelease, UnprotectedRelease
from pocketfl_server.trusted.summing import (
    MALFORMED,
    NORM_ABOVE_BOUND,
    WRONG_LENGTH,
)

FALSE_ALARM = 1e-6


def lease(number: int) -> str:
    return f"lease-{number:012d}"


def sealed_round(sealed_vector, key, vectors, **context):
    return [
        sealed_vector(vector, key=key, lease=lease(i), **context)
        for i, vector in enumerate(vectors)
    ]


def test_the_interface_is_the_contract(aggregator):
    """The aggregator is a trusted tier as the back end's type says."""
    tier: TrustedTier = aggregator
    assert tier is aggregator


# --- Registration --------------------------------------------------------------------------------


def test_a_plan_gets_one_key_for_ever(tmp_path, make_plan, plan_keys):
    """Registering again, also after a restart, gives the same key, bound to plan and policy."""
    plan = make_plan()
    with Aggregator(tmp_path / "ledger", plan_keys=plan_keys) as tier:
        key = tier.register("clicks", plan.data)
        assert tier.register("clicks", plan.data) == key
    with Aggregator(tmp_path / "ledger", plan_keys=plan_keys) as tier:
        assert tier.register("clicks", plan.data) == key
        assert tier.describe("clicks").key == key
        other = tier.register("views", make_plan(name="other").data)
    assert key.key_id == key_id(bytes.fromhex(key.public_key))
    assert (key.plan_sha256, key.policy_hash) == (plan.sha256, plan.manifest.policy_hash)
    assert other.public_key != key.public_key


def test_one_plan_has_one_budget(aggregator, make_plan):
    """Neither a second task nor a repacked archive of the same manifest buys a fresh budget."""
    plan = make_plan()
    aggregator.register("clicks", plan.data)
    with pytest.raises(Conflict, match="one plan has one budget") as refusal:
        aggregator.register("again", plan.data)
    assert refusal.value.code == "plan_has_other_task"
    repacked = repack(plan.data)
    assert repacked != plan.data
    with pytest.raises(Conflict, match="one plan has one budget"):
        aggregator.register("again", repacked)
    with pytest.raises(Conflict, match="another plan") as refusal:
        aggregator.register("clicks", make_plan(name="newer").data)
    assert refusal.value.code == "task_has_other_plan"
    with pytest.raises(UnknownTask):
        aggregator.describe("again")


def repack(data: bytes) -> bytes:
    """The same members in an archive with other bytes."""
    import io
    import zipfile

    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w") as new:
        for name in reversed(old.namelist()):
            new.writestr(name, old.read(name))
    return buffer.getvalue()


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-10],
        lambda data: data[:100] + bytes([data[100] ^ 1]) + data[101:],
        lambda data: b"",
        lambda data: b"garbage" * 100,
    ],
)
def test_damaged_plans_are_refused(aggregator, make_plan, damage):
    """No key is made for a plan that does not verify."""
    with pytest.raises(PlanRefused, match="plan"):
        aggregator.register("clicks", damage(make_plan(privacy="none").data))
    with pytest.raises(UnknownTask):
        aggregator.describe("clicks")


def test_plans_of_strangers_are_refused(aggregator, make_plan):
    """A sound plan of another modeller is refused, naming the signer."""
    stranger = make_plan(signing_key=generate_signing_key())
    with pytest.raises(PlanRefused, match=stranger.signed_by):
        aggregator.register("clicks", stranger.data)


def test_a_key_that_was_withdrawn_stops_its_tasks(tmp_path, make_plan, plan_keys):
    """After a restart that no longer trusts the modeller, the task is refused, not served."""
    with Aggregator(tmp_path / "ledger", plan_keys=plan_keys) as tier:
        tier.register("clicks", make_plan().data)
    other = generate_signing_key().public_key().public_bytes_raw()
    with Aggregator(tmp_path / "ledger", plan_keys=[other]) as tier, pytest.raises(PlanRefused):
        tier.describe("clicks")


@pytest.mark.parametrize("name", ["", "../x", "a/b", "x" * 200, "tabs\there"])
def test_task_names_are_checked(aggregator, make_plan, name):
    """A name that is not safe in a path goes nowhere."""
    with pytest.raises(MalformedRequest, match="task"):
        aggregator.register(name, make_plan().data)


# --- Sums ----------------------------------------------------------------------------------------


@settings(max_examples=15, deadline=None)
@given(
    vectors=st.lists(
        st.lists(st.integers(-500, 500), min_size=3, max_size=3), min_size=3, max_size=12
    ),
    order=st.randoms(use_true_random=False),
)
def test_sums_are_exact_and_order_free(
    tmp_path_factory, make_plan, plan_keys, sealed_vector, vectors, order
):
    """Without noise the release is the integer sum, whatever the order of arrival."""
    path = tmp_path_factory.mktemp("sum") / "ledger"
    with Aggregator(path, plan_keys=plan_keys) as tier:
        key = tier.register("clicks", make_plan(privacy="none").data)
        entries = sealed_round(sealed_vector, key, vectors)
        order.shuffle(entries)
        tier.submit("clicks", 1, 0, entries[:2])
        tier.submit("clicks", 1, 0, entries[1:])
        release = tier.release("clicks", 1, 0)
    assert isinstance(release, UnprotectedRelease)
    assert release.values.tolist() == np.sum(vectors, axis=0).tolist()
    assert release.reports == len(vectors)


def test_pages_of_reports_all_count(aggregator, make_plan, sealed_vector, monkeypatch):
    """Summing page by page misses nothing and counts nothing twice."""
    monkeypatch.setattr("pocketfl_server.trusted.ledger._LEASES_AT_ONCE", 4)
    monkeypatch.setattr("pocketfl_server.trusted.summing._NARROW", 5)
    key = aggregator.register("clicks", make_plan(privacy="none").data)
    entries = sealed_round(sealed_vector, key, [[i, 1, -i] for i in range(18)])
    aggregator.submit("clicks", 1, 0, entries)
    assert aggregator.release("clicks", 1, 0).values.tolist() == [153, 18, -153]


@pytest.mark.parametrize("bits", [4, 8])
def test_encoded_reports_are_summed_exactly(aggregator, make_plan, sealed_vector, bits):
    """The release is the integer sum of rotated coordinates; what breaks a bound is left out."""
    encoding = EncodingSpec(bits=bits)
    bound = encoding.norm_bound(130)
    plan = make_plan(parameters=130, privacy="none", encoding=encoding, norm_bound=bound)
    key = aggregator.register("clicks", plan.data)
    length = plan.manifest.report_length
    vectors = np.random.default_rng(bits).integers(-1, 2, size=(7, length))
    vectors[0, :3] = encoding.limit, -encoding.limit, 3
    too_long = np.full(length, encoding.limit)
    entries = sealed_round(sealed_vector, key, [*vectors, too_long], bits=bits)
    # Packed for another grid, and as long as this plan's.
    other = next(b for b in (4, 8) if b != bits)
    strange = sealed_vector(np.zeros(length * bits // other), key=key, lease=lease(90), bits=other)
    entries.append(strange)
    # Sixteen bits each are too many bytes.
    entries.append(sealed_vector(vectors[0], key=key, lease=lease(91)))
    aggregator.submit("clicks", 1, 0, entries)
    release = aggregator.release("clicks", 1, 0)
    assert release.values.tolist() == vectors.sum(axis=0).tolist()
    assert release.rejected == {NORM_ABOVE_BOUND: 1, MALFORMED: 1, WRONG_LENGTH: 1}


def test_unprotected_releases_say_so(aggregator, make_plan, sealed_vector):
    """A plan with privacy 'none' gives the labelled type and claims no epsilon."""
    key = aggregator.register("clicks", make_plan(privacy="none").data)
    aggregator.submit("clicks", 1, 0, sealed_round(sealed_vector, key, [[1, 2, 3]] * 3))
    release = aggregator.release("clicks", 1, 0)
    assert isinstance(release, UnprotectedRelease)
    assert not isinstance(release, NoisedRelease)
    assert (release.epsilon, release.delta, release.noise_multiplier) == (None, None, 0.0)


def test_released_noise_is_the_calibrated_gaussian(tmp_path, make_plan, plan_keys, sealed_vector):
    """Over repeated runs the released sums scatter around the true sum with the paid-for scale.

    8 runs of 2,000 coordinates; three comparisons at a false-alarm rate of 1e-6 each.
    """
    length, runs, sigma = 2_000, 8, 1.3 * 1000
    plan = make_plan(parameters=length, noise_multiplier=1.3)
    vectors = np.zeros((4, length), dtype=np.int64)
    vectors[np.arange(4), np.arange(4)] = [900, -900, 500, 7]
    residuals = []
    for run in range(runs):
        with Aggregator(tmp_path / f"ledger{run}", plan_keys=plan_keys) as tier:
            key = tier.register("clicks", plan.data)
            tier.submit("clicks", 1, 0, sealed_round(sealed_vector, key, vectors))
            release = tier.release("clicks", 1, 0)
            assert isinstance(release, NoisedRelease)
            residuals.append(release.values - vectors.sum(axis=0))
    noise = np.concatenate(residuals)
    z = stats.norm.isf(FALSE_ALARM / 2)
    assert abs(noise.mean()) < z * sigma / math.sqrt(noise.size)
    square_sum = (noise.astype(float) ** 2).sum() / sigma**2
    chi2 = stats.chi2(noise.size)
    assert chi2.ppf(FALSE_ALARM / 2) < square_sum < chi2.isf(FALSE_ALARM / 2)
    assert stats.kstest(noise, stats.norm(0, sigma).cdf).pvalue > FALSE_ALARM
    # Noise shared between runs would cancel in a difference of two releases.
    assert len({residual.tobytes() for residual in residuals}) == runs


# --- Reports that do not count -------------------------------------------------------------------


def at_bound(excess: int = 0) -> list[int]:
    """A vector whose squared norm is 1000^2 + excess, for excess 0 or 1."""
    return [1000, excess, 0]


def test_every_bad_report_is_left_out_and_counted(aggregator, make_plan, sealed_vector):
    """One of each kind among good ones: each has its reason, and the sum is that of the good."""
    key = aggregator.register("clicks", make_plan(privacy="none").data)
    good = [
        sealed_vector(at_bound(), key=key, lease=lease(1)),
        sealed_vector([0, 10, 0], key=key, lease=lease(2)),
        sealed_vector([0, 0, -1], key=key, lease=lease(3)),
    ]
    flipped = bytearray(sealed_vector([1, 1, 1], key=key, lease=lease(10)).sealed)
    flipped[40] ^= 1
    _, stranger = generate_signing_key(), "11" * 32
    size = len(good[0].sealed)
    info = ReportContext(
        key_id=key.key_id,
        policy_hash=key.policy_hash,
        plan_sha256=key.plan_sha256,
        task="clicks",
        round=1,
        model_version=0,
        lease=lease(20),
    ).info()
    header = encode_vector(np.zeros(3, dtype=np.int16))
    public = bytes.fromhex(key.public_key)
    bad = {
        "cannot_open": [
            SealedEntry(lease=lease(10), sealed=bytes(flipped)),
            SealedEntry(lease=lease(11), sealed=b"\7" * size),
            sealed_vector([1, 1, 1], key=key, lease=lease(12), task="other"),
            sealed_vector([1, 1, 1], key=key, lease=lease(13), round=2),
            sealed_vector([1, 1, 1], key=key, lease=lease(14), model_version=1),
            sealed_vector([1, 1, 1], key=key, lease=lease(15), plan_sha256=stranger),
            sealed_vector([1, 1, 1], key=key, lease=lease(16), policy_hash=stranger),
            sealed_vector([1, 1, 1], key=key, lease=lease(17), key_id=stranger),
            sealed_vector([1, 1, 1], key=key, lease=lease(18), protocol=PROTOCOL + "x"),
        ],
        "duplicate": [
            SealedEntry(lease=lease(30), sealed=good[0].sealed),
            SealedEntry(lease=lease(31), sealed=good[0].sealed),
        ],
        "wrong_length": [
            SealedEntry(lease=lease(40), sealed=b""),
            SealedEntry(lease=lease(41), sealed=good[0].sealed[:-1]),
            SealedEntry(lease=lease(42), sealed=good[0].sealed + b"\0"),
            sealed_vector([1, 1], key=key, lease=lease(43)),
        ],
        "malformed": [
            SealedEntry(
                lease=lease(20), sealed=seal(public, info=info, plaintext=b"\2" + header[1:])
            ),
        ],
        "norm_above_bound": [
            sealed_vector(at_bound(1), key=key, lease=lease(50)),
            sealed_vector([-32768, -32768, -32768], key=key, lease=lease(51)),
        ],
    }
    # Copies arrive before the original: who copies must not silence who is copied.
    aggregator.submit("clicks", 1, 0, bad["duplicate"])
    aggregator.submit("clicks", 1, 0, good)
    for reason in ("cannot_open", "wrong_length", "malformed", "norm_above_bound"):
        aggregator.submit("clicks", 1, 0, bad[reason])
    release = aggregator.release("clicks", 1, 0)
    assert release.rejected == {reason: len(entries) for reason, entries in bad.items()}
    assert release.values.tolist() == [1000, 10, -1]
    assert release.reports == 3


def test_a_copied_report_of_another_round_counts_once_as_unopened(
    aggregator, make_plan, sealed_vector
):
    """Two copies of a report that opens nowhere: one cannot be opened, one is its duplicate."""
    key = aggregator.register("clicks", make_plan(privacy="none").data)
    aggregator.submit("clicks", 1, 0, sealed_round(sealed_vector, key, [[1, 1, 1]] * 3))
    stale = sealed_vector([5, 5, 5], key=key, lease=lease(1), round=9)
    copies = [SealedEntry(lease=lease(n), sealed=stale.sealed) for n in (10, 11)]
    aggregator.submit("clicks", 1, 0, copies)
    release = aggregator.release("clicks", 1, 0)
    assert release.rejected == {"cannot_open": 1, "duplicate": 1}
    assert release.values.tolist() == [3, 3, 3]


def test_submitting_again_changes_nothing(aggregator, make_plan, sealed_vector):
    """The same bytes are fine, other bytes are refused and the first stay, one lease counts once."""
    key = aggregator.register("clicks", make_plan(privacy="none").data)
    entries = sealed_round(sealed_vector, key, [[1, 0, 0], [0, 1, 0], [0, 0, 1]])
    aggregator.submit("clicks", 1, 0, entries)
    aggregator.submit("clicks", 1, 0, entries)
    late = sealed_vector([7, 7, 7], key=key, lease=lease(9))
    other = sealed_vector([9, 9, 9], key=key, lease=lease(0))
    with pytest.raises(Conflict, match="first is kept") as refusal:
        aggregator.submit("clicks", 1, 0, [late, other])
    assert refusal.value.code == "other_report_for_lease"
    assert aggregator.release("clicks", 1, 0).values.tolist() == [1, 1, 1]


def test_a_round_cannot_hold_more_reports_than_devices(aggregator, make_plan, sealed_vector):
    """What a round stores is bounded by the plan's population."""
    key = aggregator.register("clicks", make_plan(privacy="none", population=4).data)
    entries = sealed_round(sealed_vector, key, [[1, 0, 0]] * 9)
    aggregator.submit("clicks", 1, 0, entries[:8])
    with pytest.raises(Conflict, match="twice the plan's population") as refusal:
        aggregator.submit("clicks", 1, 0, entries[8:])
    assert refusal.value.code == "round_full"
    aggregator.submit("clicks", 1, 0, entries[:8])


# --- Floor, budget, order of rounds --------------------------------------------------------------


def test_below_the_floor_nothing_happens(aggregator, make_plan, sealed_vector, monkeypatch):
    """Too few valid reports: no noise is drawn, nothing charged, and the round can still fill up."""
    key = aggregator.register("clicks", make_plan().data)

    def no_noise(*_args, **_kwargs):
        raise AssertionError("noise was drawn")

    aggregator.submit("clicks", 1, 0, sealed_round(sealed_vector, key, [[1, 0, 0]] * 2))
    aggregator.submit("clicks", 1, 0, [sealed_vector([1, 1], key=key, lease=lease(7))])
    with monkeypatch.context() as patch:
        patch.setattr("pocketfl_server.trusted.releasing.add_noise", no_noise)
        for _ in range(2):
            with pytest.raises(FloorNotReached, match="2 valid reports, 3 needed") as refusal:
                aggregator.release("clicks", 1, 0)
    assert refusal.value.details == {"accepted": 2, "floor": 3, "wrong_length": 1}
    assert aggregator.describe("clicks").spent.releases == 0
    aggregator.submit("clicks", 1, 0, [sealed_vector([1, 0, 0], key=key, lease=lease(8))])
    assert aggregator.release("clicks", 1, 0).reports == 3


def test_an_unheard_of_round_is_below_the_floor(aggregator, make_plan):
    """A round without a single report is no error of its own kind."""
    aggregator.register("clicks", make_plan().data)
    with pytest.raises(FloorNotReached, match="0 valid reports"):
        aggregator.release("clicks", 4, 0)


def test_an_abandoned_round_is_gone(aggregator, make_plan, sealed_vector):
    """Its reports are deleted, it takes no more and is never released; the next round is fine."""
    key = aggregator.register("clicks", make_plan().data)
    aggregator.submit("clicks", 1, 0, sealed_round(sealed_vector, key, [[1, 0, 0]] * 4))
    aggregator.abandon("clicks", 1)
    aggregator.abandon("clicks", 1)
    assert aggregator._ledger.report_count("clicks", 1) == 0
    for attempt in (
        lambda: aggregator.release("clicks", 1, 0),
        lambda: aggregator.submit(
            "clicks", 1, 0, [sealed_vector([1, 0, 0], key=key, lease=lease(9))]
        ),
    ):
        with pytest.raises(Conflict) as refusal:
            attempt()
        assert refusal.value.code == "round_abandoned"
    following = sealed_round(sealed_vector, key, [[1, 0, 0]] * 4, round=2)
    aggregator.submit("clicks", 2, 0, following)
    release = aggregator.release("clicks", 2, 0)
    assert release.epsilon == pytest.approx(spent_privacy(make_plan().manifest, 1).epsilon)


def test_rounds_are_released_in_order_and_once(aggregator, make_plan, sealed_vector):
    """A repeated release gives the same values; an older round is over; nothing is charged twice."""
    key = aggregator.register("clicks", make_plan().data)
    for number in (2, 3):
        entries = sealed_round(sealed_vector, key, [[1, 0, 0]] * 3, round=number)
        aggregator.submit("clicks", number, 0, entries)
    third = aggregator.release("clicks", 3, 0)
    assert aggregator.release("clicks", 3, 0).values.tolist() == third.values.tolist()
    assert aggregator.describe("clicks").spent.releases == 1
    assert aggregator.describe("clicks").last_released_round == 3
    for attempt, code in (
        (lambda: aggregator.release("clicks", 2, 0), "round_over"),
        (lambda: aggregator.submit("clicks", 2, 0, entries), "round_over"),
        (lambda: aggregator.submit("clicks", 3, 0, entries), "round_released"),
        (lambda: aggregator.abandon("clicks", 3), "round_released"),
        (lambda: aggregator.release("clicks", 3, 1), "other_model_version"),
    ):
        with pytest.raises(Conflict) as refusal:
            attempt()
        assert refusal.value.code == code


def test_a_round_has_one_model_version(aggregator, make_plan, sealed_vector):
    """Whoever names another version than the round began with is refused."""
    key = aggregator.register("clicks", make_plan().data)
    entries = sealed_round(sealed_vector, key, [[1, 0, 0]] * 3, model_version=5)
    aggregator.submit("clicks", 1, 5, entries)
    for attempt in (
        lambda: aggregator.submit("clicks", 1, 4, entries),
        lambda: aggregator.release("clicks", 1, 4),
    ):
        with pytest.raises(Conflict) as refusal:
            attempt()
        assert refusal.value.code == "other_model_version"
    assert aggregator.release("clicks", 1, 5).model_version == 5


def test_the_number_of_rounds_is_a_budget(aggregator, make_plan, sealed_vector):
    """After max_rounds releases there are no more, for protected and unprotected plans alike."""
    for task, privacy in (("clicks", "gaussian"), ("views", "none")):
        plan = make_plan(
            name=task, privacy=privacy, max_rounds=2, max_participations=2, epsilon=900.0
        )
        key = aggregator.register(task, plan.data)
        for number in (1, 2, 3):
            entries = sealed_round(sealed_vector, key, [[1, 0, 0]] * 3, task=task, round=number)
            aggregator.submit(task, number, 0, entries)
            if number < 3:
                aggregator.release(task, number, 0)
        with pytest.raises(BudgetExhausted, match="allows 2 releases"):
            aggregator.release(task, 3, 0)
        assert aggregator.describe(task).spent.releases == 2


def test_epsilon_is_a_budget(aggregator, make_plan, sealed_vector, monkeypatch):
    """The release that would exceed epsilon is refused before a report is opened or noise drawn."""
    single = spent_privacy(make_plan().manifest, 1).epsilon
    plan = make_plan(epsilon=single * 1.001)
    key = aggregator.register("clicks", plan.data)
    for number in (1, 2):
        entries = sealed_round(sealed_vector, key, [[1, 0, 0]] * 3, round=number)
        aggregator.submit("clicks", number, 0, entries)
    first = aggregator.release("clicks", 1, 0)
    assert first.epsilon == pytest.approx(single)
    monkeypatch.setattr("pocketfl_server.trusted.releasing.add_noise", None)
    monkeypatch.setattr("pocketfl_server.trusted.summing.Opener", None)
    for _ in range(2):
        with pytest.raises(BudgetExhausted, match="above the plan's"):
            aggregator.release("clicks", 2, 0)
    assert aggregator.describe("clicks").spent.epsilon == first.epsilon
    assert aggregator._ledger.report_count("clicks", 2) == 3
    assert aggregator.release("clicks", 1, 0).values.tolist() == first.values.tolist()


operations = st.lists(
    st.tuples(
        st.sampled_from(["submit", "submit", "release", "release", "abandon", "restart"]),
        st.integers(1, 4),
        st.integers(1, 4),
    ),
    min_size=5,
    max_size=25,
)


@settings(max_examples=20, deadline=None)
@given(operations=operations)
def test_no_sequence_of_requests_exceeds_the_budget(
    tmp_path_factory, make_plan, plan_keys, sealed_vector, operations
):
    """Whatever is asked in whatever order: spent stays within budget, a round has one release."""
    budget = spent_privacy(make_plan().manifest, 2).epsilon * 1.001
    plan = make_plan(epsilon=budget)
    path = tmp_path_factory.mktemp("budget") / "ledger"
    tier = Aggregator(path, plan_keys=plan_keys)
    key = tier.register("clicks", plan.data)
    released: dict[int, list[int]] = {}
    try:
        for operation, number, reports in operations:
            try:
                if operation == "submit":
                    # Sealing is randomised, so a new submission needs leases of its own.
                    held = tier._ledger.report_count("clicks", number)
                    entries = [
                        sealed_vector([1, 0, 0], key=key, lease=lease(held + i), round=number)
                        for i in range(reports)
                    ]
                    tier.submit("clicks", number, 0, entries)
                elif operation == "release":
                    values = tier.release("clicks", number, 0).values.tolist()
                    assert number in released or number > max(released, default=0)
                    assert released.setdefault(number, values) == values
                elif operation == "abandon":
                    tier.abandon("clicks", number)
                    assert number not in released
                else:
                    tier.close()
                    tier = Aggregator(path, plan_keys=plan_keys)
            except (Conflict, FloorNotReached, BudgetExhausted):
                pass
            spent = tier.describe("clicks").spent
            assert spent.releases == len(released) <= 2
            assert spent.epsilon <= budget
            assert spent == spent_privacy(plan.manifest, len(released))
    finally:
        tier.close()


@pytest.mark.parametrize(("number", "version"), [(0, 0), (-1, 0), (1, -1), (2**63, 0), (1, 2**63)])
def test_numbers_are_bounded(aggregator, make_plan, number, version):
    """Rounds and versions outside their range are malformed, not a database error."""
    aggregator.register("clicks", make_plan().data)
    for attempt in (
        lambda: aggregator.submit("clicks", number, version, []),
        lambda: aggregator.release("clicks", number, version),
    ):
        with pytest.raises(MalformedRequest):
            attempt()


def test_unknown_tasks_are_named(aggregator):
    """Every method says which task it does not know."""
    for attempt in (
        lambda: aggregator.describe("nobody"),
        lambda: aggregator.submit("nobody", 1, 0, []),
        lambda: aggregator.release("nobody", 1, 0),
        lambda: aggregator.abandon("nobody", 1),
    ):
        with pytest.raises(UnknownTask, match="nobody"):
            attempt()


def test_threads_see_one_release(aggregator, make_plan, sealed_vector):
    """Submissions and releases from many threads at once: one release, one charge, same values."""
    key = aggregator.register("clicks", make_plan().data)
    entries = sealed_round(sealed_vector, key, [[1, 0, 0]] * 16)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: aggregator.submit("clicks", 1, 0, entries[i : i + 4]), range(13)))
        releases = list(pool.map(lambda _: aggregator.release("clicks", 1, 0), range(8)))
    assert {tuple(release.values.tolist()) for release in releases} == {
        tuple(releases[0].values.tolist())
    }
    assert releases[0].reports == 16
    assert aggregator.describe("clicks").spent.releases == 1


# --- Privacy -------------------------------------------------------------------------------------


def test_contents_of_reports_show_up_nowhere(tmp_path, make_plan, plan_keys, sealed_vector, caplog):
    """Markers in good and bad reports are in no log, message, summary or file."""
    caplog.set_level(logging.DEBUG)
    length = 64
    marker = np.full(length, 12345, dtype=np.int64)  # far above the bound
    quiet = np.full(length, 113, dtype=np.int64)  # within it: 113 * 8 = 904
    said = []
    with Aggregator(tmp_path / "ledger", plan_keys=plan_keys) as tier:
        key = tier.register("clicks", make_plan(parameters=length).data)
        bad = [sealed_vector(marker, key=key, lease=lease(100 + i)) for i in range(3)]
        tier.submit("clicks", 1, 0, bad)
        with pytest.raises(FloorNotReached) as refusal:
            tier.release("clicks", 1, 0)
        said += [str(refusal.value), repr(refusal.value.details)]
        tier.submit("clicks", 1, 0, sealed_round(sealed_vector, key, [quiet] * 3))
        release = tier.release("clicks", 1, 0)
        said += [repr(release.summary), repr(tier.__dict__), caplog.text]
        assert release.rejected == {"norm_above_bound": 3}
        files = b"".join(p.read_bytes() for p in tmp_path.iterdir())
    for vector, word in ((marker, "12345"), (quiet, "113, 113")):
        assert all(word not in text for text in said)
        for dtype in ("<i2", "<i8", "<f4"):
            assert vector[:8].astype(dtype).tobytes() not in files
    assert all(entry.sealed not in files for entry in bad)
