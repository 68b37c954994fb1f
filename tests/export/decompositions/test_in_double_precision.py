"""Every decomposition alone, in double precision, against torch and autograd."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.func import vjp
from torch.nn import functional as F  # noqa: N812

from pocketfl_export.decompositions import onnx_table
from pocketfl_export.errors import UnsupportedModelError
from pocketfl_export.tracing import trace

torch.manual_seed(0)
SERIES = torch.randn(2, 3, 7, dtype=torch.float64)
IMAGES = torch.randn(2, 3, 6, 7, dtype=torch.float64)
ROWS = torch.randn(2, 5, dtype=torch.float64)
MATRIX = torch.randn(4, 3, 5, dtype=torch.float64)
WORDS = torch.tensor([[1, 2, 0], [3, 3, 1], [0, 0, 0]])
TABLE = torch.randn(4, 5, dtype=torch.float64)

OPERATORS: dict[str, tuple[Callable[[Tensor], Tensor], Tensor]] = {
    "adaptive max pooling of equal windows": (lambda x: F.adaptive_max_pool2d(x, (3, 7)), IMAGES),
    "adaptive max pooling": (lambda x: F.adaptive_max_pool2d(x, (4, 3)), IMAGES),
    "adaptive max pooling of series": (lambda x: F.adaptive_max_pool1d(x, 3), SERIES),
    "adaptive average pooling to 1, channels last": (
        lambda x: F.adaptive_avg_pool2d(x.to(memory_format=torch.channels_last), 1),
        IMAGES,
    ),
    "average pooling, ceil_mode": (lambda x: F.avg_pool2d(x, 2, ceil_mode=True), IMAGES),
    "average pooling, ceil_mode and padding": (
        lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True),
        IMAGES,
    ),
    "average pooling, ceil_mode, padding not counted": (
        lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True, count_include_pad=False),
        IMAGES,
    ),
    "average pooling, divisor": (lambda x: F.avg_pool2d(x, 2, divisor_override=3), IMAGES),
    "nearest, series": (lambda x: F.interpolate(x, 11), SERIES),
    "nearest, images": (lambda x: F.interpolate(x, scale_factor=(1.5, 2.0)), IMAGES),
    "linear": (lambda x: F.interpolate(x, scale_factor=1.7, mode="linear"), SERIES),
    "bilinear": (lambda x: F.interpolate(x, (9, 4), mode="bilinear"), IMAGES),
    "bilinear, corners": (
        lambda x: F.interpolate(x, (9, 4), mode="bilinear", align_corners=True),
        IMAGES,
    ),
    "replication, series": (lambda x: F.pad(x, (2, 1), mode="replicate"), SERIES),
    "replication, images": (lambda x: F.pad(x, (2, 1, 0, 3), mode="replicate"), IMAGES),
    "circular": (lambda x: F.pad(x, (2, 1, 0, 3), mode="circular"), IMAGES),
    "unfold": (lambda x: x.unfold(2, 3, 2), SERIES),
    "im2col": (lambda x: F.unfold(x, (2, 3), 2, 1, (1, 2)), IMAGES),
    "col2im": (
        lambda x: F.fold(x, (4, 8), (2, 3), padding=(1, 0), stride=(2, 1)),
        torch.randn(2, 6, 18, dtype=torch.float64),
    ),
    "diagonal": (lambda x: x.diagonal(1, 2, 3), IMAGES),
    "diagonal below, first axes": (lambda x: x.diagonal(-1), IMAGES),
    "bilinear layer": (lambda x: F.bilinear(x, x.flip(1), MATRIX.repeat(1, 2, 1)[:, :5]), ROWS),
    "soft shrinkage": (lambda x: F.softshrink(x, 0.3), ROWS),
    "hard shrinkage": (lambda x: F.hardshrink(x, 0.3), ROWS),
    "norm of order 3": (lambda x: torch.linalg.vector_norm(x, 3, 1), ROWS),
    "hypot": (lambda x: torch.hypot(x, x.flip(1)), ROWS),
    "bucketize": (lambda x: x * torch.bucketize(x, torch.tensor([-0.5, 0.0, 0.5]).double()), ROWS),
    "cdist": (lambda x: torch.cdist(x, x.flip(1) + 1), SERIES),
    "bags, sum": (lambda x: F.embedding_bag(WORDS, x, mode="sum"), TABLE),
    "bags, mean": (lambda x: F.embedding_bag(WORDS, x, mode="mean"), TABLE),
    "bags, max": (lambda x: F.embedding_bag(WORDS, x, mode="max"), TABLE),
    "bags, mean, padded": (lambda x: F.embedding_bag(WORDS, x, mode="mean", padding_idx=0), TABLE),
    "bags, max, padded": (lambda x: F.embedding_bag(WORDS, x, mode="max", padding_idx=0), TABLE),
    "bags, weighted": (
        lambda x: F.embedding_bag(WORDS, x, mode="sum", per_sample_weights=x[:3, :3]),
        TABLE,
    ),
}


@pytest.mark.parametrize(("function", "x"), OPERATORS.values(), ids=OPERATORS.keys())
def test_value_and_gradient_are_torchs(function: Callable[[Tensor], Tensor], x: Tensor) -> None:
    """To the last digits of a float64, for a gradient that differs in every element."""

    def with_gradient(x: Tensor, grad: Tensor) -> tuple[Tensor, ...]:
        value, pull = vjp(function, x)
        return value, pull(grad)[0]

    expected = function(x)
    grad = torch.randn(expected.shape, dtype=torch.float64)
    ours = trace(with_gradient, (x, grad), decompositions=onnx_table())(x, grad)
    leaf = x.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(function(leaf), leaf, grad)
    torch.testing.assert_close(ours[0], expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(ours[1], gradient, rtol=1e-12, atol=1e-12)


def test_bags_cut_out_of_one_list_are_refused() -> None:
    """Their lengths are data, and a graph has one shape."""
    with pytest.raises(UnsupportedModelError, match="fixed length"):
        trace(
            lambda table: (F.embedding_bag(torch.arange(4), table, torch.tensor([0, 1])),),
            (TABLE,),
            decompositions=onnx_table(),
        )


def test_other_uses_of_strides_are_refused() -> None:
    """Only the write that replaces everything in order is known to be the source."""

    def write(x: Tensor) -> tuple[Tensor]:
        return (torch.as_strided_scatter(x, x[:, :2], (2, 2), (1, 1)),)

    with pytest.raises(UnsupportedModelError, match="as_strided"):
        trace(write, (ROWS,), decompositions=onnx_table())
