"""Queries as data: they decode strictly, know their length and scale, and share one norm."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pocketfl.decoding import decode_json, encode_json
from pocketfl.errors import DecodeError
from pocketfl.features.transforms import FeatureSpec, FieldSpec, LabelSpec
from pocketfl.queries import (
    Count,
    Filter,
    Funnel,
    FunnelEvent,
    Histogram,
    Moments,
    Quantiles,
    QuerySet,
    ScoreHistogram,
    Sum,
    label_histogram,
)

SHARE = 1 / math.sqrt(7)
EVERY_KIND = QuerySet(
    queries=(
        Count(name="count", share=SHARE, where=(Filter(field="carrier", values=("AA",)),)),
        Sum(name="sum", share=SHARE, field="delay", low=-3, high=4, unit="example", max_examples=5),
        Moments(name="moments", share=SHARE, field="delay", low=0, high=10),
        Histogram(name="carriers", share=SHARE, field="carrier", categories=("AA", "BB")),
        Quantiles(name="quantiles", share=SHARE, field="delay", low=0, high=1, branching=3),
        ScoreHistogram(name="scores", share=SHARE, output="logit", bins=8),
        Funnel(
            name="log",
            share=SHARE,
            events=(FunnelEvent(phase="check_in"), FunnelEvent(phase="error", reason="memory")),
            max_events=4,
        ),
    )
)
FIELDS = FeatureSpec(
    collection="flights",
    fields=(
        FieldSpec(name="delay", type="float", optional=True),
        FieldSpec(name="carrier", type="str"),
    ),
    inputs=(),
    label=LabelSpec(field="delay", above=15.0),
)


def test_a_query_set_survives_the_way_through_a_manifest() -> None:
    """What is signed is what is asked: encoding and decoding change nothing, for every kind."""
    assert decode_json(QuerySet, encode_json(EVERY_KIND), what="q", limit=10_000) == EVERY_KIND
    EVERY_KIND.check(FIELDS, outputs={"logit": 1})


def test_slices_cover_the_vector_and_scales_are_those_of_the_queries() -> None:
    """Every coordinate belongs to one query, and natural units are share times norm."""
    slices = EVERY_KIND.slices
    covered = [place for part in slices.values() for place in range(part.start, part.stop)]
    assert covered == list(range(EVERY_KIND.length))
    split = EVERY_KIND.split(np.full(EVERY_KIND.length, SHARE))
    assert split["sum"].tolist() == pytest.approx([4 * 5])
    assert split["moments"].tolist() == pytest.approx([math.sqrt(3)] * 3)
    # Of two events at most one each: two counters of 1 have a norm of the root of 2.
    assert split["log"].tolist() == pytest.approx([math.sqrt(2)] * 2)
    assert len(split["quantiles"]) == 3 + 9


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('{"queries":[]}', "1 to 256 queries"),
        ('{"queries":[{"kind":"sql","name":"x"}]}', "expected one of count, funnel"),
        ('{"queries":[{"kind":"count","name":"x","code":"1"}]}', "unknown field 'code'"),
        ('{"queries":[{"kind":"count","name":"x","share":0.8},'
         '{"kind":"count","name":"y","share":0.8}]}', "0.707107 each"),
        ('{"queries":[{"kind":"count","name":"x","unit":"example"}]}', "max_examples"),
        ('{"queries":[{"kind":"quantiles","name":"x","field":"f","low":0,"high":1,'
         '"branching":1024,"levels":16}]}', "65536 at most"),
        ('{"queries":[{"kind":"sum","name":"x","field":"f","low":1,"high":1}]}', "low must be"),
        ('{"queries":[{"kind":"histogram","name":"x","field":"f"}]}', "categories or boundaries"),
    ],
)  # fmt: skip
def test_a_query_that_is_not_bounded_is_refused(text: str, complaint: str) -> None:
    """Nothing without a bound, an unknown kind, or more than the whole norm gets past decoding."""
    with pytest.raises(DecodeError, match=complaint):
        decode_json(QuerySet, text.encode(), what="queries", limit=10_000)


def test_queries_over_what_is_not_declared_are_refused() -> None:
    """Fields and outputs have to be declared, with a type that the query can use."""
    for query, complaint in (
        (Count(name="x", where=(Filter(field="nowhere", low=0),)), "not declared"),
        (Sum(name="x", field="carrier", low=0, high=1), "needs a float, int or bool"),
        (Histogram(name="x", field="carrier", categories=(1, 2)), "own type"),
        (ScoreHistogram(name="x", output="logit"), "kind 'evaluation'"),
    ):
        with pytest.raises(ValueError, match=complaint):
            QuerySet(queries=(query,)).check(FIELDS, outputs=None)


def test_a_label_becomes_the_histogram_of_its_classes() -> None:
    """The two ways of making a class of a field are both counted as the label counts them."""
    assert label_histogram(FIELDS.label).closed == "right"
    assert label_histogram(FIELDS.label).length == 2
    assert label_histogram(LabelSpec(field="carrier", vocabulary=("A", "B"))).length == 2
    with pytest.raises(ValueError, match="no classes"):
        label_histogram(LabelSpec(field="delay"))
