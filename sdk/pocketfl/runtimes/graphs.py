"""What is the same in every runtime: parameters, batches, and the order of a graph's arguments.

A back end adds one thing, :class:`Graph`: a part that was loaded, reads the arrays it was given, and
returns its outputs. One whose memory Python does not share also says where the parameters live.
Everything that a caller can get wrong is checked here, once for all of them.
"""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Final, Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pocketfl.errors import PlanError, PlanUnsupportedError, RuntimeUnavailableError
from pocketfl.plan.inference import Precision
from pocketfl.plan.manifest import Manifest
from pocketfl.plan.models import TensorSpec
from pocketfl.plan.training import TrainingSpec
from pocketfl.runtimes.batches import RANDOM, TARGET, WEIGHT, Array, BatchBuffers
from pocketfl.runtimes.interface import Batch, EvaluationResult, FloatVector, StepResult
from pocketfl.runtimes.optimizers import OptimizerState, updated_arrays

PARAMETERS: Final = "parameters"
LEARNING_RATE: Final = "learning_rate"
CLIP_NORM: Final = "clip_norm"

Task: TypeAlias = Literal["train", "evaluate", "predict"]
Signature: TypeAlias = tuple[tuple[str, tuple[int, ...]], ...]
"""Dtype and shape of each tensor, in order."""


class PlanContents(Protocol):
    """What a runtime needs of a plan; :class:`pocketfl.plan.Plan` has it."""

    @property
    def manifest(self) -> Manifest:
        """What the plan says."""

    def part(self, name: str) -> bytes:
        """Return one part, its hash verified."""

    def initial_parameters(self) -> FloatVector:
        """Return the parameters that the plan starts with, shape (P,)."""


class Graph(Protocol):
    """One part, loaded, and bound to the arrays it reads."""

    inputs: Signature
    outputs: Signature

    def run(self) -> Sequence[Array]:
        """Run on what the arrays hold now; the outputs are good until the next run.

        Where the parameters live outside Python, the vectors among a training step's outputs are
        whatever that back end keeps of them.
        """

    def close(self) -> None:
        """Free the memory that Python does not free by itself."""


class GraphRuntime(ABC):
    """A plan opened in one runtime; parts are loaded when they are first used.

    Parameters
    ----------
    plan : PlanContents
        The plan; its initial parameters are the first ones here, zeros where it has none.

    Raises
    ------
    RuntimeUnavailableError
        If the plan has no parts for this runtime.
    PlanUnsupportedError
        If the installed runtime is older than the plan needs.
    """

    name: str = ""

    def __init__(self, plan: PlanContents) -> None:
        manifest = plan.manifest
        if self.name not in manifest.runtimes:
            raise RuntimeUnavailableError(
                f"the plan {manifest.name!r} has no parts for {self.name}, only for "
                f"{', '.join(sorted(manifest.runtimes))}: export it with runtimes={[self.name]!r} added"
            )
        self._spec = manifest.runtimes[self.name]
        _check_version(self.name, self._installed_version(), self._spec.minimum_version)
        self._plan: PlanContents | None = plan
        self._model = manifest.required_model
        self._buffers = BatchBuffers(self._model)
        self._parameters: FloatVector = np.zeros(self._model.parameter_count, np.float32)
        self._learning_rate = np.zeros((), np.float32)
        self._clip_norm = np.zeros((), np.float32)
        minimizer = (manifest.training or TrainingSpec()).minimizer
        self.random_numbers = self._model.random_numbers or 0
        self._updated = updated_arrays(minimizer)
        self._optimizer = OptimizerState(minimizer, self._model.parameter_count)
        self._graphs: dict[Task, Graph] = {}
        # Ways to predict with the plan's own parameters only, by the name of their part.
        self._fixed: dict[str, Graph] = {}
        self._unusable: set[str] = set()
        self._is_initial: bool | None = None
        self.precision: Precision = "float32"
        # A plan that evaluates may leave the parameters to the model version that it is used for.
        if manifest.has_parameters:
            self.set_parameters(plan.initial_parameters())
        self.start_training()

    @abstractmethod
    def _installed_version(self) -> str:
        """Return the version of the runtime on this device."""

    @abstractmethod
    def _load(self, part: bytes, arrays: Mapping[str, Array]) -> Graph:
        """Load a part and bind it to its arrays, which are in the order of its inputs.

        Raises
        ------
        PlanError
            If the part is not a program of this runtime, or takes inputs of other names.
        """

    def set_parameters(self, vector: FloatVector) -> None:
        """Replace all parameters.

        Parameters
        ----------
        vector : ndarray of float32, shape (P,)
            In the order of ``plan.parameters``; copied.

        Raises
        ------
        ValueError
            If the length or dtype is wrong or a value is not finite.
        """
        self._contents()
        kind = getattr(vector, "dtype", type(vector).__name__)
        if kind != np.float32:
            raise ValueError(f"the parameters are {kind}; give a numpy array of float32")
        if vector.shape != self._parameters.shape:
            raise ValueError(
                f"the parameters have shape {vector.shape}; the plan's are {self._parameters.shape}"
            )
        if not np.isfinite(vector).all():
            raise ValueError("the parameters are not all finite")
        self._write_parameters(vector)
        self._is_initial = None

    def parameters(self) -> FloatVector:
        """Return a copy of all parameters, shape (P,)."""
        self._contents()
        return self._read_parameters()

    # A back end with memory of its own overrides these six.

    def _write_parameters(self, vector: FloatVector) -> None:
        """Put a checked vector where the graphs read it."""
        self._parameters[:] = vector

    def _read_parameters(self) -> FloatVector:
        """Return a copy of what the graphs read."""
        return self._parameters.copy()

    def _keep_parameters(self, output: Array) -> None:
        """Make the first output of a training step what the graphs read next."""
        self._parameters[:] = output

    def _keep_optimizer(self, outputs: Sequence[Array]) -> None:
        """Make the optimizer's outputs of a training step what the graph reads next."""
        self._optimizer.after_step(outputs)

    def _push_optimizer(self) -> None:  # noqa: B027 - shared memory needs none of it
        """Put the optimizer's arrays, which have just been set, where the graph reads them."""

    def _pull_optimizer(self) -> None:  # noqa: B027
        """Bring the optimizer's arrays up to date."""

    def start_training(self) -> None:
        """Begin a local training at the current parameters: the optimizer remembers nothing."""
        self._contents()
        self._optimizer.start(self._read_parameters())
        self._push_optimizer()

    def optimizer_state(self) -> FloatVector:
        """Return a copy of what the optimizer remembers, as one vector; empty for plain SGD."""
        self._contents()
        self._pull_optimizer()
        return self._optimizer.vector()

    def restore_optimizer(self, state: FloatVector, *, steps: int) -> None:
        """Go on with a local training, after so many steps of it.

        Parameters
        ----------
        state : ndarray of float32
            From :meth:`optimizer_state`.
        steps : int
            Steps taken before.

        Raises
        ------
        ValueError
            If the state is not one of this plan's optimizer.
        """
        self._contents()
        self._optimizer.restore(state, steps=steps)
        self._push_optimizer()

    def train_step(self, batch: Batch, *, learning_rate: float, clip_norm: float) -> StepResult:
        """Take one step of the plan's optimizer on a batch and keep the new parameters.

        Parameters
        ----------
        batch : mapping of str to ndarray
            Inputs, ``target`` and optionally ``weight``, 1 to ``batch_size`` rows; for a model with
            dropout also ``random``.
        learning_rate : float
            At least 0.
        clip_norm : float
            L2 norm that the gradient, or each example's, is clipped to; above 0.

        Returns
        -------
        StepResult
            Not finite where the arithmetic overflowed; the parameters are then not finite either.

        Raises
        ------
        ValueError
            Naming the argument that does not fit; the parameters stay.
        """
        graph = self._graphs.get("train") or self._open("train")
        if not 0.0 <= learning_rate < math.inf:
            raise ValueError(f"learning_rate is {learning_rate}; it must be at least 0 and finite")
        if not 0.0 < clip_norm < math.inf:
            raise ValueError(f"clip_norm is {clip_norm}; it must be above 0 and finite")
        self._buffers.load_batch(self._buffers.load_random(batch))
        self._learning_rate[()] = learning_rate
        self._clip_norm[()] = clip_norm
        self._optimizer.before_step()
        parameters, *updated, loss, gradient_norm = graph.run()
        self._keep_parameters(parameters)
        self._keep_optimizer(updated)
        self._is_initial = None
        return StepResult(loss=float(loss), gradient_norm=float(gradient_norm))

    def evaluate(self, batch: Batch) -> EvaluationResult:
        """Return loss and outputs of a batch; parameters stay.

        Raises
        ------
        ValueError
            Naming the array that does not fit.
        """
        graph = self._graphs.get("evaluate") or self._open("evaluate")
        rows = self._buffers.load_batch(batch)
        loss, *outputs = graph.run()
        return EvaluationResult(
            loss=float(loss),
            outputs={
                spec.name: np.array(output[:rows])
                for spec, output in zip(self._model.outputs, outputs, strict=True)
            },
        )

    def predict(self, inputs: Mapping[str, NDArray[np.generic]]) -> dict[str, NDArray[np.generic]]:
        """Return the outputs for any number of rows; parameters stay.

        Of the plan's ways to predict the best is taken that this runtime loads and that holds the
        current parameters; ``precision`` then says which it was.

        Raises
        ------
        ValueError
            Naming the array that does not fit.
        """
        graph = self._open_best()
        rows = self._buffers.check_inputs(inputs)
        results: dict[str, Array] = {
            spec.name: np.empty((rows, *spec.shape), spec.dtype) for spec in self._model.outputs
        }
        for start in range(0, rows, self._buffers.batch_size):
            stop = min(start + self._buffers.batch_size, rows)
            self._buffers.load_inputs(inputs, start, stop)
            for result, output in zip(results.values(), graph.run(), strict=True):
                result[start:stop] = output[: stop - start]
        return results

    @abstractmethod
    def cancel(self) -> bool:
        """End the call under way, from any thread; see :meth:`Runtime.cancel`."""

    def close(self) -> None:
        """Free the runtime's memory; further calls raise ``RuntimeError``."""
        self._plan = None
        for graph in (*self._graphs.values(), *self._fixed.values()):
            graph.close()
        self._graphs.clear()
        self._fixed.clear()
        self._parameters = np.zeros(0, np.float32)

    def _contents(self) -> PlanContents:
        if self._plan is None:
            raise RuntimeError(f"this {self.name} runtime is closed; open the plan again")
        return self._plan

    def _open(self, task: Task) -> Graph:
        plan = self._contents()
        name: str | None = getattr(self._spec, task)
        if name is None:
            raise PlanError(
                f"the plan {plan.manifest.name!r} is of kind {plan.manifest.kind!r}: it has no part to "
                f"{task}"
            )
        graph = self._load_part(name, task, self._arrays(task))
        self._graphs[task] = graph
        return graph

    def _open_best(self) -> Graph:
        """Return the best graph to predict with that holds the current parameters and loads here."""
        for way in self._spec.inference or ():
            if way.precision == "float32" or not self._has_initial_parameters():
                break
            if way.part in self._unusable:
                continue
            try:
                graph = self._fixed.get(way.part) or self._load_part(
                    way.part, "predict", self._inputs()
                )
            except PlanError:  # A build without these kernels: the next best will do.
                self._unusable.add(way.part)
                continue
            self._fixed[way.part] = graph
            self.precision = way.precision
            return graph
        self.precision = "float32"
        return self._graphs.get("predict") or self._open("predict")

    def _has_initial_parameters(self) -> bool:
        if self._is_initial is None:
            initial = self._contents().initial_parameters()
            self._is_initial = bool(np.array_equal(self._read_parameters(), initial))
        return self._is_initial

    def _load_part(self, name: str, task: Task, arrays: Mapping[str, Array]) -> Graph:
        graph = self._load(self._contents().part(name), arrays)
        expected_inputs = tuple((a.dtype.name, a.shape) for a in arrays.values())
        for what, found, expected in (
            ("takes", graph.inputs, expected_inputs),
            ("gives", graph.outputs, self._output_signature(task)),
        ):
            if found != expected:
                raise PlanError(
                    f"the part {name!r} does not fit the manifest: it {what} {_describe(found)}, not "
                    f"{_describe(expected)}"
                )
        return graph

    def _inputs(self) -> dict[str, Array]:
        return {spec.name: self._buffers.arrays[spec.name] for spec in self._model.inputs}

    def _arrays(self, task: Task) -> dict[str, Array]:
        buffers = self._buffers.arrays
        arrays: dict[str, Array] = {PARAMETERS: self._parameters, **self._inputs()}
        if task != "predict":
            arrays[TARGET] = buffers[TARGET]
            arrays[WEIGHT] = buffers[WEIGHT]
        if task == "train":
            if RANDOM in buffers:
                arrays[RANDOM] = buffers[RANDOM]
            arrays.update(self._optimizer.arrays)
            arrays[LEARNING_RATE] = self._learning_rate
            arrays[CLIP_NORM] = self._clip_norm
        return arrays

    def _output_signature(self, task: Task) -> Signature:
        scalar = ("float32", ())
        if task == "train":
            vector = ("float32", self._parameters.shape)
            return (vector, *(vector for _ in self._updated), scalar, scalar)
        outputs = tuple(self._row_signature(spec) for spec in self._model.outputs)
        return outputs if task == "predict" else (scalar, *outputs)

    def _row_signature(self, spec: TensorSpec) -> tuple[str, tuple[int, ...]]:
        return spec.dtype, (self._buffers.batch_size, *spec.shape)


def _describe(signature: Signature) -> str:
    return ", ".join(f"{dtype}{list(shape)}" for dtype, shape in signature) or "nothing"


def _check_version(name: str, installed: str, minimum: str) -> None:
    if version_numbers(installed) < version_numbers(minimum):
        raise PlanUnsupportedError(
            f"the plan needs {name} {minimum} or later and this device has {installed}: update {name}, "
            "or export the plan against the older version"
        )


def version_numbers(version: str) -> tuple[int, ...]:
    """Return the leading numbers of a version: ``1.28.0+cpu`` gives (1, 28, 0)."""
    match = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(n) for n in match[0].split(".")) if match else ()
