"""The ``.pte`` that NVIDIA FLARE's edge clients train: an optional output, beside plans.

Their convention (``nvflare/edge/models/model.py``, Apache-2.0): one method ``forward(input, label)``
whose first output is the loss and whose second is the prediction; parameters live in the program under
names that start with ``net.``, and ExecuTorch's training module keeps the gradients. Such a file has no
clipping, no noise and no signature.
"""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any, Final
from unittest import mock

import torch
from torch import Tensor, nn

from pocketfl.runtimes.executorch import load_library
from pocketfl_export.errors import ExportError, ParityError, Refusal
from pocketfl_export.executorch.decompositions import decomposition_table
from pocketfl_export.problem import Loss
from pocketfl_export.quiet import quiet
from pocketfl_export.tracing import portable_kernels

METHOD: Final = "forward"
TOLERANCE: Final = 1e-5
_STEPS: Final = 3
_LEARNING_RATE: Final = 0.1


class DeviceModel(nn.Module):
    """What NVFlare's devices train: a model with its loss.

    Parameters
    ----------
    net : torch.nn.Module
        Takes one tensor.
    loss : callable
        ``loss(outputs, target)``.
    """

    def __init__(self, net: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.net = net
        # In a tuple a loss that is a module adds no names of its own.
        self._loss = (loss,)

    def forward(self, input: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:  # noqa: A002 - theirs
        """Return the loss and the prediction: the class where labels are classes, else the outputs."""
        outputs = self.net(input)
        prediction = outputs.detach()
        if label.dtype == torch.int64 and outputs.dim() == label.dim() + 1:
            prediction = prediction.argmax(dim=1)
        return self._loss[0](outputs, label), prediction


def export_nvflare(
    model: nn.Module,
    loss: Loss,
    example_input: Tensor,
    example_target: Tensor,
    path: str | Path | None = None,
) -> bytes:
    """Export a model by NVFlare's convention and check it against eager torch.

    Parameters
    ----------
    model : torch.nn.Module
        In the mode in which it is to be trained; its present parameters go into the program.
    loss : callable
        ``loss(outputs, target)``.
    example_input, example_target : Tensor
        One batch; the program takes batches of this size.
    path : str or Path, optional
        Where the ``.pte`` goes; nothing is written if a step differs.

    Returns
    -------
    bytes
        The program.

    Raises
    ------
    ExportError
        If the model takes something else than one tensor.
    ParityError
        If ExecuTorch cannot export or load it, or a step of SGD ends more than 1e-5 from torch's.
    """
    if not isinstance(example_input, Tensor):
        raise ExportError("NVFlare's devices give a model one tensor; join the inputs into one")
    device_model = DeviceModel(copy.deepcopy(model), loss)
    load_library()
    try:
        program = _lower(device_model, example_input, example_target)
        difference = _difference(program, device_model, example_input, example_target)
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        raise _refusal(str(error).strip().splitlines()[0]) from error
    if not difference <= TOLERANCE:
        raise _refusal(f"after a step a parameter differs from torch's by {difference:.1e}")
    if path is not None:
        Path(path).write_bytes(program)
    return program


def _refusal(reason: str) -> ParityError:
    return ParityError(
        [
            Refusal(
                operator="the training module as a whole",
                rewrite="`pocketfl export check` names the operator",
                reason=reason,
                runtime="executorch",
            )
        ]
    )


def _lower(device_model: DeviceModel, example_input: Tensor, example_target: Tensor) -> bytes:
    import torch._decomp as decomposition_registry
    from torch.export.experimental import _export_forward_backward

    # Some kernels of ExecuTorch's portable library are missing or compute wrong gradients, max pooling
    # among them: the same decompositions as for plans stand in for them.
    table = {**decomposition_registry.core_aten_decompositions(), **decomposition_table()}
    with quiet(), portable_kernels():
        from executorch.exir import EdgeCompileConfig, to_edge

        exported = torch.export.export(device_model, (example_input, example_target), strict=False)
        with mock.patch.object(decomposition_registry, "core_aten_decompositions", lambda: table):
            joint = _export_forward_backward(exported)
        edge = to_edge(joint, compile_config=EdgeCompileConfig(_check_ir_validity=False))
        return bytes(edge.to_executorch().buffer)


def _difference(
    program: bytes, device_model: DeviceModel, example_input: Tensor, example_target: Tensor
) -> float:
    """Train beside torch and return the largest difference of a parameter or of the loss."""
    from executorch.extension.training import (
        _load_for_executorch_for_training_from_buffer,
        get_sgd_optimizer,
    )

    expected = copy.deepcopy(device_model)
    torch_optimizer = torch.optim.SGD(expected.parameters(), lr=_LEARNING_RATE)
    batch = (example_input.contiguous(), example_target.contiguous())
    largest = 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # The whole training module calls itself experimental.
        trained: Any = _load_for_executorch_for_training_from_buffer(program)
        optimizer: Any = None
        for _ in range(_STEPS):
            loss, _prediction = trained.forward_backward(METHOD, batch)
            # Parameters can be asked for only once the method was run.
            optimizer = optimizer or get_sgd_optimizer(
                trained.named_parameters(), _LEARNING_RATE, 0.0, 0.0, 0.0, False
            )
            optimizer.step(trained.named_gradients())
            torch_optimizer.zero_grad()
            expected_loss, _ = expected(*batch)
            torch.autograd.backward(expected_loss)
            torch_optimizer.step()
            found = trained.named_parameters()
            pairs = [(loss, expected_loss)]
            pairs += [(found[name], value) for name, value in expected.named_parameters()]
            largest = max([largest, *(float((a - b).detach().abs().max()) for a, b in pairs)])
    return largest
