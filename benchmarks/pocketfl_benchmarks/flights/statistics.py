"""What the demo asks its fleet before it trains: ranges of features and shares of classes.

One release of all training aircraft, in the same budget as the rounds that follow. Ranges of the
questions are public knowledge; what is learned within them is not, and comes out with noise alone.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pocketfl.balancing import Balancing, balance_classes
from pocketfl.features.bundle import TransformBundle
from pocketfl.features.transforms import FeatureSpec, FieldSpec
from pocketfl.plan import Plan
from pocketfl.plan.aggregation import AggregationSpec, BudgetSpec, DifferentialPrivacySpec
from pocketfl.queries import Quantiles, QuerySet, label_histogram
from pocketfl.queries.plans import write_analytics_plan
from pocketfl_benchmarks.flights.stores import COLLECTION
from pocketfl_server.analytics.records import TaskResult
from pocketfl_server.analytics.shares import share_evenly
from pocketfl_server.analytics.statistics import learn_bundle, read_shares

FEATURE_QUERIES: Final = (
    # Whole numbers with a bin each, where their public range allows it. What differs from flight to
    # flight spreads over the bins, so that few aircraft come near the largest possible norm: these
    # three have a bound below it, and pass on the norm that they leave to the features of the airframe.
    Quantiles(name="hour", field="hour", low=4, high=24, branching=20, levels=1, bound=0.7),
    Quantiles(name="minute", field="minute", low=0, high=64, branching=4, levels=3, bound=1.4),
    Quantiles(
        name="distance", field="distance", low=0, high=5120, branching=4, levels=3, bound=1.5
    ),
    Quantiles(name="built", field="built", low=1956, high=2020, branching=4, levels=3),
    Quantiles(name="seats", field="seats", low=0, high=512, branching=4, levels=3),
    Quantiles(name="engines", field="engines", low=1, high=5, branching=4, levels=1),
)
"""The six numeric features that only the aircraft knows; ranges are public knowledge."""

LABEL_SHARE: Final = 0.25
"""Part of the norm for the count of classes: a share is far easier to learn than a distribution."""
NOISE_MULTIPLIER: Final = 6.0
"""Alone this release spends epsilon 0.65 at delta 1e-5."""
BALANCING_STRENGTH: Final = 0.5
"""Half the way to equally frequent classes; ``docs/balancing.md`` compares."""


@dataclass(frozen=True, kw_only=True)
class Learned:
    """What a release taught the modeller.

    Attributes
    ----------
    bundle : TransformBundle or None
        Ranges of features; None if noise hid all of them.
    balancing : Balancing or None
        The label's policy; None if noise hid the classes.
    hidden : tuple of str
        What noise hid: a small fleet cannot be asked everything. Its public ranges stay.
    """

    bundle: TransformBundle | None
    balancing: Balancing | None
    hidden: tuple[str, ...] = ()

    def apply(self, features: FeatureSpec) -> FeatureSpec:
        """Return features with what was learned."""
        if self.bundle is not None:
            features = self.bundle.apply(features)
        if self.balancing is None or features.label is None:
            return features
        label = dataclasses.replace(features.label, balancing=self.balancing)
        return dataclasses.replace(features, label=label)

    @property
    def starting_logit(self) -> float | None:
        """Where the output should start: at the late class's share of what training sees."""
        if self.balancing is None:
            return None
        (common, rare), (kept, boosted) = self.balancing.class_shares, self.balancing.factors
        return math.log(rare / common) + math.log(boosted / kept)


def statistics_queries(features: FeatureSpec) -> QuerySet:
    """Return all questions, with the label's classes counted beside the features."""
    if features.label is None:
        raise ValueError("the features have no label to count")
    rest = math.sqrt(1 - LABEL_SHARE**2)
    label = label_histogram(features.label, share=LABEL_SHARE)
    shared = (
        dataclasses.replace(query, share=query.share * rest)
        for query in share_evenly(FEATURE_QUERIES)
    )
    # Every aircraft answers in the round's own turn: the demo's devices need no cover of time.
    return QuerySet(queries=(label, *shared), upload_delay_seconds=0.0)


def export_statistics(
    path: Path,
    *,
    features: FeatureSpec,
    population: int,
    budget: BudgetSpec,
    signing_key: Ed25519PrivateKey,
) -> Plan:
    """Write the plan that asks all training aircraft once."""
    queries = statistics_queries(features)
    used = {query.field for query in FEATURE_QUERIES} | {"arrival_delay"}
    return write_analytics_plan(
        path,
        name="flights-statistics",
        version="1",
        collection=COLLECTION.name,
        fields=tuple(
            FieldSpec(name=name, type=field.type, optional=field.optional)
            for name, field in COLLECTION.fields.items()
            if name in used
        ),
        queries=queries,
        aggregation=AggregationSpec(
            clip_norm=1.0,
            population=population,
            cohort_floor=population,
            max_rounds=1,
            max_participations=1,
        ),
        dp=DifferentialPrivacySpec(
            noise_multiplier=NOISE_MULTIPLIER, epsilon=budget.epsilon, delta=budget.delta
        ),
        budget=budget,
        signing_key=signing_key,
    )


def learn(result: TaskResult, *, features: FeatureSpec) -> Learned:
    """Read a release: transforms of what stands out of the noise, and the policy of the label."""
    queries = statistics_queries(features)
    hidden = [query.name for query in FEATURE_QUERIES if _is_hidden(result, queries, [query.name])]
    seen = [query.name for query in FEATURE_QUERIES if query.name not in hidden]
    shares = read_shares(result.find("label"))
    balancing = None
    if all(share.is_known for share in shares):
        balancing = balance_classes(
            [share.value for share in shares], method="weight", strength=BALANCING_STRENGTH
        )
    else:
        hidden.append("label")
    bundle = _bundle(result, queries, seen) if seen else None
    return Learned(bundle=bundle, balancing=balancing, hidden=tuple(hidden))


def _bundle(result: TaskResult, queries: QuerySet, names: Sequence[str]) -> TransformBundle:
    return learn_bundle(result, queries, name="flights", version="1", fields=names)


def _is_hidden(result: TaskResult, queries: QuerySet, names: Sequence[str]) -> bool:
    try:
        _bundle(result, queries, names)
    except ValueError:
        return True
    return False
