"""Inference graphs for ONNX Runtime that hold their weights, in 8 bits."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from pocketfl.plan.inference import Precision
from pocketfl.runtimes.graphs import PARAMETERS
from pocketfl.runtimes.onnx import load_library
from pocketfl_export.batches import RandomBatch
from pocketfl_export.problem import TrainingProblem
from pocketfl_export.quiet import quiet

_STATIC: Final = (
    *("Conv", "Gemm", "MatMul", "Gather"),
    *("Relu", "Clip", "MaxPool", "AveragePool", "GlobalAveragePool"),
    *("Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze"),
)
"""What holds weights, and what may stand between two of them without going back to float32.

The cells of an unrolled recurrent net are long chains of sums, products and sigmoids: in 8 bits they
lose what they should remember, and their pairs of conversions outweigh the weights.
"""


def quantize(
    problem: TrainingProblem,
    precision: Precision,
    *,
    predict: bytes,
    calibration: Iterable[RandomBatch],
) -> bytes:
    """Return an inference graph in 8 bits, with the model's parameters inside.

    Static graphs are in the QDQ format, with one scale per output channel; dynamic ones quantise
    activations at each call, which ONNX Runtime does for matrix products well and for convolutions
    slowly.

    Parameters
    ----------
    problem : TrainingProblem
        The model.
    precision : {"int8_static", "int8_dynamic"}
        Which.
    predict : bytes
        The graph that takes the parameters.
    calibration : iterable of RandomBatch
        What static ranges are taken from.
    """
    library = load_library()
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_dynamic, quantize_static

    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "made.onnx"
        model = _with_weights(library, predict, problem, Path(folder))
        with quiet():
            # Weights of 7 bits: without dedicated instructions x86 adds pairs of products of 8 bits in
            # 16, which overflows; one plan is for every processor.
            if precision == "int8_static":
                quantize_static(
                    model,
                    made,
                    _Calibration(calibration),
                    quant_format=QuantFormat.QDQ,
                    op_types_to_quantize=list(_STATIC),
                    per_channel=True,
                    activation_type=QuantType.QUInt8,
                    weight_type=QuantType.QInt8,
                    reduce_range=True,
                )
            else:
                quantize_dynamic(
                    model,
                    made,
                    per_channel=True,
                    weight_type=QuantType.QInt8,
                    reduce_range=True,
                )
        result = onnx.load(made)
    result.producer_name = "pocketfl"
    return bytes(result.SerializeToString(deterministic=True))


def _with_weights(
    library: Any, predict: bytes, problem: TrainingProblem, folder: Path
) -> onnx.ModelProto:
    """Make the parameters a constant, and let ONNX Runtime cut it into the weights of each node."""
    model = onnx.load_from_string(predict)
    (given,) = (tensor for tensor in model.graph.input if tensor.name == PARAMETERS)
    model.graph.input.remove(given)
    vector = problem.initial_parameters().numpy()
    model.graph.initializer.append(numpy_helper.from_array(vector, PARAMETERS))
    options = library.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    options.graph_optimization_level = library.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(folder / "folded.onnx")
    library.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return onnx.load(folder / "folded.onnx")


class _Calibration:
    """ONNX Runtime's reader of calibration data: one feed after the other, then ``None``."""

    def __init__(self, batches: Iterable[RandomBatch]) -> None:
        self._batches = iter(batches)

    def get_next(self) -> Mapping[str, NDArray[np.generic]] | None:
        batch = next(self._batches, None)
        if batch is None:
            return None
        return {name: value.numpy() for name, value in batch.inputs.items()}
