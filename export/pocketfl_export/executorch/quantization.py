"""Inference programs for ExecuTorch that hold their weights, in 8 bits, by PT2E quantisation."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from pocketfl.plan.inference import Precision
from pocketfl_export.batches import RandomBatch
from pocketfl_export.problem import TrainingProblem, flatten_outputs
from pocketfl_export.quiet import quiet


def quantize(
    problem: TrainingProblem,
    precision: Precision,
    *,
    predict: bytes,
    calibration: Iterable[RandomBatch],
) -> bytes:
    """Return an inference program in 8 bits for XNNPACK, with the model's parameters inside.

    Layers that XNNPACK has no 8-bit kernel for stay in float32.

    Parameters
    ----------
    problem : TrainingProblem
        The model.
    precision : {"int8_static", "int8_dynamic"}
        Which.
    predict : bytes
        The program that takes the parameters; this one is made from the model itself.
    calibration : iterable of RandomBatch
        What static ranges are taken from.
    """
    del predict
    with quiet():
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
            XNNPACKQuantizer,
            get_symmetric_quantization_config,
        )
        from executorch.exir import EdgeCompileConfig, to_edge_transform_and_lower
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

        quantizer = XNNPACKQuantizer().set_global(
            get_symmetric_quantization_config(
                is_per_channel=True, is_dynamic=precision == "int8_dynamic"
            )
        )
        example = tuple(problem.inputs.values())
        model = _Positional(problem).eval()
        with torch.no_grad():
            captured = torch.export.export(model, example, strict=False).module()
            prepared = prepare_pt2e(captured, quantizer)
            for batch in calibration:
                prepared(*batch.inputs.values())
            program = torch.export.export(convert_pt2e(prepared), example, strict=False)
        edge = to_edge_transform_and_lower(
            program,
            partitioner=[XnnpackPartitioner()],
            # Operators of the recurrent cells and of quantisation itself are not in core ATen.
            compile_config=EdgeCompileConfig(_check_ir_validity=False),
        )
        return bytes(edge.to_executorch().buffer)


class _Positional(torch.nn.Module):
    """The model in eval mode, from inputs by position to a tuple of outputs."""

    def __init__(self, problem: TrainingProblem) -> None:
        super().__init__()
        self.model = problem.evaluation_model
        self._names = tuple(problem.inputs)

    def forward(self, *values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        outputs = self.model(**dict(zip(self._names, values, strict=True)))
        return tuple(flatten_outputs(outputs).values())
