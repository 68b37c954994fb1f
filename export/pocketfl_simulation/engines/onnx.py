"""ONNX Runtime: the plan's own training graph, chained over the steps of many devices."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pocketfl.plan import Plan
from pocketfl.runtimes.batches import RANDOM, WEIGHT
from pocketfl.runtimes.graphs import CLIP_NORM, LEARNING_RATE
from pocketfl.runtimes.interface import FloatVector
from pocketfl.runtimes.onnx import load_library
from pocketfl.runtimes.optimizers import BIAS_CORRECTION
from pocketfl_simulation.engines.interface import finite
from pocketfl_simulation.engines.scan import BEGINS, ROWS, START, chain_steps, each, everything
from pocketfl_simulation.packing import PackedSteps

STEP_BYTES: Final = 2**26
"""Parameters after each step that one call of the graph returns, at most about so many bytes."""


class OnnxEngine:
    """One session that several threads run at a time, each on one core; gives the bits of a phone.

    Parameters
    ----------
    plan : Plan
        With a training step for ONNX Runtime.
    """

    name = "onnxruntime"
    device = "cpu"
    at_once = 64

    def __init__(self, plan: Plan) -> None:
        manifest = plan.manifest
        part = manifest.runtimes["onnxruntime"].train
        assert part is not None  # noqa: S101 - a plan that trains has one
        library = load_library()
        options = library.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        graph = chain_steps(plan.part(part), manifest)
        self._session = library.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self._inputs = {tensor.name for tensor in self._session.get_inputs()}
        self._clip_norm = np.array(manifest.required_training.max_gradient_norm, np.float32)
        self._at_once = max(1, STEP_BYTES // (4 * manifest.required_model.parameter_count))

    def train(self, steps: PackedSteps, parameters: FloatVector) -> NDArray[np.float64]:
        """Run the chained graph; see :class:`~.interface.Engine`."""
        updates = np.zeros((len(steps.counts), parameters.size))
        ends = np.cumsum(steps.counts)
        first = 0
        while first < len(ends):
            begin = int(ends[first] - steps.counts[first])
            last = int(np.searchsorted(ends, begin + self._at_once, side="right"))
            last = max(last, first + 1)
            part = slice(begin, int(ends[last - 1]))
            if part.stop > part.start:
                after = self._run(steps, part, parameters)
                for device in np.flatnonzero(steps.counts[first:last]) + first:
                    updates[device] = after[ends[device] - 1 - begin]
                    updates[device] -= parameters
            first = last
        return finite(updates)

    def _run(self, steps: PackedSteps, part: slice, parameters: FloatVector) -> FloatVector:
        feed: dict[str, Any] = {
            START: parameters,
            CLIP_NORM: self._clip_norm,
            each(ROWS): steps.rows[part],
            each(BEGINS): steps.begins[part],
            each(WEIGHT): steps.weight[part],
            each(LEARNING_RATE): steps.learning_rate[part],
        }
        for name, array in ((RANDOM, steps.random), (BIAS_CORRECTION, steps.bias_correction)):
            if array is not None:
                feed[each(name)] = array[part]
        feed |= {everything(name): array for name, array in steps.arrays.items()}
        # A graph that needs none of an input has lost it on the way.
        feed = {name: array for name, array in feed.items() if name in self._inputs}
        after: FloatVector = self._session.run(None, feed)[0]
        return after
