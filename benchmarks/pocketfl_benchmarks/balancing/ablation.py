"""The ablation: one rare label, with and without balancing, everything within one privacy budget.

Classes are counted first, by one release of all devices; their shares decide the policy and where the
model's output starts. What the count spends is taken from the budget of the rounds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, log_loss, roc_auc_score

from pocketfl.balancing import Balancing, balance_classes
from pocketfl.balancing.correction import correct_outputs
from pocketfl.features.transforms import LabelSpec
from pocketfl.queries import QuerySet, label_histogram
from pocketfl_benchmarks.analytics.fleet import Aircraft, answer_columns, read_aircraft
from pocketfl_benchmarks.analytics.release import ask
from pocketfl_benchmarks.balancing.simulation import (
    DeviceFlights,
    Network,
    Rounds,
    train_privately,
)
from pocketfl_benchmarks.flights.baselines import pool_flights
from pocketfl_benchmarks.flights.data import FlightTable, is_held_out
from pocketfl_benchmarks.flights.task import Schedule
from pocketfl_server.analytics.estimators import estimate_shares

LABELS: Final = (30.0, 60.0)
"""Minutes: later than these are 15.7 % and 8.5 % of all flights."""
COUNT_NOISE: Final = 10.0
"""Noise multiplier of the class count: epsilon 0.4 alone, and next to nothing beside the rounds."""
CALIBRATION_GROUPS: Final = 10


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One way to train.

    Attributes
    ----------
    name : str
        For tables.
    make : callable or None
        From class shares to the policy; None for no balancing.
    """

    name: str
    make: Callable[[Sequence[float]], Balancing] | None


ARMS: Final = (
    Arm(name="none", make=None),
    Arm(name="keep, half", make=lambda s: balance_classes(s, method="keep", strength=0.5)),
    Arm(name="keep, full", make=lambda s: balance_classes(s, method="keep")),
    Arm(name="weights, half", make=lambda s: balance_classes(s, method="weight", strength=0.5)),
    Arm(name="weights, full", make=lambda s: balance_classes(s, method="weight")),
)


@dataclass(frozen=True, kw_only=True)
class ArmResult:
    """Means over the seeds, on the held-out aircraft's flights.

    Attributes
    ----------
    label_minutes : float
        Which label.
    arm : str
        Which way to train.
    examples : float
        Share of the flights that the policy uses.
    auc, average_precision : float
        Of the ranking, which a correction leaves as it is.
    auc_deviation, average_precision_deviation : float
        Between seeds.
    normalised_entropy, calibration_error, mean_ratio : float
        Of the corrected scores: log loss over that of the base rate; mean distance of predicted from
        observed shares in ten groups of equal size; mean score over share of late flights.
    uncorrected_entropy, uncorrected_calibration_error, uncorrected_mean_ratio : float
        Without the prior correction.
    """

    label_minutes: float
    arm: str
    examples: float
    auc: float
    auc_deviation: float
    average_precision: float
    average_precision_deviation: float
    normalised_entropy: float
    calibration_error: float
    mean_ratio: float
    uncorrected_entropy: float
    uncorrected_calibration_error: float
    uncorrected_mean_ratio: float


def run_ablation(
    table: FlightTable,
    *,
    seeds: int,
    rounds: int,
    progress: Callable[[], None] = lambda: None,
) -> list[ArmResult]:
    """Train every arm for every label and seed, and judge it on the held-out aircraft."""
    training = [name for name in table.aircraft if not is_held_out(name)]
    held_out = [name for name in table.aircraft if is_held_out(name)]
    aircraft = read_aircraft(table, training)
    features, judged = (pool_flights(table, names).features for names in (training, held_out))
    schedule = Schedule(population=len(training), rounds=rounds)
    plan = Rounds(
        count=rounds,
        sampling_probability=schedule.sampling_probability,
        noise_multiplier=schedule.privacy(beside=COUNT_NOISE).noise_multiplier,
    )
    results = []
    for minutes in LABELS:
        devices = _devices(features, table, training, minutes)
        target = _late(table, held_out, minutes)
        shares = [count_classes(aircraft, minutes) for _ in range(seeds)]
        for arm in ARMS:
            rows = []
            for seed in range(seeds):
                balancing = None if arm.make is None else arm.make(shares[seed])
                parameters = train_privately(
                    devices,
                    rounds=plan,
                    balancing=balancing,
                    bias=_starting_bias(shares[seed], balancing),
                    seed=seed,
                )
                logits = Network(judged.shape[1]).logits(parameters, judged)
                corrected = correct_outputs({"output": logits}, balancing)["output"]
                kept = 1.0 if balancing is None else balancing.kept_share
                rows.append({"examples": kept, **judge_scores(logits, corrected, target)})
                progress()
            results.append(_mean(rows, minutes=minutes, arm=arm.name))
    return results


def count_classes(aircraft: Sequence[Aircraft], minutes: float) -> tuple[float, ...]:
    """Return the private shares of flights in time and late, from one release of all devices."""
    queries = QuerySet(queries=(label_histogram(LabelSpec(field="arrival_delay", above=minutes)),))
    answers = ask(queries, answer_columns(aircraft, queries))
    everyone = np.ones(len(aircraft), dtype=np.int64)
    released = answers.release(everyone, noise_multiplier=COUNT_NOISE)["label"]
    noise = answers.noise("label", noise_multiplier=COUNT_NOISE)
    return tuple(estimate.value for estimate in estimate_shares(released, noise=noise))


def _starting_bias(shares: Sequence[float], balancing: Balancing | None) -> float:
    """Return the logit of the late class among the examples that training sees."""
    bias = math.log(shares[1] / shares[0])
    if balancing is not None:
        bias += math.log(balancing.factors[1] / balancing.factors[0])
    return bias


def _devices(
    features: NDArray[np.float32], table: FlightTable, names: Sequence[str], minutes: float
) -> list[DeviceFlights]:
    spans = table.spans
    ends = np.cumsum([spans[name].stop - spans[name].start for name in names])[:-1]
    late = _late(table, names, minutes)
    return [
        DeviceFlights(mine, target)
        for mine, target in zip(np.split(features, ends), np.split(late, ends), strict=True)
    ]


def _late(table: FlightTable, names: Sequence[str], minutes: float) -> NDArray[np.float32]:
    spans = table.spans
    delays = table.rows["arrival_delay"].to_numpy()
    late = np.concatenate([delays[spans[name]] for name in names]) > minutes
    return late.astype(np.float32)


def judge_scores(
    logits: NDArray[np.float32], corrected: NDArray[np.float32], target: NDArray[np.float32]
) -> dict[str, float]:
    """Return the measures of :class:`ArmResult`, by its names, of raw and of corrected logits."""
    found = {
        "auc": float(roc_auc_score(target, corrected)),
        "average_precision": float(average_precision_score(target, corrected)),
    }
    share = float(target.mean())
    entropy = -share * math.log(share) - (1 - share) * math.log1p(-share)
    for prefix, values in (("", corrected), ("uncorrected_", logits)):
        score = 1 / (1 + np.exp(-values.astype(np.float64)))
        name = "normalised_entropy" if not prefix else "uncorrected_entropy"
        found[name] = float(log_loss(target, score)) / entropy
        found[f"{prefix}calibration_error"] = calibration_error(score, target)
        found[f"{prefix}mean_ratio"] = float(score.mean()) / share
    return found


def calibration_error(score: NDArray[np.float64], target: NDArray[np.float32]) -> float:
    """Return the mean distance of predicted from observed shares, in ten groups by rising score.

    The expected calibration error with groups of equal size (Nguyen and O'Connor 2015, EMNLP).
    """
    groups = np.array_split(np.argsort(score, kind="stable"), CALIBRATION_GROUPS)
    return float(
        sum(len(rows) * abs(score[rows].mean() - target[rows].mean()) for rows in groups)
        / len(score)
    )


def _mean(rows: Sequence[dict[str, float]], *, minutes: float, arm: str) -> ArmResult:
    means = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
    spread = {name: float(np.std([row[name] for row in rows])) for name in rows[0]}
    return ArmResult(
        label_minutes=minutes,
        arm=arm,
        auc_deviation=spread["auc"],
        average_precision_deviation=spread["average_precision"],
        **means,
    )
