"""Exports one model of the zoo for every runtime, in a process of its own."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from pocketfl.plan import Plan, build_plan, generate_signing_key

if TYPE_CHECKING:
    from torch import Tensor

    from pocketfl_benchmarks.zoo.quality import Quality
    from pocketfl_export.backends import BackEnd
    from pocketfl_export.problem import TrainingProblem

PARITY_STEPS = 3
_EXAMPLE_BATCHES = 32


@dataclass(frozen=True, kw_only=True)
class Artefacts:
    """What one runtime gets of one model.

    Attributes
    ----------
    plan : bytes
        A signed plan for this runtime alone.
    key : str
        Its signer.
    export_seconds, export_cpu_seconds : float
        From the model to parts that passed the gate, 8 bits apart.
    step_bytes, inference_bytes : int
        The training step without parameters; the inference graph with them.
    inference_int8_bytes : int or None
        The static 8-bit graph, which holds its parameters; None where it was refused.
    int8_agreement : float or None
        Share of rows for which it decides like torch; measured even where it is too low.
    int8_milliseconds, float32_milliseconds : float or None
        Of a batch.
    notes : tuple of str
        What was refused, and why.
    """

    plan: bytes
    key: str
    export_seconds: float
    export_cpu_seconds: float
    step_bytes: int
    inference_bytes: int
    inference_int8_bytes: int | None = None
    int8_agreement: float | None = None
    int8_milliseconds: float | None = None
    float32_milliseconds: float | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """One model at one batch size, exported.

    Attributes
    ----------
    model, batch_size : str, int
        Which.
    parameters : int
        Trainable numbers.
    artefacts : dict of str to Artefacts
        By runtime.
    refused : dict of str to str
        Runtimes that cannot train it, and why.
    quality : Quality or None
        What it learnt from real data, where that was asked for and there are some.
    """

    model: str
    batch_size: int
    parameters: int
    artefacts: dict[str, Artefacts] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    quality: Quality | None = None


def prepare(
    name: str, batch_size: int, runtimes: tuple[str, ...], *, with_int8: bool, with_quality: bool
) -> Prepared:
    """Train a model a little, export it, check and quantise what came out, and let it learn.

    Runs in a worker process, so arguments and result are plain values.
    """
    import torch

    from pocketfl_benchmarks.zoo.models import ZOO, trained_model
    from pocketfl_benchmarks.zoo.quality import measure_quality
    from pocketfl_export.backends import back_ends
    from pocketfl_export.problem import make_problem

    torch.set_num_threads(1)
    entry = ZOO[name]
    generator = torch.Generator().manual_seed(2)
    inputs, target = entry.draw(batch_size, generator)
    examples, _ = entry.draw(_EXAMPLE_BATCHES * batch_size, generator)
    # Only 8 bits depend on what was learnt.
    model = trained_model(entry) if with_int8 else trained_model(entry, steps=0)
    problem = make_problem(model, entry.loss, inputs, target)
    prepared = Prepared(model=name, batch_size=batch_size, parameters=problem.spec.parameter_count)
    for back_end in back_ends(runtimes):
        made = _export(problem, back_end, examples if with_int8 else None)
        if isinstance(made, str):
            prepared.refused[back_end.name] = made
        else:
            prepared.artefacts[back_end.name] = made
    if with_quality and entry.real is not None:
        plans = {
            runtime: Plan.load(made.plan, trusted_keys=[made.key])
            for runtime, made in prepared.artefacts.items()
        }
        quality = measure_quality(entry, entry.real, plans, batch_size=batch_size)
        prepared = replace(prepared, quality=quality)
    return prepared


def _export(
    problem: TrainingProblem, back_end: BackEnd, examples: Mapping[str, Tensor] | None
) -> Artefacts | str:
    from pocketfl_export.gate import run_gate
    from pocketfl_export.parity import ParitySettings

    began, cpu_began = time.perf_counter(), time.process_time()
    gate = run_gate(problem, [back_end], ParitySettings(steps=PARITY_STEPS))
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu_began
    if not gate.report.ok:
        return "; ".join(map(str, gate.report.refused))
    spec = back_end.spec()
    made = Artefacts(
        **_sign(problem, back_end, gate.parts),
        export_seconds=seconds,
        export_cpu_seconds=cpu_seconds,
        step_bytes=len(gate.parts[str(spec.train)]),
        inference_bytes=len(gate.parts[spec.predict]) + 4 * problem.spec.parameter_count,
    )
    return made if examples is None else _with_int8(made, problem, back_end, gate.parts, examples)


def _sign(
    problem: TrainingProblem, back_end: BackEnd, parts: Mapping[str, bytes]
) -> dict[str, Any]:
    from pocketfl_export.gate import CandidatePlan

    # The candidate's manifest says how to open the parts; who signs it does not matter here.
    candidate = CandidatePlan(problem, back_end, parts)
    manifest = candidate.manifest
    plan = build_plan(
        name=manifest.name,
        version=manifest.version,
        privacy=manifest.privacy,
        model=manifest.model,
        training=manifest.training,
        features=manifest.features,
        aggregation=manifest.aggregation,
        dp=None,
        runtimes=manifest.runtimes,
        parts={**parts, problem.spec.parameters_part: candidate.part(problem.spec.parameters_part)},
        signing_key=generate_signing_key(),
    )
    return {"plan": plan.data, "key": plan.signed_by}


def _with_int8(
    made: Artefacts,
    problem: TrainingProblem,
    back_end: BackEnd,
    parts: Mapping[str, bytes],
    examples: Mapping[str, Tensor],
) -> Artefacts:
    from pocketfl_export.inference import make_inference

    # Nothing is left out for disagreeing: the figure says how much.
    inference = make_inference(
        problem,
        back_end,
        parts,
        ("float32", "int8_static"),
        examples=examples,
        minimum_agreement=0.0,
    )
    ways = {way.precision: way for way in inference.ways}
    int8 = ways.get("int8_static")
    return replace(
        made,
        inference_int8_bytes=None if int8 is None else int8.size,
        int8_agreement=None if int8 is None else int8.agreement,
        int8_milliseconds=None if int8 is None else int8.milliseconds,
        float32_milliseconds=ways["float32"].milliseconds,
        notes=tuple(map(str, inference.refused)),
    )
