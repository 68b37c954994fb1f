"""What devices that lie about their update can do to a sum: no more than their share of clip norms."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from pocketfl.errors import ReportError
from pocketfl.plan import Plan
from pocketfl.reports import encode_vector, make_report
from pocketfl.sealing import ReportContext, key_id, seal
from pocketfl_server.trusted.aggregator import Aggregator
from pocketfl_server.trusted.messages import KeyDescription, SealedEntry
from pocketfl_server.trusted.summing import CANNOT_OPEN, DUPLICATE, MALFORMED, NORM_ABOVE_BOUND

COHORT = 100


def context_of(key: KeyDescription, number: int, **changes: object) -> ReportContext:
    context = ReportContext(
        key_id=key.key_id,
        policy_hash=key.policy_hash,
        plan_sha256=key.plan_sha256,
        task="clicks",
        round=1,
        model_version=0,
        lease=f"lease-{number:012d}",
    )
    return dataclasses.replace(context, **changes)


def sealed(context: ReportContext, key: KeyDescription, plaintext: bytes) -> SealedEntry:
    public = bytes.fromhex(key.public_key)
    assert key_id(public) == key.key_id
    data = seal(public, info=context.info(), plaintext=plaintext)
    return SealedEntry(lease=context.lease, sealed=data)


def honest(plan: Plan, key: KeyDescription, number: int, update: np.ndarray) -> SealedEntry:
    context = context_of(key, number)
    public = bytes.fromhex(key.public_key)
    report = make_report(update, plan=plan, context=context, public_key=public)
    return SealedEntry(lease=context.lease, sealed=report.data)


@pytest.mark.parametrize("poisoners", [1, 5, 20])
def test_the_clip_bounds_the_damage(poisoners, plan, trusted: Aggregator, hostile) -> None:
    """1, 5 and 20 of 100 devices push as hard as they can against all others, and a millionfold.

    The honest sum has norm 100; each poisoner replaces an honest clip norm by an opposite one, so the
    mean moves by two clip norms times their share: 2 %, 10 % and 40 %, and keeps its direction.
    """
    key = trusted.register("clicks", plan.data)
    direction = np.random.default_rng(7).normal(size=40)
    direction /= np.linalg.norm(direction)
    entries = [
        honest(plan, key, number, (direction if number >= poisoners else -1e6 * direction))
        for number in range(COHORT)
    ]
    hostile.tried += poisoners
    trusted.submit("clicks", 1, 0, entries)
    release = trusted.release("clicks", 1, 0)
    assert release.reports == COHORT
    mean = release.values * release.grid_step / COHORT
    damage = np.linalg.norm(mean - direction)
    assert damage <= 2 * poisoners / COHORT + 0.002
    assert damage == pytest.approx(2 * poisoners / COHORT, abs=0.002)
    assert mean @ direction / np.linalg.norm(mean) > 0.999


def test_what_never_gets_into_a_sum(plan, trusted: Aggregator, hostile) -> None:
    """A norm above the bound, another task's result, a replay, garbage: counted by reason, left out."""
    key = trusted.register("clicks", plan.data)
    update = np.full(40, 0.01)
    entries = [honest(plan, key, number, update) for number in range(10)]
    huge = encode_vector(np.full(40, 32_767, dtype=np.int16))
    entries.append(sealed(context_of(key, 20), key, huge))
    other = context_of(key, 21)
    moved = sealed(dataclasses.replace(other, task="views"), key, huge)
    entries.append(moved)
    entries.append(SealedEntry(lease="lease-000000000022", sealed=entries[0].sealed))
    entries.append(sealed(context_of(key, 23), key, b"\x07" + huge[1:]))
    hostile.tried += 4
    trusted.submit("clicks", 1, 0, entries)
    release = trusted.release("clicks", 1, 0)
    wanted = {NORM_ABOVE_BOUND: 1, CANNOT_OPEN: 1, DUPLICATE: 1, MALFORMED: 1}
    assert release.rejected == wanted
    assert release.reports == 10
    assert np.linalg.norm(release.values * release.grid_step / 10 - update) < 0.001


def test_a_device_cannot_report_what_is_not_a_number(plan, trusted: Aggregator, hostile) -> None:
    """NaN and infinity have no place on a grid of whole numbers."""
    key = trusted.register("clicks", plan.data)
    for value in (np.nan, np.inf, -np.inf):
        hostile.tried += 1
        with pytest.raises(ReportError, match="not finite"):
            honest(plan, key, 1, np.full(40, value))
