"""What a few bits a coordinate save in bytes, and cost in time on the device and in accuracy."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any, Final

import numpy as np
import torch

from pocketfl.clipping import clip_to_grid
from pocketfl.encoding import EncodingSpec, Rotation
from pocketfl.plan import AggregationSpec
from pocketfl.reports import encode_vector
from pocketfl.sealing import generate_key_pair, seal
from pocketfl_benchmarks.flights.data import FlightTable
from pocketfl_benchmarks.flights.simulation import FleetFlights, simulate
from pocketfl_benchmarks.flights.task import Schedule

ROTATIONS: Final = 40
"""Made-up updates, each with a rotation of its own, by which what is kept and cut off is measured."""
_REPEATS: Final = 20


@dataclass(frozen=True, kw_only=True)
class ReportFigures:
    """One device's report of a full update, encoded.

    Attributes
    ----------
    parameters : int
        Of the model.
    report_bytes : int
        Of a sealed report, header and seal included.
    bytes_ratio_to_float32 : float
        ``report_bytes`` over four bytes a parameter.
    bits_per_coordinate : int
        Of the grid.
    padding : float
        Coordinates that the rotation adds, over the parameters.
    norm_kept : float
        Norm of the mean report of an update far above the clip norm, over that clip norm.
    share_cut_off : float
        Coordinates that did not fit their bits, over all.
    bias_of_cutting : float
        L2 norm of what was cut off, over that of the update; largest of all updates.
    milliseconds, milliseconds_plain : float
        Least processor time of clipping, rotating, rounding and packing, and without an encoding.
    """

    parameters: int
    report_bytes: int
    bytes_ratio_to_float32: float
    bits_per_coordinate: int
    padding: float
    norm_kept: float
    share_cut_off: float
    bias_of_cutting: float
    milliseconds: float
    milliseconds_plain: float


def measure_report(parameters: int, encoding: EncodingSpec) -> ReportFigures:
    """Make reports of updates that are dense, sparse and in one layer, and look at them."""
    plain = AggregationSpec(
        clip_norm=1.0, population=1, cohort_floor=1, max_rounds=1, max_participations=1
    )
    spec = plain.encoded(encoding, parameters=parameters)
    kept, cut, bias = [], 0, 0.0
    for number in range(ROTATIONS):
        generator = np.random.default_rng(number)
        update = generator.normal(size=parameters)
        if number % 3 == 1:
            update[generator.random(parameters) < 0.95] = 0.0
        elif number % 3 == 2:
            update[parameters // 20 :] = 0.0
        update *= 10 / np.linalg.norm(update)
        rotation = Rotation(parameters, number.to_bytes(32, "big"))
        values = clip_to_grid(update, spec, rotation=rotation)
        share = float(rotation.invert(values) @ update) * spec.grid_step / float(update @ update)
        kept.append(share * 10)
        # What the device rounded, before it was cut off.
        exact = rotation.apply(update) * share / spec.grid_step
        beyond = np.maximum(np.abs(exact) - encoding.limit, 0.0)
        cut += int(np.count_nonzero(beyond))
        bias = max(bias, float(np.linalg.norm(beyond) / np.linalg.norm(exact)))
    sealed = seal(
        generate_key_pair()[1], info=b"", plaintext=encode_vector(values, bits=encoding.bits)
    )
    return ReportFigures(
        parameters=parameters,
        report_bytes=len(sealed),
        bytes_ratio_to_float32=len(sealed) / (4 * parameters),
        bits_per_coordinate=encoding.bits,
        padding=rotation.padded / parameters - 1,
        norm_kept=mean(kept),
        share_cut_off=cut / (ROTATIONS * rotation.padded),
        bias_of_cutting=bias,
        milliseconds=_least_milliseconds(
            lambda: encode_vector(clip_to_grid(update, spec, rotation=rotation), bits=encoding.bits)
        ),
        milliseconds_plain=_least_milliseconds(lambda: encode_vector(clip_to_grid(update, plain))),
    )


def _least_milliseconds(work: Callable[[], object]) -> float:
    times = []
    for _ in range(_REPEATS):
        began = time.thread_time()
        work()
        times.append(time.thread_time() - began)
    return 1000 * min(times)


def measure_accuracy(
    table: FlightTable,
    *,
    encoding: EncodingSpec,
    seeds: int,
    rounds: int,
    cohort: int,
    progress: Callable[[], None] | None = None,
) -> dict[str, Any]:
    """Train the demo's model with and without an encoding, with and without noise.

    Parameters
    ----------
    table : FlightTable
        All flights.
    encoding : EncodingSpec
        Of reports.
    seeds : int
        Pairs of runs that differ in their encoding only.
    rounds, cohort : int
        Of each run; the noise follows from them, for the demo's epsilon.
    progress : callable, optional
        Called after each round of each run.

    Returns
    -------
    dict
        Mean AUCs, and the mean loss with the standard error of it over the seeds, in points (1/100).
    """
    torch.set_num_threads(1)
    flights = FleetFlights.of(table)
    schedule = Schedule(rounds=rounds, cohort=cohort, population=len(flights.spans))
    multiplier = schedule.privacy().noise_multiplier
    figures: dict[str, Any] = {"seeds": seeds, "rounds": rounds, "noise_multiplier": multiplier}
    for suffix, noise in (("", multiplier), ("_without_noise", 0.0)):
        aucs: dict[bool, list[float]] = {False: [], True: []}
        for seed in range(seeds):
            for encoded in (False, True):
                model = simulate(
                    flights,
                    schedule,
                    seed=seed,
                    noise_multiplier=noise,
                    encoding=encoding if encoded else None,
                    progress=progress,
                )
                aucs[encoded].append(flights.auc(model))
        losses = [100 * (a - b) for a, b in zip(aucs[False], aucs[True], strict=True)]
        figures[f"auc_plain{suffix}"] = mean(aucs[False])
        figures[f"auc_encoded{suffix}"] = mean(aucs[True])
        figures[f"auc_loss_points{suffix}"] = mean(losses)
        figures[f"auc_loss_standard_error{suffix}"] = (
            stdev(losses) / seeds**0.5 if seeds > 1 else None
        )
    return figures
