"""Blocks of a convolution, ReLU and pooling: found in a model, and put in the place of its modules."""

from __future__ import annotations

import copy
from typing import Any, Final

import numpy as np
import torch
from torch import fx, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from pocketfl_simulation.engines.kernels import (
    single_kernels,
    winograd_kernels,
)

_RELU: Final = (nn.ReLU, torch.relu, functional.relu, "relu")
_POOL: Final = (functional.max_pool2d, torch.max_pool2d)
_MAX_PADDING: Final = 2
_G: Final = torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0.0, 0.0, 1.0]])
_WEIGHTS: Final = torch.kron(_G, _G)
"""Takes the nine weights of a channel to the domain in which they are multiplied, shape (16, 9)."""


class _Memory:
    """What a block computes in, for one shape of its input; made once, for making it is slow.

    Parameters
    ----------
    values : Tensor, shape (N, C, H, W)
        That the block takes.
    outputs, padding : int
        Of the convolution: its channels K, and how wide zeros are around the input.
    """

    def __init__(self, values: torch.Tensor, *, outputs: int, padding: int) -> None:
        count, _, *sides = values.shape
        self.rows, self.columns = ((side + 2 * padding - 2) // 2 for side in sides)
        self.padding = padding
        self.pooled = torch.empty(count, self.rows, self.columns, outputs)
        self.pooled_array = self.pooled.numpy()
        self.places = np.empty(self.pooled.shape, np.int32)


class _TileMemory(_Memory):
    """Besides, what the products between several channels take and make.

    Attributes
    ----------
    tiles : Tensor, shape (16, T, C)
        Of the input; in the backward pass their gradient.
    weights : Tensor, shape (16, C, K)
        In the same domain.
    products : Tensor, shape (16, T, K)
        Of both; in the backward pass their gradient.
    moved : Tensor, shape (N, H, W, C)
        Gradient of the input.
    """

    def __init__(self, values: torch.Tensor, *, outputs: int, padding: int) -> None:
        super().__init__(values, outputs=outputs, padding=padding)
        count, inputs, height, width = values.shape
        area = count * self.rows * self.columns
        self.kernels = winograd_kernels(inputs, outputs)
        self.tiles = torch.empty(16, area, inputs)
        self.weights = torch.empty(16, inputs, outputs)
        self.products = torch.empty(16, area, outputs)
        self.moved = torch.empty(count, height, width, inputs)
        self.tiles_array, self.products_array = self.tiles.numpy(), self.products.numpy()
        self.moved_array = self.moved.numpy()
        self.pooled_rows = self.pooled_array.reshape(area, outputs)
        self.places = self.places.reshape(area, outputs)


class PooledConvolution(nn.Module):
    """A 3 x 3 convolution, ReLU and a pool of 2 x 2, with the convolution's own parameters.

    What it returns, and what its backward pass needs, lies in memory that the next forward pass takes
    again: there is one backward pass, if any, between two forward ones.

    Parameters
    ----------
    convolution : torch.nn.Conv2d
        Whose parameters these are.
    """

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.weight, self.bias = convolution.weight, convolution.bias
        self.padding = int(convolution.padding[0])
        self._memories: dict[tuple[type[_Memory], torch.Size], _Memory] = {}

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Return the pooled values, shape (N, K, rows, columns), of values (N, C, H, W)."""
        bias = values.new_zeros(len(self.weight)) if self.bias is None else self.bias
        single = values.shape[1] == 1 and not values.requires_grad
        kind = _Memory if single else _TileMemory
        memory = self._memories.get((kind, values.shape))
        if memory is None:
            memory = kind(values, outputs=len(self.weight), padding=self.padding)
            self._memories[kind, values.shape] = memory
        function: Any = _Single if single else _Winograd
        made: torch.Tensor = function.apply(values, self.weight, bias, memory)
        return made


class _Single(torch.autograd.Function):
    """Of one channel, whose gradient nobody asks for."""

    @staticmethod
    def forward(
        ctx: Any, values: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, memory: _Memory
    ) -> torch.Tensor:
        images = values[:, 0].contiguous().numpy()
        kernels = single_kernels(len(weight))
        kernels.forward(
            images,
            weight.detach().view(-1, 9).T.contiguous().numpy(),
            bias.detach().numpy(),
            memory.pooled_array,
            memory.places,
            memory.padding,
        )
        ctx.kernels, ctx.images, ctx.memory = kernels, images, memory
        return memory.pooled.permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        given = gradient.permute(0, 2, 3, 1).contiguous()
        weight, bias = torch.zeros(9, given.shape[3]), torch.zeros(given.shape[3])
        ctx.kernels.backward(
            ctx.images,
            given.numpy(),
            ctx.memory.places,
            weight.numpy(),
            bias.numpy(),
            ctx.memory.padding,
        )
        return None, weight.T.reshape(-1, 1, 3, 3), bias, None


class _Winograd(torch.autograd.Function):
    """Of several channels."""

    @staticmethod
    def forward(
        ctx: Any,
        values: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor,
        memory: _TileMemory,
    ) -> torch.Tensor:
        memory.kernels.spread(
            values.detach().permute(0, 2, 3, 1).contiguous().numpy(),
            memory.tiles_array,
            memory.rows,
            memory.columns,
            memory.padding,
        )
        nine = weight.detach().permute(2, 3, 1, 0).reshape(9, -1)
        torch.mm(_WEIGHTS, nine, out=memory.weights.view(16, -1))
        torch.bmm(memory.tiles, memory.weights, out=memory.products)
        memory.kernels.pool(
            memory.products_array, bias.detach().numpy(), memory.pooled_rows, memory.places
        )
        ctx.memory = memory
        return memory.pooled.permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        memory = ctx.memory
        inputs, outputs = memory.weights.shape[1:]
        bias = torch.zeros(outputs)
        memory.kernels.unpool(
            gradient.permute(0, 2, 3, 1).reshape(-1, outputs).contiguous().numpy(),
            memory.places,
            memory.products_array,
            bias.numpy(),
        )
        moved = torch.bmm(memory.tiles.mT, memory.products).view(16, -1)
        weight = torch.mm(_WEIGHTS.T, moved).view(3, 3, inputs, outputs).permute(3, 2, 0, 1)
        if not ctx.needs_input_grad[0]:
            return None, weight, bias, None
        torch.bmm(memory.products, memory.weights.mT, out=memory.tiles)
        memory.kernels.gather(
            memory.tiles_array, memory.moved_array, memory.rows, memory.columns, memory.padding
        )
        return memory.moved.permute(0, 3, 1, 2), weight, bias, None


def fuse_blocks(model: nn.Module) -> nn.Module | None:
    """Return a copy of a model that computes its blocks as one; None if it has none.

    Parameters
    ----------
    model : torch.nn.Module
        Whose parameters keep their names.
    """
    try:
        traced = fx.symbolic_trace(copy.deepcopy(model))
    except Exception:  # Whatever it does that cannot be traced, it is left to others.
        return None
    modules = dict(traced.named_modules())
    calls = [node.target for node in traced.graph.nodes if node.op == "call_module"]
    found = False
    for node in list(traced.graph.nodes):
        if node.op != "call_module" or calls.count(node.target) != 1:
            continue
        module = modules[str(node.target)]
        if not _is_fitting(module):
            continue
        activation, pool = _only_user(node), None
        if activation is not None:
            pool = _only_user(activation)
        if activation is None or pool is None:
            continue
        # ReLU and taking the largest may change places.
        pair = {_kind(activation, modules), _kind(pool, modules)}
        if pair != {"relu", "pool"}:
            continue
        traced.set_submodule(str(node.target), PooledConvolution(module))
        pool.replace_all_uses_with(node)
        traced.graph.erase_node(pool)
        traced.graph.erase_node(activation)
        found = True
    if not found:
        return None
    traced.recompile()
    names = {name for name, _ in model.named_parameters()}
    return traced if {name for name, _ in traced.named_parameters()} == names else None


def _is_fitting(module: nn.Module) -> bool:
    return (
        type(module) is nn.Conv2d
        and module.kernel_size == (3, 3)
        and module.stride == (1, 1)
        and module.dilation == (1, 1)
        and module.groups == 1
        and module.padding_mode == "zeros"
        and module.padding in [(width, width) for width in range(_MAX_PADDING + 1)]
    )


def _only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _kind(node: fx.Node, modules: dict[str, nn.Module]) -> str | None:
    """Return whether a node is a ReLU or a pool of 2 x 2."""
    target: Any = node.target
    module = modules[str(target)] if node.op == "call_module" else None
    if (type(module) if module is not None else target) in _RELU:
        return "relu"
    if isinstance(module, nn.MaxPool2d):
        named = {name: getattr(module, name) for name in ("kernel_size", "stride", "padding")}
        named |= {name: getattr(module, name) for name in ("dilation", "ceil_mode")}
        named["return_indices"] = module.return_indices
    elif target in _POOL:
        names = ("input", "kernel_size", "stride", "padding", "dilation")
        named = dict(zip(names, node.args, strict=False)) | dict(node.kwargs)
        named.pop("input", None)
    else:
        return None
    usual = {"stride": None, "padding": 0, "dilation": 1, "ceil_mode": False}
    named = {**usual, "return_indices": False, **named}
    fits = (
        named["kernel_size"] in (2, (2, 2))
        and named["stride"] in (None, 2, (2, 2))
        and named["padding"] in (0, (0, 0))
        and named["dilation"] in (1, (1, 1))
        and not named["ceil_mode"]
        and not named["return_indices"]
    )
    return "pool" if fits else None
