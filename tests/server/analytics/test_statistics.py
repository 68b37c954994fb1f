"""From a release to a bundle and to metrics, through the device's own evaluation."""

import numpy as np
import pytest

from pocketfl.features.transforms import Scale, Standardise
from pocketfl.queries import Histogram, Moments, Quantiles, QuerySet, ScoreHistogram
from pocketfl.queries.evaluation import evaluate_queries
from pocketfl.queries.reading import QueryColumns
from pocketfl_server.analytics.records import QueryResult, TaskResult
from pocketfl_server.analytics.statistics import (
    learn_bundle,
    read_metrics,
    read_shares,
)

QUERIES = QuerySet(
    queries=(
        Quantiles(name="age", share=0.5, field="age", low=0, high=128, branching=4, levels=3),
        Moments(name="pace", share=0.5, field="pace", low=0, high=20),
        Histogram(name="label", share=0.5, field="age", boundaries=(50.0,)),
    )
)


def result_of(queries, vectors, *, noise=0.0):
    total = np.sum(vectors, axis=0)
    values = queries.split(total + noise * np.random.default_rng(0).standard_normal(len(total)))
    return TaskResult(
        task="t",
        round=1,
        kind="analytics",
        plan_sha256="ab" * 32,
        reports=len(vectors),
        expected_cohort=len(vectors),
        privacy="gaussian",
        noise_multiplier=noise,
        epsilon=1.0,
        epsilon_against_back_end=1.0,
        delta=1e-5,
        created_at=0.0,
        queries=tuple(
            QueryResult(
                name=q.name,
                kind=q.kind,
                values=tuple(values[q.name].tolist()),
                noise_std=noise * q.scale,
            )
            for q in queries.queries
        ),
    )


def answers(count):
    """Return answers of devices that hold one age and one pace each."""
    rng = np.random.default_rng(1)
    ages, paces = rng.integers(18, 80, count).astype(float), rng.normal(10, 2, count).clip(0, 20)
    made = []
    for age, pace in zip(ages, paces, strict=True):
        reading = type("Reading", (), {"numbers": np.array([[age], [pace]]), "columns": {}})()
        columns = QueryColumns(
            rows=1,
            readings={"device": reading},
            places={("device", "age"): 0, ("device", "pace"): 1},
            target=None,
            outputs={},
        )
        made.append(evaluate_queries(QUERIES, columns, seed=0))
    return ages, paces, made


def test_a_release_becomes_a_bundle_that_says_where_it_comes_from():
    """Ranges are the data's own quantiles and moments, to within bins and noise; classes too."""
    ages, paces, vectors = answers(4000)
    result = result_of(QUERIES, vectors, noise=1.0)
    bundle = learn_bundle(result, QUERIES, name="people", version="3")
    scale, standardise = bundle.transforms
    assert isinstance(scale, Scale)
    assert scale.low == pytest.approx(np.quantile(ages, 0.01), abs=2.5)
    assert scale.high == pytest.approx(np.quantile(ages, 0.99), abs=2.5)
    assert isinstance(standardise, Standardise)
    assert standardise.mean == pytest.approx(paces.mean(), abs=0.1)
    assert standardise.deviation == pytest.approx(paces.std(), abs=0.2)
    assert bundle.evidence[0].reports == 4000
    shares = read_shares(result.find("label"))
    assert shares[1].low <= float(np.mean(ages >= 50)) <= shares[1].high
    with pytest.raises(ValueError, match="says nothing of a range"):
        learn_bundle(result, QUERIES, name="people", version="3", fields=["label"])


def test_metrics_are_read_with_the_log_loss_that_the_devices_summed():
    """Two classes of scores, without noise: what the device counted comes back."""
    query = ScoreHistogram(name="s", output="p", bins=64, log_loss_limit=5.0)
    queries = QuerySet(queries=(query,))
    rng = np.random.default_rng(2)
    vectors, losses = [], []
    for _ in range(300):
        score = rng.uniform(0.02, 0.98, 20)
        target = (rng.random(20) < score).astype(np.float32)
        columns = QueryColumns(rows=20, readings={}, places={}, target=target, outputs={"p": score})
        vectors.append(evaluate_queries(queries, columns, seed=0))
        losses.append(-np.log(np.where(target > 0, score, 1 - score)).mean())
    found = read_metrics(query, result_of(queries, vectors).queries[0])
    assert found.weight.value == pytest.approx(300)
    assert found.log_loss.value == pytest.approx(np.mean(losses), abs=1e-6)
    with pytest.raises(ValueError, match="two classes"):
        read_metrics(
            ScoreHistogram(name="s", output="p", bins=64, low=-1),
            result_of(queries, vectors).queries[0],
        )
