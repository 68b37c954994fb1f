"""A device's answer: right where it can be counted by hand, and bounded whatever is stored."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketfl.clipping import clip_to_grid, is_within_bound
from pocketfl.features.pipeline import FeaturePipeline, Selection
from pocketfl.features.transforms import FeatureSpec, FieldSpec, ServerTable
from pocketfl.plan import AggregationSpec
from pocketfl.queries import (
    Count,
    Filter,
    Funnel,
    FunnelEvent,
    Histogram,
    Moments,
    Quantiles,
    Query,
    QuerySet,
    ScoreHistogram,
    Sum,
)
from pocketfl.queries.evaluation import evaluate_queries
from pocketfl.queries.reading import QueryReader
from pocketfl.store import Examples

FEATURES = FeatureSpec(
    collection="flights",
    fields=(
        FieldSpec(name="delay", type="float", optional=True),
        FieldSpec(name="carrier", type="str", optional=True),
        FieldSpec(name="airport", type="int"),
    ),
    server_table=ServerTable(
        name="airports",
        key_field="airport",
        fields=(FieldSpec(name="runways", type="int", optional=True),),
        required=False,
    ),
)
AGGREGATION = AggregationSpec(
    clip_norm=1.0, population=10, cohort_floor=10, max_rounds=1, max_participations=1
)
EVENTS = tuple(FunnelEvent(phase=phase) for phase in ("check_in", "trained", "uploaded"))


def make_examples(**columns: list[object]) -> Examples:
    rows = len(next(iter(columns.values())))
    columns = {"airport": list(range(rows)), **columns}
    missing = {name: [None] * rows for name in ("delay", "carrier") if name not in columns}
    return Examples(np.arange(rows, dtype=np.int64), np.full(rows, 10.0), {**columns, **missing})


def answer(query: Query, examples: Examples, *, seed: int = 1) -> list[float]:
    """What one device says to one query, in natural units."""
    queries = QuerySet(queries=(query,))
    queries.check(FEATURES, outputs=None)
    selection = FeaturePipeline(FEATURES).select(
        examples, {str(n): [(0.0, {"runways": n + 1})] for n in range(3)}
    )
    columns = QueryReader(FEATURES, queries).read(examples, selection)
    return queries.split(evaluate_queries(queries, columns, seed=seed))[query.name].tolist()


DELAYS = make_examples(delay=[5.0, 15.0, 15.5, None, 200.0], carrier=["AA", "BB", "AA", "AA", None])


def test_a_device_weighs_one_or_counts_a_bounded_number_of_examples() -> None:
    """The two units differ in weight only; no device adds more than the bound of its unit."""
    assert answer(Count(name="q"), DELAYS) == pytest.approx([1.0])
    assert answer(Count(name="q", unit="example", max_examples=100), DELAYS) == [5.0]
    assert answer(Count(name="q", unit="example", max_examples=3), DELAYS) == [3.0]
    assert answer(Sum(name="q", field="delay", low=0, high=100), DELAYS) == pytest.approx(
        [(5 + 15 + 15.5 + 100) / 4]
    )


def test_histograms_count_as_the_label_counts() -> None:
    """A value on a boundary lies where ``closed`` says; missing and unknown ones go to ``other``."""
    by_class = Histogram(
        name="q", field="delay", boundaries=(15.0,), closed="right", unit="example", max_examples=9
    )
    assert answer(by_class, DELAYS) == [2.0, 2.0]
    closed_left = Histogram(
        name="q", field="delay", boundaries=(15.0,), other=True, unit="example", max_examples=9
    )
    assert answer(closed_left, DELAYS) == [1.0, 3.0, 1.0]
    carriers = Histogram(name="q", field="carrier", categories=("BB", "AA"), other=True)
    assert answer(carriers, DELAYS) == pytest.approx([0.2, 0.6, 0.2])
    early = (Filter(field="delay", high=4),)
    none_left = Histogram(name="q", field="carrier", categories=("BB",), where=early)
    assert answer(none_left, DELAYS) == [0.0]


def test_server_features_are_joined_before_anything_is_asked() -> None:
    """A query reads the user's server-side half as it reads the device's own."""
    by_runways = Histogram(
        name="q",
        field="runways",
        source="server",
        categories=(1, 2, 3),
        other=True,
        unit="example",
        max_examples=9,
    )
    assert answer(by_runways, DELAYS) == [1.0, 1.0, 1.0, 2.0]
    few = Count(
        name="q",
        unit="example",
        max_examples=9,
        where=(Filter(field="runways", source="server", low=2),),
    )
    assert answer(few, DELAYS) == [2.0]


def test_moments_and_quantiles_are_those_of_numpy() -> None:
    """What is read from the sums is what NumPy computes from the examples themselves."""
    generator = np.random.default_rng(3)
    delays = generator.uniform(-10, 30, 500)
    examples = make_examples(delay=delays.tolist())
    one, first, second = answer(Moments(name="q", field="delay", low=-20, high=40), examples)
    assert one == pytest.approx(1.0)
    assert 10 + 30 * first == pytest.approx(delays.mean())
    assert 900 * (second - first**2) == pytest.approx(delays.var())
    tree = Quantiles(name="q", field="delay", low=-10, high=30, branching=4, levels=3)
    counts = np.array(answer(tree, examples))
    finest, _ = np.histogram(delays, bins=64, range=(-10, 30))
    assert counts[-64:] == pytest.approx(finest / 500)
    assert counts[:4] == pytest.approx(finest.reshape(4, 16).sum(axis=1) / 500)


def test_scores_are_counted_by_class_and_bin() -> None:
    """Each labelled example is one count at its class and score; without a usable score none."""
    query = ScoreHistogram(
        name="q", output="logit", activation="sigmoid", bins=2, unit="example", max_examples=9
    )
    queries = QuerySet(queries=(query,))
    examples = make_examples(delay=[0.0] * 6)
    selection = Selection(
        rows=list(range(6)), target=np.array([0, 1, 1, 1, 2, 0], np.int64), server=None
    )
    outputs = {"logit": np.array([-9, -9, 9, 1e30, 9, np.nan], np.float32).reshape(6, 1)}
    columns = QueryReader(FEATURES, queries).read(examples, selection, outputs=outputs)
    found = queries.split(evaluate_queries(queries, columns, seed=1))["q"]
    assert found.tolist() == [1.0, 0.0, 1.0, 2.0]


def test_a_log_loss_is_the_mean_of_the_clamped_ones_and_a_bound_keeps_proportions() -> None:
    """The last coordinate is what a log loss is read from; a bound scales the whole answer."""
    query = ScoreHistogram(name="q", output="p", bins=2, log_loss_limit=2.0)
    queries = QuerySet(queries=(query,))
    examples = make_examples(delay=[0.0] * 3)
    selection = Selection(rows=[0, 1, 2], target=np.array([1, 0, 1], np.float32), server=None)
    outputs = {"p": np.array([0.8, 0.3, 0.0], np.float32)}
    columns = QueryReader(FEATURES, queries).read(examples, selection, outputs=outputs)
    found = queries.split(evaluate_queries(queries, columns, seed=1))["q"]
    losses = [-math.log(0.8), -math.log(0.7), 2.0]
    assert found[-1] * 2.0 == pytest.approx(sum(losses) / 3, rel=1e-5)
    counts = Histogram(
        name="q", field="delay", boundaries=(1.0,), unit="example", max_examples=99, bound=3.0
    )
    many = make_examples(delay=[0.0] * 40 + [2.0] * 30)
    assert answer(counts, many) == pytest.approx([3.0 * 0.8, 3.0 * 0.6])


def test_a_log_is_bounded_per_event_and_in_all() -> None:
    """A device that fails a thousand times a day says no more than the query's bounds allow."""
    query = Funnel(name="log", events=EVENTS, max_events=3, max_per_event=2)
    queries = QuerySet(queries=(query,))
    said = queries.split(
        evaluate_queries(queries, None, seed=4, events=dict.fromkeys(EVENTS, 1000))
    )["log"]
    assert said.sum() == pytest.approx(3)
    assert said.max() <= 2 + 1e-9
    assert evaluate_queries(queries, None, seed=4).tolist() == [0.0] * 3


SHARES = st.floats(0.01, 1.0)
UNITS = st.one_of(
    st.just({"unit": "device"}),
    st.integers(1, 20).map(lambda most: {"unit": "example", "max_examples": most}),
)
BOUNDS = st.tuples(st.floats(-1e200, 1e200), st.floats(-1e200, 1e200)).filter(
    lambda pair: pair[0] < pair[1]
)
CARRIERS = ("AA", "BB", "CC")


@st.composite
def any_query(draw: st.DrawFn, number: int) -> Query:
    name, share, unit = f"q{number}", draw(SHARES), draw(UNITS)
    low, high = draw(BOUNDS)
    ranged = {"field": "delay", "low": low, "high": high}
    where = draw(st.sampled_from([(), (Filter(field="carrier", values=("AA",)),)]))
    bound = draw(st.none() | st.floats(1e-6, 100.0))
    common = {"name": name, "share": share, "where": where, "bound": bound, **unit}
    match draw(st.integers(0, 6)):
        case 0:
            return Count(**common)
        case 1:
            return Sum(**common, **ranged)
        case 2:
            return Moments(**common, **ranged, order=draw(st.integers(1, 4)))
        case 3:
            return Histogram(
                **common, field="carrier", categories=CARRIERS, other=draw(st.booleans())
            )
        case 4:
            return Quantiles(**common, **ranged, branching=draw(st.integers(2, 5)))
        case 5:
            limit = draw(st.none() | st.floats(0.1, 9.0))
            return ScoreHistogram(
                **common, output="logit", activation="sigmoid", bins=3, log_loss_limit=limit
            )
        case _:
            events, each = draw(st.integers(1, 9)), draw(st.integers(1, 9))
            return Funnel(
                name=name,
                share=share,
                events=EVENTS,
                max_events=max(events, each),
                max_per_event=each,
            )  # fmt: skip


@settings(max_examples=120, deadline=None)
@given(data=st.data())
def test_no_store_and_no_queries_make_an_answer_above_the_bound(data: st.DataObject) -> None:
    """Whatever is stored and asked, the answer has its length, a norm of 1, and survives the grid."""
    drawn = data.draw(st.integers(1, 4).flatmap(lambda n: st.tuples(*map(any_query, range(n)))))
    norm = math.sqrt(sum(query.share**2 for query in drawn))
    queries = QuerySet(queries=tuple(replace(q, share=q.share / max(1.0, norm)) for q in drawn))
    rows = data.draw(st.integers(0, 12))
    examples = make_examples(
        delay=data.draw(
            st.lists(
                st.none() | st.floats(allow_nan=False, allow_infinity=False),
                min_size=rows,
                max_size=rows,
            )
        ),
        carrier=data.draw(
            st.lists(st.sampled_from([*CARRIERS, "DD", None]), min_size=rows, max_size=rows)
        ),
    )
    selection = Selection(
        rows=list(range(rows)),
        target=np.array(data.draw(st.lists(st.integers(-2, 3), min_size=rows, max_size=rows)), int),
        server=[None] * rows,
    )
    scores = data.draw(st.lists(st.floats(width=32), min_size=rows, max_size=rows))
    columns = QueryReader(FEATURES, queries).read(
        examples, selection, outputs={"logit": np.array(scores, np.float32)}
    )
    found = evaluate_queries(
        queries,
        columns,
        seed=data.draw(st.integers(0, 2**62)),
        events={event: data.draw(st.integers(0, 10**6)) for event in EVENTS},
    )
    assert found.shape == (queries.length,)
    assert float(np.linalg.norm(found)) <= 1 + 1e-9
    assert is_within_bound(clip_to_grid(found, AGGREGATION), AGGREGATION)
