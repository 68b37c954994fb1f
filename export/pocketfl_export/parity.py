"""The gate: nothing is exported that a stock runtime does not train as eager torch does.

Random batches go through every artefact, opened by the code that opens it on a device. Each step
starts from torch's own parameters, because rounding at the kink of a ReLU would otherwise grow from
step to step until two correct programs disagree.

What is compared, with a tolerance of 1e-5: parameters after each step (absolute), loss, gradient norm
and outputs (relative to their size where that is above 1), and the change of each parameter tensor
(relative to its largest change, tolerance 1e-3, so that a wrong small gradient does not hide behind
large parameters). Every fifth batch is short, which a runtime pads with rows of weight 0 and torch does
not; every fifth has weights; every second step clips.

A miss is settled in double precision. The runtime passes if it is as near to the double-precision step
as torch is or within the tolerance of it, or if it is within the tolerance of the double-precision step
for parameters that differ from the given ones by no more than rounding (relative 1e-6): that is the
case where a value within rounding of a kink fell on its other side, and there both answers are right.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pocketfl.runtimes import EvaluationResult, PlanContents, Runtime, StepResult, open_runtime
from pocketfl.runtimes.optimizers import ANCHOR, bias_correction, state_arrays, updated_arrays
from pocketfl_export.batches import RandomBatch, random_batch
from pocketfl_export.differences import Difference, largest, memory_error, relative, witness
from pocketfl_export.errors import ParityError, Refusal
from pocketfl_export.problem import TrainingProblem
from pocketfl_export.reference import EagerReference, Taken, take_step
from pocketfl_export.settlement import Settlement, Step
from pocketfl_export.steps import train_inputs

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class ParitySettings:
    """How hard the gate looks.

    Attributes
    ----------
    steps : int
        Training steps per runtime.
    tolerance : float
        Largest accepted difference.
    learning_rate : float
        Upper bound of the learning rate; steps move the parameters by at most this (L2).
    seed : int
        Of the random batches.
    """

    steps: int = 50
    tolerance: float = 1e-5
    learning_rate: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.steps <= 10_000:
            raise ValueError("steps must be 1 to 10,000")
        if not 0 < self.tolerance <= 1e-2:
            raise ValueError("tolerance must be above 0 and at most 0.01")
        if not 0 < self.learning_rate <= 1:
            raise ValueError("learning_rate must be above 0 and at most 1")


@dataclass(frozen=True, kw_only=True)
class RuntimeParity:
    """How one runtime compares with eager torch.

    Attributes
    ----------
    ok : bool
        Whether it passed.
    max_parameter_error : float or None
        Largest difference of a parameter after a step, over the steps that were not settled in double
        precision; None where nothing could be run.
    max_loss_error, max_gradient_norm_error, max_output_error : float or None
        Likewise, relative to the value where that is above 1.
    max_change_error : float or None
        Largest difference of a parameter tensor's change, relative to its largest change.
    steps : int
        Steps compared.
    settled_by_float64 : int
        Steps that differed by more than the tolerance and were settled in double precision.
    max_settled_error : float or None
        Largest difference of a parameter from torch at those steps.
    bytes : int
        Size of the runtime's parts together.
    tensor_errors : dict of str to float
        ``max_parameter_error`` of each parameter tensor by its name; not in the JSON.
    """

    ok: bool
    max_parameter_error: float | None = None
    max_loss_error: float | None = None
    max_gradient_norm_error: float | None = None
    max_output_error: float | None = None
    max_change_error: float | None = None
    steps: int = 0
    settled_by_float64: int = 0
    max_settled_error: float | None = None
    bytes: int = 0
    tensor_errors: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ParityReport:
    """The gate's verdict on a model.

    Attributes
    ----------
    runtimes : dict of str to RuntimeParity
        By the runtime's name.
    refused : tuple of Refusal
        Why, where a runtime did not pass.
    rounding : float or None
        Largest difference of an initial parameter from the modeller's, where the plan stores float16;
        runtimes are compared with torch on the rounded ones.
    """

    runtimes: Mapping[str, RuntimeParity]
    refused: tuple[Refusal, ...] = ()
    rounding: float | None = None

    @property
    def ok(self) -> bool:
        """Whether every runtime passed."""
        return not self.refused and all(result.ok for result in self.runtimes.values())

    def require(self) -> None:
        """Do nothing if every runtime passed.

        Raises
        ------
        ParityError
            With every refusal.
        """
        if not self.ok:
            raise ParityError(self.refused)

    def to_json(self) -> dict[str, Any]:
        """Return the report as what ``json.dumps`` takes; an infinite error becomes null."""
        return {
            "runtimes": {
                name: {
                    key: _finite(value)
                    for key, value in vars(result).items()
                    if key != "tensor_errors"
                }
                for name, result in self.runtimes.items()
            },
            "refused": [
                {
                    "runtime": refusal.runtime,
                    "operator": refusal.operator,
                    "rewrite": refusal.rewrite,
                    "reason": refusal.reason,
                }
                for refusal in self.refused
            ],
            **({} if self.rounding is None else {"rounding": self.rounding}),
        }


def _finite(value: float | None) -> float | None:
    return value if value is None or math.isfinite(value) else None


@dataclass(frozen=True)
class Miss:
    """Where a runtime first differed from torch.

    Attributes
    ----------
    reason : str
        What differed and by how much.
    arguments : tuple of Tensor or None
        Arguments of the training graph that show it; None where evaluation or prediction differed.
    """

    reason: str
    arguments: tuple[Tensor, ...] | None = None


class _RuntimeFailureError(Exception):
    """The runtime raised; the message says what."""


class _Guarded:
    """A runtime whose failures are told apart from our own."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def train_step(self, step: Step, state: tuple[str, ...]) -> tuple[StepResult, Taken]:
        """Take a step of an optimizer that keeps these arrays."""

        def call() -> tuple[StepResult, Taken]:
            given = {ANCHOR: step.anchor, **step.memory}
            pieces = [given[name].numpy() for name in state]
            self._runtime.set_parameters(step.parameters.numpy())
            self._runtime.restore_optimizer(
                np.concatenate([np.zeros(0, np.float32), *pieces]), steps=step.number
            )
            arrays = _arrays(step.batch)
            if step.batch.random is not None:
                arrays["random"] = step.batch.random.numpy()
            result = self._runtime.train_step(
                arrays, learning_rate=step.learning_rate, clip_norm=step.clip_norm
            )
            kept = np.split(self._runtime.optimizer_state(), max(1, len(state)))
            memory = {
                name: torch.from_numpy(value) for name, value in zip(state, kept, strict=False)
            }
            memory.pop(ANCHOR, None)
            parameters = torch.from_numpy(self._runtime.parameters())
            return result, Taken(parameters, memory, result.gradient_norm)

        return self._guard(call)

    def evaluate(self, parameters: Tensor, batch: RandomBatch) -> EvaluationResult:
        def call() -> EvaluationResult:
            self._runtime.set_parameters(parameters.numpy())
            return self._runtime.evaluate(_arrays(batch))

        return self._guard(call)

    def predict(self, batch: RandomBatch) -> dict[str, NDArray[np.generic]]:
        arrays = {name: value.numpy() for name, value in batch.inputs.items()}
        return self._guard(lambda: self._runtime.predict(arrays))

    def _guard(self, call: Callable[[], T]) -> T:
        try:
            return call()
        except Exception as error:  # Runtimes share no base class of errors.
            lines = str(error).strip().splitlines()
            detail = lines[0] if lines else type(error).__name__
            raise _RuntimeFailureError(f"{self._runtime.name} fails: {detail}") from error


class _Comparison:
    """One runtime against eager torch; collects the largest differences until the first miss."""

    def __init__(
        self, problem: TrainingProblem, runtime: Runtime, settings: ParitySettings
    ) -> None:
        self._problem = problem
        self._runtime = _Guarded(runtime)
        self._settings = settings
        self._generator = torch.Generator().manual_seed(settings.seed)
        self._reference = EagerReference(problem)
        self._settlement = Settlement(problem, tolerance=settings.tolerance, seed=settings.seed)
        self._optimizer = problem.training.minimizer
        self._state = state_arrays(self._optimizer)
        self._parameters = problem.initial_parameters()
        self._anchor = self._parameters
        self._memory = {
            name: torch.zeros_like(self._parameters) for name in updated_arrays(self._optimizer)
        }
        self.parameter = self.loss = self.norm = self.output = self.change = 0.0
        self.steps = self.settled = 0
        self.settled_error = 0.0
        self.tensors: dict[str, float] = {}
        self.miss: Miss | None = None

    def run(self) -> None:
        """Compare training, evaluation and prediction; stop at the first miss."""
        try:
            for step in range(self._settings.steps):
                self.miss = self._train(step)
                if self.miss is not None:
                    return
            for step in range(5):
                self.miss = self._evaluate(step)
                if self.miss is not None:
                    return
            self.miss = self._predict()
        except _RuntimeFailureError as error:
            self.miss = Miss(str(error))

    def _train(self, number: int) -> Miss | None:
        before, tolerance = self._parameters, self._settings.tolerance
        batch = self._batch(number)
        truth = self._reference.gradient(before, batch, anchor=self._anchor)
        clip_norm, learning_rate = self._rates(truth.norm, number)
        step = Step(
            parameters=before,
            anchor=self._anchor,
            memory=self._memory,
            number=number,
            batch=batch,
            learning_rate=learning_rate,
            clip_norm=clip_norm,
        )
        moved, memory = take_step(
            self._optimizer,
            before,
            self._memory,
            truth.clipped(clip_norm),
            learning_rate=learning_rate,
            step=number,
        )
        expected = Taken(moved, memory, truth.norm)
        report, found = self._runtime.train_step(step, self._state)
        self.steps += 1
        if expected.is_finite:
            self._parameters, self._memory = moved, memory
        difference = self._difference(step, expected, found)
        loss = relative(report.loss, truth.loss)
        norm = relative(report.gradient_norm, truth.norm)
        self.loss = max(self.loss, loss)
        kept = memory_error(self._optimizer, before, step.memory, found, learning_rate, number)
        agrees = difference.within(tolerance) and norm <= tolerance
        doubtful = not agrees and loss <= tolerance and kept <= tolerance
        if doubtful and self._settlement.accepts(step, expected, found):
            self.settled += 1
            self.settled_error = max(self.settled_error, difference.parameter)
            return None
        self.parameter = max(self.parameter, difference.parameter)
        for name, error in difference.tensors.items():
            self.tensors[name] = max(self.tensors.get(name, 0.0), error)
        self.change = max(self.change, difference.change)
        self.norm = max(self.norm, norm)
        if agrees and loss <= tolerance and kept <= tolerance:
            return None
        return Miss(
            f"training step {number} differs from torch: parameters by {difference.parameter:.1e} "
            f"(most in {difference.name!r}), loss by {loss:.1e}, gradient norm by {norm:.1e}"
            + (f", the optimizer's memory by {kept:.1e}" if self._memory else ""),
            self._arguments(step),
        )

    def _difference(self, step: Step, expected: Taken, found: Taken) -> Difference:
        theirs, ours = (
            witness(self._optimizer, step.parameters, taken, rate=step.learning_rate)
            for taken in (expected, found)
        )
        return Difference.of(self._problem, step.parameters, theirs, ours)

    def _evaluate(self, step: int) -> Miss | None:
        batch = self._batch(step)
        loss, outputs = self._reference.evaluate(self._parameters, batch)
        found = self._runtime.evaluate(self._parameters, batch)
        difference = relative(found.loss, loss)
        self.loss = max(self.loss, difference)
        if difference > self._settings.tolerance:
            return Miss(f"the evaluation's loss differs from torch by {difference:.1e}")
        return self._compare_outputs("evaluation", found.outputs, outputs)

    def _predict(self) -> Miss | None:
        # More rows than a batch, and a remainder.
        rows = self._problem.batch_size + 1
        batch = random_batch(self._problem, self._generator, rows=rows)
        _, outputs = self._reference.evaluate(self._parameters, batch)
        return self._compare_outputs("prediction", self._runtime.predict(batch), outputs)

    def _compare_outputs(
        self,
        what: str,
        found: Mapping[str, NDArray[np.generic]],
        expected: Mapping[str, Tensor],
    ) -> Miss | None:
        for name, value in expected.items():
            result = torch.from_numpy(np.ascontiguousarray(found[name]))
            if value.is_floating_point():
                scale = max(1.0, largest(value))
                difference = largest(result - value) / scale
            else:
                difference = float((result != value).any())
            self.output = max(self.output, difference)
            if difference > self._settings.tolerance:
                return Miss(f"the {what}'s output {name!r} differs from torch by {difference:.1e}")
        return None

    def _batch(self, step: int) -> RandomBatch:
        rows = self._problem.batch_size
        if step % 5 == 3 and rows > 1:
            rows = 1 + int(torch.randint(0, rows - 1, (), generator=self._generator))
        return random_batch(self._problem, self._generator, rows=rows, weighted=step % 5 == 1)

    def _rates(self, norm: float, step: int) -> tuple[float, float]:
        """Return (clip norm, learning rate): every second step clips; no step goes far."""
        # Velocity adds up to many gradients.
        bound = self._settings.learning_rate * (1 - self._optimizer.momentum)
        safe = max(norm, 1e-3) if math.isfinite(norm) else 1.0
        return (min(safe / 2, 1.0), bound) if step % 2 == 0 else (2 * safe, bound / max(safe, 1.0))

    def _arguments(self, step: Step) -> tuple[Tensor, ...]:
        batch = step.batch.fill(self._problem.batch_size)
        values: dict[str, Tensor] = {
            **batch.inputs,
            **step.memory,
            ANCHOR: step.anchor,
            "parameters": step.parameters,
            "target": batch.target,
            "weight": batch.weight,
            "bias_correction": torch.tensor(bias_correction(self._optimizer, step.number + 1)),
            "learning_rate": torch.tensor(step.learning_rate),
            "clip_norm": torch.tensor(step.clip_norm),
        }
        if batch.random is not None:
            values["random"] = batch.random
        return tuple(values[name] for name in train_inputs(self._problem))


def compare_runtime(
    problem: TrainingProblem, plan: PlanContents, name: str, *, settings: ParitySettings
) -> tuple[RuntimeParity, Miss | None]:
    """Hold one runtime's parts against eager torch.

    Parameters
    ----------
    problem : TrainingProblem
        The model.
    plan : PlanContents
        The plan whose parts are opened.
    name : str
        The runtime.
    settings : ParitySettings
        How hard to look.

    Returns
    -------
    RuntimeParity
        The figures.
    Miss or None
        Where it differed, if it did.

    Raises
    ------
    RuntimeUnavailableError
        If the runtime is not installed here.
    """
    spec = plan.manifest.runtimes[name]
    names = [name for name in (spec.train, spec.evaluate, spec.predict) if name is not None]
    size = sum(len(plan.part(part)) for part in names)
    runtime = open_runtime(plan, name)
    try:
        comparison = _Comparison(problem, runtime, settings)
        comparison.run()
    finally:
        runtime.close()
    measured = comparison.steps > 0
    result = RuntimeParity(
        ok=comparison.miss is None,
        max_parameter_error=comparison.parameter if measured else None,
        max_loss_error=comparison.loss if measured else None,
        max_gradient_norm_error=comparison.norm if measured else None,
        max_output_error=comparison.output if measured else None,
        max_change_error=comparison.change if measured else None,
        steps=comparison.steps,
        settled_by_float64=comparison.settled,
        max_settled_error=comparison.settled_error if comparison.settled else None,
        bytes=size,
        tensor_errors=comparison.tensors,
    )
    return result, comparison.miss


def _arrays(batch: RandomBatch) -> dict[str, NDArray[np.generic]]:
    arrays: dict[str, NDArray[np.generic]] = {
        name: value.numpy() for name, value in batch.inputs.items()
    }
    arrays["target"] = batch.target.numpy()
    if not batch.is_uniform:
        arrays["weight"] = batch.weight.numpy()
    return arrays


def refusals_of(error: ParityError, names: Iterable[str]) -> tuple[Refusal, ...]:
    """Return an error's refusals, those without a runtime once per runtime."""
    result = []
    for refusal in error.refusals:
        for name in (refusal.runtime,) if refusal.runtime else names:
            result.append(
                Refusal(
                    operator=refusal.operator,
                    rewrite=refusal.rewrite,
                    reason=refusal.reason,
                    runtime=name,
                )
            )
    return tuple(result)
