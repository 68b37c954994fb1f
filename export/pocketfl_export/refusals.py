"""What is refused before anything is run, and how to write it instead.

A model that holds state in its forward pass cannot be a pure function; exported anyway it would train
on something else than torch does. Random numbers other than masks of dropout are refused likewise.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

import torch
from torch import fx, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
)
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from pocketfl_export.errors import ExportError, UnsupportedModelError

CONTROL_FLOW = "data-dependent control flow"
_CONTROL_FLOW_REWRITE = (
    "compute both branches and choose with torch.where; keep .item(), bool(tensor), nonzero and masks "
    "used as indices out of forward and of the loss"
)
_CONTROL_FLOW_MESSAGES = re.compile(
    r"data-dependent control flow|vmap: It looks like you're calling \.item\(\)|"
    r"_local_scalar_dense|data dependent|data-dependent|trying to get a value out of symbolic",
    re.IGNORECASE,
)


@contextlib.contextmanager
def explain_tracing_failure() -> Iterator[None]:
    """Turn torch's errors while tracing into a refusal that says what to change."""
    try:
        yield
    except ExportError:
        raise
    except (
        DataDependentOutputException,
        DynamicOutputShapeException,
        GuardOnDataDependentSymNode,
    ) as error:
        operator = getattr(error, "func", None)
        raise UnsupportedModelError(
            operator=f"{CONTROL_FLOW} ({operator})" if operator else CONTROL_FLOW,
            rewrite=_CONTROL_FLOW_REWRITE,
            reason="the graph would depend on the values of the example",
        ) from None
    except Exception as error:
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        if _CONTROL_FLOW_MESSAGES.search(str(error)):
            raise UnsupportedModelError(
                operator=CONTROL_FLOW,
                rewrite=_CONTROL_FLOW_REWRITE,
                reason=f"the graph would depend on the values of the example ({first_line})",
            ) from None
        raise UnsupportedModelError(
            operator=type(error).__name__,
            rewrite="write forward and the loss as plain tensor operations that torch.func.vmap and "
            "torch.func.grad accept",
            reason=f"torch could not trace the model: {first_line}",
        ) from error


def refuse_stateful_modules(model: nn.Module) -> None:
    """Refuse what changes something besides the parameters while training.

    Raises
    ------
    UnsupportedModelError
        Naming the module and a rewrite.
    """
    for name, module in model.named_modules():
        if not module.training:
            continue
        label = f"{type(module).__name__} {name!r}"
        if isinstance(module, _BatchNorm):
            raise UnsupportedModelError(
                operator=f"{label} in train mode",
                rewrite="use torch.nn.GroupNorm or LayerNorm (pocketfl_export.rewrites.fix does), "
                "or freeze it: call .eval() on this module before the export, so that it "
                "normalises with its stored statistics",
                reason="batch statistics mix the examples of a batch and its running statistics are "
                "state outside the parameters; padding rows would change both",
            )
        if isinstance(module, _InstanceNorm) and module.track_running_stats:
            raise UnsupportedModelError(
                operator=f"{label} with track_running_stats in train mode",
                rewrite="pass track_running_stats=False, or call .eval() on this module",
                reason="its running statistics are state outside the parameters",
            )


@contextlib.contextmanager
def refuse_changed_buffers(model: nn.Module) -> Iterator[None]:
    """Refuse a model whose buffers differ after the block, which runs ``forward`` once.

    Raises
    ------
    UnsupportedModelError
        Naming the buffer.
    """
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    yield
    for name, buffer in model.named_buffers():
        if name not in before or not torch.equal(before[name], buffer):
            raise UnsupportedModelError(
                operator=f"in-place change of the buffer {name!r}",
                rewrite="compute it from the inputs in forward, or call .eval() on the module that "
                "keeps it if it stands still then",
                reason="forward keeps state outside the parameters",
            )


def refuse_data_dependent_values(graph_module: fx.GraphModule) -> None:
    """Refuse a graph in which a number or a shape is taken from data.

    Raises
    ------
    UnsupportedModelError
        Naming the operator.
    """
    for node in graph_module.graph.nodes:
        values = torch.utils._pytree.tree_leaves(node.meta.get("val"))
        for value in values:
            sizes = value.shape if isinstance(value, torch.Tensor) else (value,)
            if any(
                isinstance(size, torch.SymInt | torch.SymFloat | torch.SymBool) for size in sizes
            ):
                raise UnsupportedModelError(
                    operator=f"{CONTROL_FLOW} ({node.target})",
                    rewrite=_CONTROL_FLOW_REWRITE,
                    reason="the graph would depend on the values of the example",
                )


def refuse_random_operators(graph_module: fx.GraphModule) -> None:
    """Refuse a graph that draws random numbers.

    Raises
    ------
    UnsupportedModelError
        Naming the operator.
    """
    for node in graph_module.graph.nodes:
        tags = getattr(node.target, "tags", ())
        if torch.Tag.nondeterministic_seeded in tags:
            raise UnsupportedModelError(
                operator=str(node.target),
                rewrite="use torch.nn.Dropout or torch.rand_like, or give the random tensor to the "
                "model as one of its inputs",
                reason="a graph cannot draw the same random numbers as torch",
            )
