"""All figures of ``pocketfl bench analytics``."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any, Final

import numpy as np

from pocketfl_benchmarks.analytics.distributions import DEVICES, measure_distributions
from pocketfl_benchmarks.analytics.fleet import read_aircraft
from pocketfl_benchmarks.analytics.methods import compare_encodings
from pocketfl_benchmarks.analytics.release import DELTA, EPSILON, noise_multiplier
from pocketfl_benchmarks.analytics.scores import (
    BOUND,
    MANY_DEVICES,
    ScoredDevices,
    ask_scores,
    compare_bounds,
    measure_metrics,
    read_metrics,
    resample,
    score_held_out,
)
from pocketfl_benchmarks.flights.data import FlightTable, is_held_out
from pocketfl_server.analytics.estimators import ScoreMetrics

EPOCHS: Final = 3
"""Passes of training for the model that is judged: it only has to score sensibly."""


def measure(table: FlightTable, *, seeds: int) -> dict[str, Any]:
    """Measure everything.

    Quantiles and classes: 2,700 of the training aircraft, drawn anew for each seed. Metrics: all
    held-out aircraft, and 10,000 drawn from them with replacement.
    """
    sigma = noise_multiplier()
    aircraft = read_aircraft(table, [name for name in table.aircraft if not is_held_out(name)])
    shares = measure_distributions(aircraft, seeds=seeds, noise_multiplier=sigma)
    encodings = compare_encodings(
        [np.array(device.columns["distance"], dtype=np.float64) for device in aircraft],
        low=0,
        high=5120,
        seeds=seeds,
        noise_multiplier=sigma,
    )
    scored = score_held_out(table, epochs=EPOCHS, seed=0)
    everyone = np.ones(len(scored.targets), dtype=np.int64)
    many = resample(len(everyone), MANY_DEVICES, seed=0)
    metrics = [
        measure_metrics(scored, weights, seeds=seeds, noise_multiplier=sigma)
        for weights in (everyone, many)
    ]
    bounds = compare_bounds(scored, [everyone, many], seeds=seeds, noise_multiplier=sigma)
    released = read_metrics(ask_scores(scored, bound=BOUND), everyone, noise_multiplier=sigma)
    return {
        "quantile_cdf_error_one": max(shares.alone.values()),
        "quantile_cdf_error_all": shares.worst_together,
        "auc_error": metrics[0].error["roc_auc"],
        "auc_error_10k": metrics[1].error["roc_auc"],
        "class_count_error": max(shares.class_share.values()),
        "epsilon": EPSILON,
        "delta": DELTA,
        "devices": min(DEVICES, len(aircraft)),
        "seeds": seeds,
        "details": {
            "noise_multiplier": sigma,
            "quantile_cdf_error_alone": shares.alone,
            "quantile_cdf_error_together": shares.together,
            "class_share_error": shares.class_share,
            "encodings": encodings,
            "metrics": [asdict(entry) for entry in metrics],
            "bound": BOUND,
            "bounds": [_without_nan(asdict(entry)) for entry in bounds],
            "calibration": _calibration(scored, released),
        },
    }


def _calibration(scored: ScoredDevices, released: ScoreMetrics) -> dict[str, Any]:
    """Return one release's calibration curve beside the exact one; a bin that noise hid is left out."""
    score = 1 / (1 + np.exp(-np.concatenate(scored.logits).astype(np.float64)))
    target = np.concatenate(scored.targets)
    points = []
    for point in released.calibration:
        if not point.observed.is_known:
            continue
        inside = (score >= point.low) & (score < point.high)
        points.append(
            {
                "mean_score": point.mean_score,
                "observed": point.observed.value,
                "low": point.observed.low,
                "high": point.observed.high,
                "exact": float(target[inside].mean()) if inside.any() else None,
            }
        )
    return {"devices": len(scored.targets), "points": points}


def _without_nan(record: dict[str, Any]) -> dict[str, Any]:
    """Return the record with None where noise hid what was asked: JSON has no NaN."""
    return {
        name: None if isinstance(value, float) and math.isnan(value) else value
        for name, value in record.items()
    }
