"""The ways to predict that a plan carries: made, measured, and put in order.

A device chooses by this table (:class:`pocketfl.plan.InferenceSpec`): the first line that holds its
current parameters and that its runtime loads. Only what agrees well enough with eager torch is in it.
"""

from __future__ import annotations

import gc
import importlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from pocketfl.errors import PocketFLError
from pocketfl.plan.inference import PRECISIONS, InferenceSpec, Precision
from pocketfl.runtimes import open_runtime
from pocketfl_export.backends import BackEnd
from pocketfl_export.batches import RandomBatch, random_batch
from pocketfl_export.errors import ExportError, Refusal, UnsupportedModelError
from pocketfl_export.gate import CandidatePlan
from pocketfl_export.problem import TrainingProblem
from pocketfl_export.reference import EagerReference

BATCHES: Final = 32
"""Batches that are drawn where no examples are given; every other one is for calibration."""
MINIMUM_AGREEMENT: Final = 0.95
_REPEATS: Final = 15

Quantize = Callable[..., bytes]


@dataclass(frozen=True, kw_only=True)
class Inference:
    """What one runtime can predict with.

    Attributes
    ----------
    ways : tuple of InferenceSpec
        The table, best first.
    parts : dict of str to bytes
        The parts that come on top of the plan's ``predict``, by name.
    refused : tuple of Refusal
        Ways that were asked for and that are not in the table, and why.
    """

    ways: tuple[InferenceSpec, ...]
    parts: dict[str, bytes] = field(default_factory=dict)
    refused: tuple[Refusal, ...] = ()


def check_precisions(names: Iterable[str]) -> tuple[Precision, ...]:
    """Return the precisions of these names, ``float32`` first.

    Raises
    ------
    ExportError
        If a name is unknown.
    """
    wanted = set(names) | {"float32"}
    for name in sorted(wanted - set(PRECISIONS)):
        raise ExportError(f"unknown precision {name!r}; known: {', '.join(PRECISIONS)}")
    return tuple(precision for precision in PRECISIONS if precision in wanted)


def make_inference(
    problem: TrainingProblem,
    back_end: BackEnd,
    parts: Mapping[str, bytes],
    precisions: Sequence[Precision],
    *,
    examples: Mapping[str, torch.Tensor] | None = None,
    seed: int = 0,
    minimum_agreement: float = MINIMUM_AGREEMENT,
) -> Inference:
    """Make and measure one runtime's ways to predict.

    Ranges come from half of the examples and the agreement from the other half, at the parameters that
    the model has now: export a trained model if 8 bits are to be used.

    Parameters
    ----------
    problem : TrainingProblem
        The model.
    back_end : BackEnd
        The runtime.
    parts : mapping of str to bytes
        Its parts that passed the gate.
    precisions : sequence of {"float32", "int8_static", "int8_dynamic"}
        From :func:`check_precisions`.
    examples : mapping of str to Tensor, optional
        Inputs by name, two batches of rows at least. Without them batches are drawn that are like the
        problem's example, with elements of several rows in one, which is harder than life.
    seed : int
        Of those batches.
    minimum_agreement : float
        Share of rows below which a way is left out.
    """
    batches = _batches(problem, examples, seed=seed)
    calibration, measured = batches[::2], batches[1::2]
    spec = back_end.spec()
    quantize: Quantize = importlib.import_module(f"{back_end.package}.quantization").quantize
    made: dict[str, bytes] = {}
    ways: list[InferenceSpec] = []
    refused: list[Refusal] = []
    for precision in precisions:
        name = _part_name(back_end, precision)
        try:
            if precision != "float32":
                made[name] = _quantize(
                    quantize, problem, precision, parts[spec.predict], calibration
                )
            way = _measure(problem, back_end, {**parts, **made}, precision, measured)
        except UnsupportedModelError as error:
            refused.extend(error.refusals)
            continue
        if way.agreement < minimum_agreement and precision != "float32":
            refused.append(
                Refusal(
                    operator=precision,
                    reason=f"it decides like float32 for {way.agreement:.1%} of rows only, not "
                    f"{minimum_agreement:.0%}",
                    rewrite="export a trained model with a realistic example batch, or stay with "
                    "float32",
                    runtime=back_end.name,
                )
            )
            continue
        ways.append(way)
    # Faster is better, and of two that take the same time within a tenth, the smaller.
    fastest = min(way.milliseconds for way in ways)
    ways.sort(key=lambda way: (way.milliseconds > 1.1 * fastest, way.size, way.milliseconds))
    kept = {way.part for way in ways}
    return Inference(
        ways=tuple(ways),
        parts={name: content for name, content in made.items() if name in kept},
        refused=tuple(refused),
    )


def _batches(
    problem: TrainingProblem, examples: Mapping[str, torch.Tensor] | None, *, seed: int
) -> list[RandomBatch]:
    rows = problem.batch_size
    if examples is None:
        generator = torch.Generator().manual_seed(seed)
        return [random_batch(problem, generator, rows=rows) for _ in range(BATCHES)]
    if set(examples) != set(problem.inputs):
        raise ExportError(
            f"the examples for predictions have the inputs {sorted(examples)}, the model "
            f"{sorted(problem.inputs)}"
        )
    count = min(len(value) for value in examples.values()) // rows
    if count < 2:
        raise ExportError(
            f"examples for predictions need at least {2 * rows} rows, two batches of this model"
        )
    return [
        RandomBatch(
            {name: examples[name][i * rows : (i + 1) * rows] for name in problem.inputs},
            problem.target,
            torch.ones(rows),
        )
        for i in range(count)
    ]


def _part_name(back_end: BackEnd, precision: Precision) -> str:
    return back_end.part_name("predict" if precision == "float32" else precision)


def _quantize(
    quantize: Quantize,
    problem: TrainingProblem,
    precision: Precision,
    predict: bytes,
    calibration: Sequence[RandomBatch],
) -> bytes:
    try:
        return quantize(problem, precision, predict=predict, calibration=calibration)
    except Exception as error:  # The quantisers share no base class of errors.
        lines = str(error).strip().splitlines()
        raise UnsupportedModelError(
            operator=precision,
            rewrite="leave this precision out for this runtime",
            reason=f"its quantiser fails: {lines[0] if lines else type(error).__name__}",
        ) from error


def _measure(
    problem: TrainingProblem,
    back_end: BackEnd,
    parts: Mapping[str, bytes],
    precision: Precision,
    batches: Sequence[RandomBatch],
) -> InferenceSpec:
    spec = back_end.spec()
    name = _part_name(back_end, precision)
    size = len(parts[name])
    if precision == "float32":
        size += 4 * problem.spec.parameter_count
    provisional = InferenceSpec(
        precision=precision, part=name, size=size, agreement=0.0, error=0.0, milliseconds=0.0
    )
    plain = InferenceSpec(
        precision="float32", part=spec.predict, size=1, agreement=0.0, error=0.0, milliseconds=0.0
    )
    table = (provisional,) if precision == "float32" else (provisional, plain)
    candidate = CandidatePlan(problem, back_end, parts, spec=back_end.spec(inference=table))
    runtime = open_runtime(candidate, back_end.name)
    try:
        agreement, error = _compare(problem, runtime.predict, batches)
        if getattr(runtime, "precision", precision) != precision:
            raise UnsupportedModelError(
                operator=precision,
                rewrite="leave this precision out for this runtime",
                reason="the runtime cannot load its own 8-bit graph of this model",
                runtime=back_end.name,
            )
        feed = {key: value.numpy() for key, value in batches[0].inputs.items()}
        milliseconds = _time(lambda: runtime.predict(feed))
    except PocketFLError:
        raise
    except Exception as failure:  # Runtimes share no base class of errors.
        raise UnsupportedModelError(
            operator=precision,
            rewrite="leave this precision out for this runtime",
            reason=f"the runtime fails on it: {failure}",
            runtime=back_end.name,
        ) from failure
    finally:
        runtime.close()
    return InferenceSpec(
        precision=precision,
        part=name,
        size=size,
        agreement=agreement,
        error=error,
        milliseconds=milliseconds,
    )


def _compare(
    problem: TrainingProblem,
    predict: Callable[[dict[str, NDArray[np.generic]]], dict[str, NDArray[np.generic]]],
    batches: Sequence[RandomBatch],
) -> tuple[float, float]:
    """Return (share of rows that decide as torch does, largest relative difference)."""
    reference = EagerReference(problem)
    parameters = problem.initial_parameters()
    agreeing = rows = 0
    error = 0.0
    for batch in batches:
        _, expected = reference.evaluate(parameters, batch)
        found = predict({name: value.numpy() for name, value in batch.inputs.items()})
        same = np.ones(batch.rows, bool)
        for name, tensor in expected.items():
            truth = tensor.numpy()
            same &= _decisions(truth, found[name])
            scale = float(np.abs(truth).max()) or 1.0
            error = max(error, float(np.abs(found[name] - truth).max()) / scale)
        agreeing += int(same.sum())
        rows += batch.rows
    return agreeing / rows, error


def _decisions(expected: NDArray[np.generic], found: NDArray[np.generic]) -> NDArray[np.bool_]:
    """Whether each row decides alike: the largest of several values, or which side of 0 a single one.

    What has more axes than one per row, such as a reconstruction, decides nothing; a row is then alike
    if it is within a twentieth of the output's range.
    """
    rows = len(expected)
    if expected.ndim == 2 and expected.shape[1] > 1:
        return np.asarray(expected.argmax(1) == found.argmax(1))
    flat = np.asarray(expected.reshape(rows, -1), np.float64)
    other = np.asarray(found.reshape(rows, -1), np.float64)
    if expected.size == rows:
        return np.asarray((flat[:, 0] > 0) == (other[:, 0] > 0))
    spread = float(flat.max() - flat.min()) or 1.0
    return np.asarray(np.abs(flat - other).max(1) <= spread / 20)


def _time(call: Callable[[], object]) -> float:
    """Return the least milliseconds of one call, over several repetitions."""
    call()
    gc.collect()
    times = []
    for _ in range(_REPEATS):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return 1000 * min(times)
