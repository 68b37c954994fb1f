"""Several processes come to the same exact sum, and the death of one costs nothing but time."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest

from pocketfl_server.trusted.aggregator import Aggregator
from pocketfl_server.trusted.refusals import TrustedTierUnavailable
from pocketfl_server.trusted.summing import CANNOT_OPEN, DUPLICATE, NORM_ABOVE_BOUND
from pocketfl_server.trusted.workers import Workers


def lease(number: int) -> str:
    return f"lease-{number:012d}"


@pytest.fixture
def filled(tmp_path, make_plan, plan_keys, sealed_vector):
    """A ledger with a round of 40 reports, three of them bad, and its true sum."""
    with Aggregator(tmp_path / "ledger", plan_keys=plan_keys) as tier:
        key = tier.register("clicks", make_plan(privacy="none", population=100).data)
        vectors = np.random.default_rng(1).integers(-300, 300, size=(37, 3))
        entries = [
            sealed_vector(vector, key=key, lease=lease(i)) for i, vector in enumerate(vectors)
        ]
        entries.append(sealed_vector([2000, 0, 0], key=key, lease=lease(90)))
        entries.append(type(entries[0])(lease=lease(91), sealed=entries[0].sealed))
        entries.append(sealed_vector([1, 0, 0], key=key, lease=lease(92), round=2))
        tier.submit("clicks", 1, 0, entries)
    return tmp_path / "ledger", vectors.sum(axis=0).tolist()


def test_workers_come_to_the_same_sum_and_survive_one_of_them(
    filled, plan_keys, monkeypatch
) -> None:
    """A worker that is killed ends the call, with nothing released or charged; the next one works.

    What pages of different workers have in common, such as a copied report, is found all the same.
    """
    ledger, total = filled
    monkeypatch.setattr("pocketfl_server.trusted.collecting._PAGE_BYTES", 300)
    with Aggregator(ledger, plan_keys=plan_keys, workers=2) as tier:
        pool = tier._workers._start()
        pool.submit(os.getpid).result()
        victims = list(pool._processes)
        assert victims
        for victim in victims:
            os.kill(victim, signal.SIGKILL)
        with pytest.raises(TrustedTierUnavailable, match="a worker process died"):
            tier.release("clicks", 1, 0)
        assert tier.describe("clicks").spent.releases == 0
        release = tier.release("clicks", 1, 0)
        assert release.values.tolist() == total
        assert release.reports == 37
        assert release.rejected == {NORM_ABOVE_BOUND: 1, DUPLICATE: 1, CANNOT_OPEN: 1}


def test_a_tier_has_at_least_one_process() -> None:
    """None at all is a mistake that is named."""
    with pytest.raises(ValueError, match="at least 1"):
        Workers(0)
