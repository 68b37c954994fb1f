"""Operators and their gradients on ExecuTorch against eager torch.

The first table holds those that a stock export computes wrongly, silently or not at all; the second,
which takes minutes to compile, the everyday ones.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from .conftest import Operator, run_operators

_GENERATOR = torch.Generator().manual_seed(0)


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, generator=_GENERATOR)


INDICES = torch.randint(0, 7, (4, 3), generator=_GENERATOR)
CLASSES = torch.tensor([1, 0, 5, 2])
ONES = torch.ones(4, 6)

PITFALLS: dict[str, Operator] = {
    # The portable gradient does not clear its output.
    "max_pool2d": (lambda x: F.max_pool2d(x, 2), [draw(2, 3, 6, 4)]),
    "max_pool2d, overlapping": (lambda x: F.max_pool2d(x, 3, 2, 1), [draw(2, 2, 6, 6)]),
    "max_pool2d, ragged": (lambda x: F.max_pool2d(x, 2), [draw(2, 2, 7, 5)]),
    # XNNPACK computes the exact form whichever is asked for.
    "gelu, tanh": (lambda x: F.gelu(x, approximate="tanh"), [draw(4, 6)]),
    # No portable gradient.
    "avg_pool2d, overlapping": (lambda x: F.avg_pool2d(x, 3, 2, 1), [draw(2, 2, 6, 6)]),
    "adaptive_avg_pool2d, uneven": (lambda x: F.adaptive_avg_pool2d(x, 4), [draw(2, 2, 6, 6)]),
    "conv1d": (lambda x, w, b: F.conv1d(x, w, b, 2, 2), [draw(2, 3, 11), draw(4, 3, 5), draw(4)]),
    "silu": (F.silu, [draw(4, 6)]),
    # XNNPACK takes the weights for constants.
    "conv2d": (
        lambda x, w, b: F.conv2d(x, w, b, 2, 1),
        [draw(2, 3, 6, 6), draw(4, 3, 3, 3), draw(4)],
    ),
    # Its gradient pads by negative amounts.
    "pad": (lambda x: F.pad(x, (1, 2)), [draw(4, 6)]),
    "pad and crop": (lambda x: F.pad(x, (1, -2, -1, 1)), [draw(4, 6)]),
    # No kernel for its gradient.
    "embedding": (lambda table: F.embedding(INDICES, table), [draw(7, 5)]),
}

EVERYDAY: dict[str, Operator] = {
    "relu": (F.relu, [draw(4, 6)]),
    "gelu": (F.gelu, [draw(4, 6)]),
    "mish": (F.mish, [draw(4, 6)]),
    "elu": (F.elu, [draw(4, 6)]),
    "leaky_relu": (F.leaky_relu, [draw(4, 6)]),
    "hardtanh": (F.hardtanh, [2 * draw(4, 6)]),
    "hardswish": (F.hardswish, [3 * draw(4, 6)]),
    "softplus": (F.softplus, [draw(4, 6)]),
    "prelu": (F.prelu, [draw(4, 6), draw(6)]),
    "glu": (F.glu, [draw(4, 6)]),
    "softmax": (lambda x: F.softmax(x, -1), [draw(4, 6)]),
    "softmax over rows": (lambda x: F.softmax(x, 0), [draw(4, 6)]),
    "log_softmax": (lambda x: F.log_softmax(x, -1), [draw(4, 6)]),
    "layer_norm": (lambda x, w, b: F.layer_norm(x, (6,), w, b), [draw(4, 6), draw(6), draw(6)]),
    "group_norm": (
        lambda x, w, b: F.group_norm(x, 2, w, b),
        [draw(3, 4, 5, 5), draw(4), draw(4)],
    ),
    "rms_norm": (lambda x, w: F.rms_norm(x, (6,), w), [draw(4, 6), draw(6)]),
    "conv2d, depthwise": (
        lambda x, w: F.conv2d(x, w, None, 2, 1, 1, 4),
        [draw(2, 4, 7, 7), draw(4, 1, 3, 3)],
    ),
    "conv2d, grouped": (
        lambda x, w: F.conv2d(x, w, groups=2),
        [draw(2, 4, 5, 5), draw(6, 2, 3, 3)],
    ),
    "conv_transpose2d": (
        lambda x, w: F.conv_transpose2d(x, w, None, 2, 0, 1),
        [draw(2, 3, 4, 4), draw(3, 2, 3, 3)],
    ),
    "avg_pool2d": (lambda x: F.avg_pool2d(x, 2), [draw(2, 3, 6, 4)]),
    "scaled_dot_product_attention": (
        F.scaled_dot_product_attention,
        [draw(2, 2, 5, 4), draw(2, 2, 5, 4), draw(2, 2, 5, 4)],
    ),
    "cross_entropy": (lambda x: F.cross_entropy(x, CLASSES), [draw(4, 6)]),
    "cross_entropy, smoothed": (
        lambda x: F.cross_entropy(x, CLASSES, label_smoothing=0.1),
        [draw(4, 6)],
    ),
    "binary_cross_entropy_with_logits": (
        lambda x: F.binary_cross_entropy_with_logits(x, ONES[0]),
        [draw(6)],
    ),
    "huber_loss": (lambda x: F.huber_loss(x, ONES), [draw(4, 6)]),
    "cosine_similarity": (F.cosine_similarity, [draw(4, 6), draw(4, 6)]),
    "amax": (lambda x: x.amax(1), [draw(4, 6)]),
    "logsumexp": (lambda x: x.logsumexp(1), [draw(4, 6)]),
    "cumsum": (lambda x: x.cumsum(1), [draw(4, 6)]),
    "where": (lambda x, y: torch.where(x > 0, x * y, y), [draw(4, 6), draw(4, 6)]),
    "cat": (lambda x, y: torch.cat([x, y, x], 1), [draw(4, 3), draw(4, 2)]),
    "strided slice": (lambda x: x[:, 1:5:2], [draw(4, 6)]),
    "gather": (lambda x: x.gather(1, CLASSES[:, None]), [draw(4, 6)]),
    "std": (lambda x: x.std(1), [draw(4, 6)]),
    "mean of an image": (lambda x: x.mean((2, 3)), [draw(2, 3, 4, 4)]),
    "batched product": (torch.matmul, [draw(2, 2, 3, 4), draw(2, 2, 4, 3)]),
    "power": (lambda x: x.abs() ** 2.5, [draw(4, 6)]),
    "division": (lambda x, y: x / (y * y + 1), [draw(4, 6), draw(4, 6)]),
}

Results = dict[str, list[tuple[Tensor, Tensor]]]


@pytest.fixture(scope="module")
def pitfalls() -> Results:
    return run_operators(PITFALLS)


@pytest.fixture(scope="module")
def everyday() -> Results:
    return run_operators(EVERYDAY)


def assert_equal(pairs: list[tuple[Tensor, Tensor]]) -> None:
    for found, expected in pairs:
        scale = max(1.0, float(expected.abs().max()))
        torch.testing.assert_close(found / scale, expected / scale, atol=2e-6, rtol=0)


@pytest.mark.parametrize("name", PITFALLS)
def test_what_a_stock_export_gets_wrong(pitfalls: Results, name: str) -> None:
    """Value and gradients equal eager torch's."""
    assert_equal(pitfalls[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", EVERYDAY)
def test_everyday_operators(everyday: Results, name: str) -> None:
    """Value and gradients equal eager torch's."""
    assert_equal(everyday[name])
