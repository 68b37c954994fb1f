"""Reports of several rounds in one release: weighted exactly, once only, and charged by separation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketfl.errors import PlanError
from pocketfl.plan import AdaptiveClippingSpec, AsynchronousSpec, EncodingSpec
from pocketfl.plan.aggregation import TreeNoiseSpec
from pocketfl.plan.asynchronous import WHOLE_WEIGHT, staleness_weight
from pocketfl_server.trusted.accounting import (
    Spending,
    composed_epsilon,
    planned_privacy,
    spent_privacy,
)
from pocketfl_server.trusted.aggregator import Aggregator
from pocketfl_server.trusted.messages import SealedEntry, decode_batch, encode_batch
from pocketfl_server.trusted.refusals import BudgetExhausted, MalformedRequest

SPEC = AsynchronousSpec(max_staleness=2, min_separation=3)


def entry(sealed_vector, key, values, *, origin: int, device: int, **changes) -> SealedEntry:
    made = sealed_vector(
        values,
        key=key,
        lease=f"lease-{origin}-{device:010d}",
        round=origin,
        model_version=origin - 1,
        **changes,
    )
    return SealedEntry(lease=made.lease, sealed=made.sealed, origin=(origin, origin - 1))


@pytest.fixture
def plan(make_plan):
    def build(**changes):
        return make_plan(**{"asynchronous": SPEC, "privacy": "none", "cohort_floor": 2, **changes})

    return build


@given(st.integers(0, 100))
def test_no_weight_is_above_one_and_each_is_the_largest_below_the_formula(staleness) -> None:
    """Rounded down, so that no report gets a larger norm than it had."""
    weight = staleness_weight(staleness)
    exact = WHOLE_WEIGHT / math.sqrt(1 + staleness)
    assert 1 <= weight <= exact < weight + 1
    assert weight <= WHOLE_WEIGHT
    assert staleness_weight(0) == WHOLE_WEIGHT


@pytest.mark.parametrize("bits", [16, 4], ids=["plain", "encoded"])
@pytest.mark.parametrize("workers", [1, 2])
def test_the_sum_is_exact_with_each_reports_weight(
    tmp_path, plan_keys, plan, sealed_vector, bits, workers
) -> None:
    """Devices of three rounds in one release: the sum of 256, 181 and 147 times their vectors."""
    changes = {}
    if bits == 4:
        changes = {"encoding": EncodingSpec(bits=4), "norm_bound": 7}
    made = plan(**changes)
    length = made.manifest.report_length
    vectors = {
        (origin, device): [origin, device - 1, 2, 1][:length]
        for origin in (1, 2, 3)
        for device in range(3)
    }
    with Aggregator(tmp_path / "ledger", plan_keys=plan_keys, workers=workers) as tier:
        key = tier.register("clicks", made.data)
        entries = [
            entry(sealed_vector, key, values, origin=origin, device=device, bits=bits)
            for (origin, device), values in vectors.items()
        ]
        tier.submit("clicks", 3, 2, decode_batch(encode_batch(entries)))
        release = tier.release("clicks", 3, 2)
    weights = {1: 147, 2: 181, 3: 256}
    wanted = sum(weights[o] * np.array(values) for (o, _), values in vectors.items())
    assert release.values.tolist() == wanted.tolist()
    assert (release.reports, release.rejected) == (9, {})
    assert release.grid_step == made.manifest.aggregation.grid_step / 256


def test_a_report_is_in_one_release_at_most(tmp_path, plan_keys, plan, sealed_vector) -> None:
    """Handed over for two rounds at once, and again after a release and a restart: counted once."""
    made = plan()
    path = tmp_path / "ledger"
    with Aggregator(path, plan_keys=plan_keys) as tier:
        key = tier.register("clicks", made.data)
        first = [entry(sealed_vector, key, [1, 0, 0], origin=1, device=n) for n in range(3)]
        tier.submit("clicks", 1, 0, first)
        tier.submit("clicks", 2, 1, first)
        assert tier.release("clicks", 1, 0).reports == 3
    with Aggregator(path, plan_keys=plan_keys) as tier:
        second = [entry(sealed_vector, key, [0, 1, 0], origin=2, device=n) for n in range(2)]
        tier.submit("clicks", 2, 1, first + second)
        release = tier.release("clicks", 2, 1)
        assert release.values.tolist() == [0, 2 * 256, 0]
        # The rounds after: still remembered as long as the report could be taken, then too stale.
        third = [entry(sealed_vector, key, [0, 0, 1], origin=3, device=n) for n in range(2)]
        tier.submit("clicks", 3, 2, first + third)
        assert tier.release("clicks", 3, 2).rejected == {}
        fourth = [entry(sealed_vector, key, [0, 0, 1], origin=4, device=n) for n in range(2)]
        tier.submit("clicks", 4, 3, first + fourth)
        release = tier.release("clicks", 4, 3)
        assert (release.reports, release.rejected) == (2, {"stale": 3})


def test_what_is_too_old_or_yet_to_come_or_moved_is_left_out(
    aggregator, plan, sealed_vector
) -> None:
    """The seal holds a report to its round, whatever the back end says of it."""
    key = aggregator.register("clicks", plan().data)
    good = [entry(sealed_vector, key, [1, 0, 0], origin=4, device=n) for n in range(2)]
    odd = [
        entry(sealed_vector, key, [9, 0, 0], origin=1, device=7),
        entry(sealed_vector, key, [9, 0, 0], origin=5, device=7),
    ]
    old = entry(sealed_vector, key, [9, 0, 0], origin=2, device=8)
    odd.append(SealedEntry(lease=old.lease, sealed=old.sealed, origin=(4, 3)))
    odd.append(SealedEntry(lease=good[0].lease + "0", sealed=good[0].sealed, origin=(4, 3)))
    aggregator.submit("clicks", 4, 3, good + odd)
    release = aggregator.release("clicks", 4, 3)
    assert release.values.tolist() == [512, 0, 0]
    assert release.rejected == {"stale": 2, "cannot_open": 1, "duplicate": 1}
    with pytest.raises(MalformedRequest, match="where rounds"):
        aggregator.submit("clicks", 5, 4, [sealed_vector([1, 1, 1], key=key, lease="l" * 16)])


def test_a_synchronous_task_takes_no_origins(aggregator, make_plan, sealed_vector) -> None:
    """Nobody turns a task of synchronous rounds into another one."""
    key = aggregator.register("clicks", make_plan(privacy="none").data)
    with pytest.raises(MalformedRequest, match="only there"):
        aggregator.submit(
            "clicks", 1, 0, [entry(sealed_vector, key, [1, 1, 1], origin=1, device=1)]
        )


def test_privacy_is_charged_by_rounds_and_separation(aggregator, plan, sealed_vector) -> None:
    """Round R costs ceil(R / separation) Gaussians without sampling, abandoned rounds included.

    The closed form: of ``n`` Gaussians of multiplier ``z`` is that of one with ``z / sqrt(n)``.
    """
    made = plan(privacy="gaussian", noise_multiplier=2.0, max_rounds=8, max_participations=8)
    for rounds, participations in ((1, 1), (3, 1), (4, 2), (7, 3), (8, 3)):
        spent = spent_privacy(made.manifest, rounds)
        one = Spending(
            sampling_probability=1.0,
            noise_multiplier=2.0 / math.sqrt(participations),
            releases=1,
            participations=1,
        )
        wanted, _ = composed_epsilon([one], delta=1e-5)
        assert spent.epsilon == pytest.approx(wanted, rel=1e-6)
        assert spent.epsilon == spent.epsilon_against_back_end
    assert planned_privacy(made.manifest).epsilon == spent_privacy(made.manifest, 8).epsilon
    key = aggregator.register("clicks", made.data)
    for number in (1, 4, 8):
        entries = [entry(sealed_vector, key, [1, 0, 0], origin=number, device=n) for n in range(2)]
        aggregator.submit("clicks", number, number - 1, entries)
        release = aggregator.release("clicks", number, number - 1)
        assert release.epsilon == spent_privacy(made.manifest, number).epsilon
    late = [entry(sealed_vector, key, [1, 0, 0], origin=9, device=n) for n in range(2)]
    aggregator.submit("clicks", 9, 8, late)
    with pytest.raises(BudgetExhausted):
        aggregator.release("clicks", 9, 8)


def test_noise_is_that_of_a_whole_report(aggregator, plan, sealed_vector) -> None:
    """Its standard deviation is the multiplier times the norm bound times 256, in the sum's units.

    400 coordinates: the ratio of the variances is in [0.7, 1.4] but for one run in a hundred thousand.
    """
    made = plan(privacy="gaussian", parameters=400, noise_multiplier=1.5)
    key = aggregator.register("clicks", made.data)
    zeros = [0] * 400
    aggregator.submit(
        "clicks",
        1,
        0,
        [entry(sealed_vector, key, zeros, origin=1, device=n) for n in range(2)],
    )
    values = aggregator.release("clicks", 1, 0).values / (1.5 * 1000 * 256)
    assert 0.7 < float(np.square(values).mean()) < 1.4


def test_what_does_not_go_together_is_refused(make_plan) -> None:
    """Sampling, a tree, a clip norm that adapts; two reports of a device under way."""
    adaptive = AdaptiveClippingSpec(min_clip_norm=0.1, max_clip_norm=1.0)
    for changes, reason in (
        ({"tree": TreeNoiseSpec()}, "noise of their own"),
        ({"sampling_probability": 0.5, "cohort_floor": 1}, "sample nobody"),
        ({"adaptive": adaptive}, "one clip norm"),
    ):
        with pytest.raises((PlanError, ValueError), match=reason):
            make_plan(asynchronous=SPEC, **changes)
    with pytest.raises(ValueError, match="one report under way"):
        AsynchronousSpec(max_staleness=3, min_separation=3)
    assert b"asynchronous" not in make_plan().manifest.to_json()
