"""The benchmark's devices answer through the SDK, and its errors are those of the noise."""

import numpy as np
import pytest

from pocketfl.queries import QuerySet
from pocketfl_benchmarks.analytics.distributions import measure_distributions, read_distribution
from pocketfl_benchmarks.analytics.fleet import (
    Aircraft,
    answer_columns,
    shares_below,
)
from pocketfl_benchmarks.analytics.methods import ENCODINGS, tree
from pocketfl_benchmarks.analytics.release import ask, noise_multiplier
from pocketfl_benchmarks.analytics.scores import ScoredDevices, measure_metrics, resample
from pocketfl_benchmarks.flights.statistics import FEATURE_QUERIES
from pocketfl_server.analytics.shares import share_evenly
from pocketfl_server.trusted.accounting import UNSAMPLED_ORDERS
from pocketfl_server.trusted.curves import release_event


def aircraft(count, seed=0):
    """Return made-up aircraft, some of which do not know when they were built."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        flights = int(rng.integers(1, 40))
        built = [None if rng.random() < 0.2 else int(rng.integers(1970, 2013))] * flights
        made.append(
            Aircraft(
                {
                    "hour": rng.integers(5, 24, flights).tolist(),
                    "minute": rng.integers(0, 60, flights).tolist(),
                    "distance": rng.integers(80, 4983, flights).astype(float).tolist(),
                    "built": built,
                    "seats": [int(rng.integers(2, 450))] * flights,
                    "engines": [int(rng.integers(1, 5))] * flights,
                    "arrival_delay": rng.normal(10, 40, flights).tolist(),
                }
            )
        )
    return made


def test_without_noise_a_release_is_the_exact_share_at_every_edge():
    """Only bounds of answers keep an estimate from the exact device-weighted shares; here none bites.

    Rounding to the grid moves each of 60 answers by half a unit of 1/30,000 at most.
    """
    devices = aircraft(60)
    for query in FEATURE_QUERIES:
        if query.bound is not None:
            continue
        queries = QuerySet(queries=(query,))
        released = ask(queries, answer_columns(devices, queries)).release(
            np.ones(60, dtype=np.int64), noise_multiplier=0
        )
        found = read_distribution(query, released[query.name], noise=1e-9)
        exact = np.nanmean(shares_below(devices, query), axis=0)
        np.testing.assert_allclose(found.below[1:], exact, atol=2e-3)


def test_errors_shrink_with_the_noise():
    """With a thousandth of the noise, what is left is the bias of bounds."""
    devices = aircraft(300)
    loud = measure_distributions(devices, seeds=3, noise_multiplier=4.0)
    quiet = measure_distributions(devices, seeds=3, noise_multiplier=0.004)
    assert quiet.alone["built"] < 1e-3 < loud.alone["built"]
    assert quiet.class_share["late_30"] < 1e-3


def test_shares_fill_the_norm_and_follow_the_noise():
    """Squares sum to 1, and a feature with more bins gets more."""
    shared = {query.name: query.share for query in share_evenly(FEATURE_QUERIES)}
    assert sum(share**2 for share in shared.values()) == pytest.approx(1)
    assert shared["engines"] < shared["hour"] < shared["built"]


def test_the_noise_spends_epsilon_one_and_hardly_less():
    """The trusted tier's own accounting prices the calibrated noise at epsilon 1."""
    from dp_accounting import NeighboringRelation, rdp

    def epsilon(noise):
        accountant = rdp.RdpAccountant(UNSAMPLED_ORDERS, NeighboringRelation.REPLACE_SPECIAL)
        accountant.compose(release_event(1.0, noise))
        return accountant.get_epsilon(1e-5)

    noise = noise_multiplier(epsilon=1.0, delta=1e-5)
    assert epsilon(noise) <= 1.0 < epsilon(noise - 0.01)


def test_metrics_of_resampled_devices_are_compared_with_their_own_truth():
    """Resampled devices are weighed the same in the exact and in the private figures."""
    rng = np.random.default_rng(1)
    logits = [rng.normal(-1, 1.5, 30).astype(np.float32) for _ in range(200)]
    targets = [(rng.random(30) < 1 / (1 + np.exp(-z))).astype(np.float32) for z in logits]
    devices = ScoredDevices(logits, targets)
    weights = resample(200, 5_000, seed=3)
    assert weights.sum() == 5_000
    found = measure_metrics(devices, weights, seeds=2, noise_multiplier=1e-3)
    assert found.error["roc_auc"] < 0.003
    assert found.error["positive_share"] < 0.003


def test_every_encoding_can_be_decoded():
    """Running sums of any histogram come back exactly without noise."""
    histogram = np.random.default_rng(2).random(16)
    for make in ENCODINGS.values():
        encoding = make(16)
        np.testing.assert_allclose(np.linalg.pinv(encoding) @ (encoding @ histogram), histogram)
    assert len(tree(16, branching=4)) == 20
