"""Questions to a fleet as data: each device answers with a bounded vector, and only sums get out."""

from pocketfl.queries.query_set import QuerySet, label_histogram
from pocketfl.queries.spec import (
    Count,
    ExampleQuery,
    Filter,
    Funnel,
    FunnelEvent,
    Histogram,
    Moments,
    Quantiles,
    Query,
    ScoreHistogram,
    Sum,
    Unit,
)

__all__ = [
    "Count",
    "ExampleQuery",
    "Filter",
    "Funnel",
    "FunnelEvent",
    "Histogram",
    "Moments",
    "Quantiles",
    "Query",
    "QuerySet",
    "ScoreHistogram",
    "Sum",
    "Unit",
    "label_histogram",
]
