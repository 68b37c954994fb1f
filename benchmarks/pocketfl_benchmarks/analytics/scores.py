"""Metrics of a classifier on held-out devices: their error, and the choice of the bound."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, log_loss, roc_auc_score

from pocketfl.queries import QuerySet, ScoreHistogram
from pocketfl.queries.reading import QueryColumns
from pocketfl_benchmarks.analytics.release import Answers, ask
from pocketfl_benchmarks.flights.baselines import PooledFlights, pool_flights, train_central
from pocketfl_benchmarks.flights.data import FlightTable, is_held_out
from pocketfl_server.analytics.estimators import ScoreMetrics, estimate_metrics

BINS: Final = 32
BOUND: Final = 2.0
MAX_EXAMPLES: Final = 500
LOG_LOSS_LIMIT: Final = 4.0
MANY_DEVICES: Final = 10_000
BOUNDS: Final = (0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 500.0)
"""Largest norms of one device's answer, in examples."""
METRICS: Final = ("roc_auc", "pr_auc", "log_loss", "normalised_entropy", "positive_share")


@dataclass(frozen=True)
class ScoredDevices:
    """Held-out aircraft with a model's scores of their flights.

    Attributes
    ----------
    logits, targets : list of ndarray of float32, shape (n,)
        One of each per device.
    """

    logits: list[NDArray[np.float32]]
    targets: list[NDArray[np.float32]]

    def columns(self) -> list[QueryColumns]:
        """Return what each device's queries look at."""
        return [
            QueryColumns(
                rows=len(target), readings={}, places={}, target=target, outputs={"output": logit}
            )
            for logit, target in zip(self.logits, self.targets, strict=True)
        ]

    def exact(self, weights: NDArray[np.int64]) -> dict[str, float]:
        """Return the metrics of all flights, where each device counts ``weights`` times."""
        target = np.concatenate(self.targets)
        score = 1 / (1 + np.exp(-np.concatenate(self.logits).astype(np.float64)))
        weight = np.repeat(weights, [len(target) for target in self.targets])
        share = float(np.average(target, weights=weight))
        loss = float(log_loss(target, score, sample_weight=weight))
        entropy = -share * np.log(share) - (1 - share) * np.log1p(-share)
        return {
            "roc_auc": float(roc_auc_score(target, score, sample_weight=weight)),
            "pr_auc": float(average_precision_score(target, score, sample_weight=weight)),
            "log_loss": loss,
            "normalised_entropy": float(loss / entropy),
            "positive_share": share,
        }


@dataclass(frozen=True, kw_only=True)
class BoundErrors:
    """What one bound does to the AUC of one number of devices.

    Attributes
    ----------
    bound : float
        Largest norm of one device's answer, in examples.
    devices : int
        How many answered.
    bias : float
        Estimate without noise, minus the exact AUC: what the bound and the bins do.
    error : float
        Median distance of the noised estimate from the exact AUC; NaN where noise hid it in one draw.
    """

    bound: float
    devices: int
    bias: float
    error: float


@dataclass(frozen=True, kw_only=True)
class MetricErrors:
    """Median distances from the exact metrics, and how often intervals cover.

    Attributes
    ----------
    devices : int
        How many answered.
    exact : dict of str to float
        By metric.
    error : dict of str to float
        Median over the seeds.
    covered : dict of str to float
        Share of the seeds whose 95 % interval holds the exact value, which bound and bins bias.
    covered_noiseless : dict of str to float
        Share whose interval holds what the same sum gives without noise.
    """

    devices: int
    exact: dict[str, float]
    error: dict[str, float]
    covered: dict[str, float]
    covered_noiseless: dict[str, float]


def score_held_out(table: FlightTable, *, epochs: int, seed: int) -> ScoredDevices:
    """Train a model on the training aircraft's pooled flights and score the held-out ones.

    What is measured here is the measuring; any model with sensible scores will do.
    """
    import torch

    torch.set_num_threads(1)
    names = table.aircraft
    training = [name for name in names if not is_held_out(name)]
    held_out = [name for name in names if is_held_out(name)]
    model = train_central(
        pool_flights(table, training), server_only=False, seed=seed, epochs=epochs
    )
    pooled: PooledFlights = pool_flights(table, held_out)
    logits = model.score(pooled.features)
    spans = table.spans
    ends = np.cumsum([spans[name].stop - spans[name].start for name in held_out])[:-1]
    return ScoredDevices(np.split(logits, ends), np.split(pooled.target, ends))


def ask_scores(devices: ScoredDevices, *, bound: float) -> Answers:
    """Let every device answer with the histogram of its scores."""
    query = ScoreHistogram(
        name="scores",
        unit="example",
        max_examples=MAX_EXAMPLES,
        bound=bound,
        output="output",
        activation="sigmoid",
        bins=BINS,
        log_loss_limit=LOG_LOSS_LIMIT,
    )
    return ask(QuerySet(queries=(query,)), devices.columns())


def read_metrics(
    answers: Answers, weights: NDArray[np.int64], *, noise_multiplier: float
) -> ScoreMetrics:
    """Release the devices' histograms and estimate the metrics from the sum."""
    values = answers.release(weights, noise_multiplier=noise_multiplier)["scores"]
    noise = answers.noise("scores", noise_multiplier=max(noise_multiplier, 1e-9))
    return estimate_metrics(
        values[:-1],
        noise=noise,
        loss_sum=float(values[-1]) * LOG_LOSS_LIMIT,
        loss_noise=noise * LOG_LOSS_LIMIT,
    )


def measure_metrics(
    devices: ScoredDevices, weights: NDArray[np.int64], *, seeds: int, noise_multiplier: float
) -> MetricErrors:
    """Measure all metrics with the bound that was chosen."""
    answers = ask_scores(devices, bound=BOUND)
    exact = devices.exact(weights)
    noiseless = read_metrics(answers, weights, noise_multiplier=0)
    found = [
        read_metrics(answers, weights, noise_multiplier=noise_multiplier) for _ in range(seeds)
    ]

    def share(name: str, truth: float) -> float:
        intervals = [getattr(metrics, name) for metrics in found]
        return float(np.mean([made.low <= truth <= made.high for made in intervals]))

    return MetricErrors(
        devices=int(weights.sum()),
        exact=exact,
        error={
            name: float(np.median([abs(getattr(m, name).value - exact[name]) for m in found]))
            for name in METRICS
        },
        covered={name: share(name, exact[name]) for name in METRICS},
        covered_noiseless={name: share(name, getattr(noiseless, name).value) for name in METRICS},
    )


def compare_bounds(
    devices: ScoredDevices,
    fleets: Sequence[NDArray[np.int64]],
    *,
    seeds: int,
    noise_multiplier: float,
) -> list[BoundErrors]:
    """Measure the AUC with every bound, for every number of devices."""
    rows = []
    exact = [devices.exact(weights)["roc_auc"] for weights in fleets]
    for bound in BOUNDS:
        answers = ask_scores(devices, bound=bound)
        for weights, truth in zip(fleets, exact, strict=True):
            clean = read_metrics(answers, weights, noise_multiplier=0).roc_auc.value
            errors = [
                abs(
                    read_metrics(answers, weights, noise_multiplier=noise_multiplier).roc_auc.value
                    - truth
                )
                for _ in range(seeds)
            ]
            rows.append(
                BoundErrors(
                    bound=bound,
                    devices=int(weights.sum()),
                    bias=clean - truth,
                    error=float(np.median(errors)),
                )
            )
    return rows


def resample(devices: int, count: int, *, seed: int) -> NDArray[np.int64]:
    """Draw devices with replacement; returns how often each was drawn."""
    drawn = np.random.default_rng(seed).integers(0, devices, count)
    return np.bincount(drawn, minlength=devices).astype(np.int64)
