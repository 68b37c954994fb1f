"""From noised sums to statistics with 95 % intervals; one module for each statistic, numpy alone.

Every estimator takes a released sum in the query's natural units and the standard deviation of its
noise in the same units. An interval covers what the noise does; what the choice of the per-device bound
or the number of bins does to a value is no noise and is not in it, nor is the chance by which the
fleet's devices are the ones they are.
"""

from pocketfl_server.analytics.estimators.counts import estimate_counts, estimate_shares
from pocketfl_server.analytics.estimators.intervals import Estimate
from pocketfl_server.analytics.estimators.metrics import ScoreMetrics, estimate_metrics
from pocketfl_server.analytics.estimators.moments import MomentEstimates, estimate_moments
from pocketfl_server.analytics.estimators.quantiles import Distribution, estimate_distribution

__all__ = [
    "Distribution",
    "Estimate",
    "MomentEstimates",
    "ScoreMetrics",
    "estimate_counts",
    "estimate_distribution",
    "estimate_metrics",
    "estimate_moments",
    "estimate_shares",
]
