"""Every translated operator, and its gradient, in ONNX Runtime against eager torch."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

Check = Callable[..., None]


def values(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, generator=generator)


def positive(*shape: int) -> Tensor:
    return values(*shape).abs() + 0.5


X = values(4, 6)
TINY = torch.tensor([[1e-7, -1e-7, 1e-3, -0.5, 0.9, 3.0]])

ELEMENTWISE = {
    "add": lambda x: x + 2,
    "add scaled": lambda x: torch.add(x, x * x, alpha=3),
    "subtract": lambda x: x - x.mean(),
    "reversed subtract": lambda x: 1 - x,
    "multiply": lambda x: x * x.sum(0),
    "divide": lambda x: x / (x * x + 1),
    "divide a number": lambda x: 1 / (x * x + 1),
    "floor division": lambda x: torch.div(x, 0.3, rounding_mode="floor"),
    "truncating division": lambda x: torch.div(x, 0.3, rounding_mode="trunc"),
    "relu": F.relu,
    "relu6": F.relu6,
    "leaky relu": lambda x: F.leaky_relu(x, 0.2),
    "elu": F.elu,
    "selu": F.selu,
    "celu": F.celu,
    "gelu": F.gelu,
    "gelu tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
    "mish": F.mish,
    "softplus": F.softplus,
    "softsign": F.softsign,
    "hardtanh": F.hardtanh,
    "hardswish": F.hardswish,
    "hardsigmoid": F.hardsigmoid,
    "logsigmoid": F.logsigmoid,
    "tanhshrink": F.tanhshrink,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "exp": torch.exp,
    "sin": torch.sin,
    "cos": torch.cos,
    "atan": torch.atan,
    "erf": torch.erf,
    "abs": torch.abs,
    "sign": torch.sign,
    "floor": torch.floor,
    "ceil": torch.ceil,
    "round": torch.round,
    "negative": torch.neg,
    "square": torch.square,
    "cube": lambda x: x**3,
    "power of a number": lambda x: 2**x,
    "clamp": lambda x: x.clamp(-0.5, 0.7),
    "clamp below": lambda x: x.clamp_min(0.1),
    "clamp to a tensor": lambda x: x.clamp(max=x.mean()),
    "maximum": lambda x: torch.maximum(x, -x),
    "minimum": lambda x: torch.minimum(x, x.flip(0)),
    "where": lambda x: torch.where(x > 0.1, x, x * 0.5),
    "masked fill": lambda x: x.masked_fill(x < 0, -2.0),
    "softmax": lambda x: F.softmax(x, -1),
    "softmax over rows": lambda x: F.softmax(x, 0),
    "log softmax": lambda x: F.log_softmax(x, 1),
    "glu": F.glu,
    "cast and back": lambda x: x * (x > 0).float(),
}


@pytest.mark.parametrize("function", ELEMENTWISE.values(), ids=ELEMENTWISE.keys())
def test_elementwise(function: Callable, check_operator: Check) -> None:
    """Value and gradient are torch's."""
    check_operator(function, X)


POSITIVE = {
    "log": torch.log,
    "sqrt": torch.sqrt,
    "rsqrt": torch.rsqrt,
    "reciprocal": torch.reciprocal,
    "power": lambda x: x**1.7,
    "power of tensors": lambda x: x ** (x * 0.5),
    "log2": torch.log2,
}


@pytest.mark.parametrize("function", POSITIVE.values(), ids=POSITIVE.keys())
def test_positive(function: Callable, check_operator: Check) -> None:
    """Value and gradient are torch's where the function is defined."""
    check_operator(function, positive(3, 5))


@pytest.mark.parametrize("function", [torch.log1p, torch.expm1, F.softplus, F.elu])
def test_near_zero_no_digits_are_lost(function: Callable, check_operator: Check) -> None:
    """Functions that exist for small arguments stay exact there."""
    check_operator(function, TINY)


REDUCTIONS = {
    "sum": torch.sum,
    "sum over rows": lambda x: x.sum(0),
    "sum keeping axes": lambda x: x.sum((0, 2), keepdim=True),
    "mean": torch.mean,
    "mean over an axis": lambda x: x.mean(-1),
    "amax": lambda x: x.amax((1, 2)),
    "amin": lambda x: x.amin(0),
    "max": lambda x: x.max(),
    "max along": lambda x: x.max(1).values,
    "min along": lambda x: x.min(-1, keepdim=True).values,
    "variance": lambda x: x.var(1),
    "standard deviation": lambda x: x.std(),
    "norm": lambda x: x.norm(dim=-1),
    "norm of all": torch.linalg.vector_norm,
    "running sum": lambda x: x.cumsum(1),
    "logsumexp": lambda x: x.logsumexp(-1),
}


@pytest.mark.parametrize("function", REDUCTIONS.values(), ids=REDUCTIONS.keys())
def test_reductions(function: Callable, check_operator: Check) -> None:
    """Value and gradient are torch's."""
    check_operator(function, values(3, 4, 5))


DECISIONS = {
    "argmax": lambda x: x.argmax(-1),
    "argmin of all": torch.argmin,
    "any": lambda x: (x > 1).any(),
    "any along": lambda x: (x > 1).any(1),
    "all along": lambda x: (x > -1).all(0),
    "logic": lambda x: (x > 0) & ~(x > 1) | (x < -1) ^ (x == 0),
    "not equal": lambda x: x != x.round(),
    "greater or equal": lambda x: x >= x.mean(),
    "is nan": lambda x: torch.isnan(x / x),
}


@pytest.mark.parametrize("function", DECISIONS.values(), ids=DECISIONS.keys())
def test_decisions(function: Callable, check_operator: Check) -> None:
    """Results without gradients are torch's."""
    check_operator(function, values(3, 4))


SHAPES = {
    "reshape": lambda x: x.reshape(6, -1) * 2,
    "flatten": lambda x: x.flatten(1) * 2,
    "permute": lambda x: x.permute(2, 0, 1) * 2,
    "transpose and reshape": lambda x: x.transpose(0, 2).reshape(4, -1),
    "unsqueeze and squeeze": lambda x: x.unsqueeze(1).squeeze(1).unsqueeze(-1) * 2,
    "expand": lambda x: x.unsqueeze(0).expand(2, 2, 3, 4) * 2,
    "repeat": lambda x: x.repeat(2, 1, 3),
    "repeat interleave": lambda x: x.repeat_interleave(2, dim=1),
    "cat": lambda x: torch.cat([x, x * 2, x[:, :1]], 1),
    "stack": lambda x: torch.stack([x, -x], 2),
    "slice": lambda x: x[1:, :-1, ::2],
    "slice from the end": lambda x: x[..., -3:],
    "select": lambda x: x[:, 1] + x[:, -1],
    "split": lambda x: x.split(2, -1)[1] * x.split([1, 3], -1)[1][..., :2],
    "chunk": lambda x: x.chunk(2, 2)[0],
    "unbind": lambda x: x.unbind(1)[2],
    "flip": lambda x: x.flip(0, 2),
    "roll": lambda x: x.roll(1, 2),
    "pad": lambda x: F.pad(x, (1, 2, 0, 1), value=0.5),
    "pad negative": lambda x: F.pad(x, (-1, 1)),
    "lower triangle": lambda x: x.tril(),
    "filled": lambda x: x * torch.ones_like(x) + torch.full((4,), 0.5) + torch.zeros(3, 1),
    "counted": lambda x: x * torch.arange(4),
    "a row filled in": lambda x: torch.select_scatter(x, x[:, 0] * 2, 1, 1),
    "a slice filled in": lambda x: torch.slice_scatter(x, x[:, :, :2] * 2, 2, 1, 3),
}


@pytest.mark.parametrize("function", SHAPES.values(), ids=SHAPES.keys())
def test_shapes(function: Callable, check_operator: Check) -> None:
    """Elements end up where torch puts them, and so do their gradients."""
    check_operator(function, values(2, 3, 4))


ROWS = torch.tensor([[0, 2], [1, 1], [2, 0]])
INDEXING = {
    "embedding": lambda x, i: F.embedding(i, x),
    "embedding with padding": lambda x, i: F.embedding(i, x, padding_idx=1),
    "index select": lambda x, i: x.index_select(0, i[:, 0]),
    "index": lambda x, i: x[i],
    "index two axes": lambda x, i: x[i, i.flip(0)],
    "index after a slice": lambda x, i: x[:, i[0]],
    "gather": lambda x, i: x.gather(1, i),
    "gather rows": lambda x, i: x.gather(0, i),
    "scatter": lambda x, i: torch.zeros(3, 4).scatter(1, i, x[:, :2]),
    "scatter a number": lambda x, i: x.scatter(1, i[:, :1], 0.25),
    "scatter add": lambda x, i: torch.zeros(3, 4).scatter_add(1, i, x[:, :2]),
    "index add": lambda x, i: torch.zeros(3, 4).index_add(0, i[:, 1], x),
    "one-hot": lambda x, i: F.one_hot(i[:, 0], 3).float() @ x,
}


@pytest.mark.parametrize("function", INDEXING.values(), ids=INDEXING.keys())
def test_indexing(function: Callable, check_operator: Check) -> None:
    """Reading and adding at positions that are data."""
    check_operator(function, values(3, 4), ROWS)


def test_matrix_products(check_operator: Check) -> None:
    """Plain, transposed, batched, with vectors, and with a bias."""
    check_operator(torch.mm, values(3, 4), values(4, 5))
    check_operator(lambda a, b: a.t() @ b.t(), values(4, 3), values(5, 4))
    check_operator(F.linear, values(3, 4), values(5, 4), values(5))
    check_operator(
        lambda a, b, c: torch.addmm(c, a, b, alpha=0.5, beta=2),
        values(3, 4),
        values(4, 5),
        values(5),
    )
    check_operator(torch.bmm, values(2, 3, 4), values(2, 4, 5))
    check_operator(lambda a, b: a @ b.transpose(1, 2), values(2, 3, 4), values(2, 5, 4))
    check_operator(
        lambda a, b, c: torch.baddbmm(c, a, b, alpha=2),
        values(2, 3, 4),
        values(2, 4, 5),
        values(2, 3, 5),
    )
    check_operator(torch.mv, values(3, 4), values(4))
    check_operator(torch.dot, values(4), values(4) * 2)
    check_operator(
        lambda a, b: torch.einsum("bij,bkj->bik", a, b), values(2, 3, 4), values(2, 5, 4)
    )


CONVOLUTIONS = {
    "plain": ((2, 3, 8, 7), (4, 3, 3, 3), {}),
    "strided": ((2, 3, 8, 7), (4, 3, 3, 3), {"stride": 2, "padding": 1}),
    "dilated": ((2, 3, 9, 9), (4, 3, 3, 3), {"dilation": 2, "padding": 2}),
    "depthwise": ((2, 4, 6, 6), (4, 1, 3, 3), {"groups": 4, "padding": 1}),
    "grouped": ((2, 4, 6, 6), (6, 2, 3, 3), {"groups": 2}),
}


@pytest.mark.parametrize(("x", "w", "options"), CONVOLUTIONS.values(), ids=CONVOLUTIONS.keys())
def test_convolutions(x: tuple, w: tuple, options: dict, check_operator: Check) -> None:
    """Two axes, all gradients."""
    check_operator(
        lambda a, b, c: F.conv2d(a, b, c, **options), values(*x), values(*w), values(w[0])
    )


def test_other_convolutions(check_operator: Check) -> None:
    """One axis, and transposed."""
    check_operator(
        lambda a, b: F.conv1d(a, b, stride=2, padding=2), values(2, 3, 15), values(4, 3, 5)
    )
    check_operator(
        lambda a, b, c: F.conv_transpose2d(a, b, c, stride=2, padding=1, output_padding=1),
        values(2, 3, 4, 4),
        values(3, 5, 3, 3),
        values(5),
    )


POOLING = {
    "max": lambda x: F.max_pool2d(x, 2),
    "max overlapping": lambda x: F.max_pool2d(x, 3, 2, 1),
    "max with a remainder": lambda x: F.max_pool2d(x, 3),
    "max ceil": lambda x: F.max_pool2d(x, 3, 2, ceil_mode=True),
    "average": lambda x: F.avg_pool2d(x, 2),
    "average overlapping": lambda x: F.avg_pool2d(x, 3, 2, 1),
    "average without padding": lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
    "adaptive to one": lambda x: F.adaptive_avg_pool2d(x, 1),
    "adaptive": lambda x: F.adaptive_avg_pool2d(x, (4, 2)),
    "adaptive, unequal": lambda x: F.adaptive_avg_pool2d(x, (3, 5)),
    "max, one axis": lambda x: F.max_pool1d(x[:, :, 0], 2),
    "average, one axis": lambda x: F.avg_pool1d(x[:, :, 0], 2),
    "without batch": lambda x: F.max_pool2d(x[0], 2),
}


@pytest.mark.parametrize("function", POOLING.values(), ids=POOLING.keys())
def test_pooling(function: Callable, check_operator: Check) -> None:
    """Values and gradients, ties included."""
    generator = torch.Generator().manual_seed(0)
    check_operator(function, torch.randint(0, 5, (2, 3, 8, 8), generator=generator).float())


NORMALIZATIONS = {
    "layer": lambda x, w, b: F.layer_norm(x.transpose(1, 2), (4,), w, b),
    "layer without affine": lambda x, w, b: F.layer_norm(x, (4, 6)),
    "group": lambda x, w, b: F.group_norm(x, 2, w, b),
    "instance": lambda x, w, b: F.instance_norm(x, weight=w, bias=b),
    "root mean square": lambda x, w, b: F.rms_norm(x.transpose(1, 2), (4,), w),
    "frozen batch": lambda x, w, b: F.batch_norm(
        x, torch.arange(4.0), torch.arange(1.0, 5.0), w, b, training=False
    ),
    "unit length": lambda x, w, b: F.normalize(x, dim=1),
}


@pytest.mark.parametrize("function", NORMALIZATIONS.values(), ids=NORMALIZATIONS.keys())
def test_normalizations(function: Callable, check_operator: Check) -> None:
    """Values and all gradients."""
    check_operator(function, values(2, 4, 6), values(4), values(4) * 0.5)


LOSSES = {
    "cross entropy": lambda x, c, t: F.cross_entropy(x, c),
    "cross entropy, smoothed": lambda x, c, t: F.cross_entropy(x, c, label_smoothing=0.1),
    "cross entropy, probabilities": lambda x, c, t: F.cross_entropy(x, t.softmax(1)),
    "negative likelihood": lambda x, c, t: F.nll_loss(x.log_softmax(1), c),
    "binary, logits": lambda x, c, t: F.binary_cross_entropy_with_logits(x, t.sigmoid()),
    "binary, weighted": lambda x, c, t: F.binary_cross_entropy_with_logits(
        x, t.sigmoid(), pos_weight=torch.tensor(3.0)
    ),
    "binary": lambda x, c, t: F.binary_cross_entropy(x.sigmoid(), t.sigmoid()),
    "squared": lambda x, c, t: F.mse_loss(x, t),
    "absolute": lambda x, c, t: F.l1_loss(x, t),
    "huber": lambda x, c, t: F.huber_loss(x, t),
    "smooth": lambda x, c, t: F.smooth_l1_loss(x, t),
    "divergence": lambda x, c, t: F.kl_div(x.log_softmax(1), t.softmax(1), reduction="batchmean"),
    "cosine": lambda x, c, t: (1 - F.cosine_similarity(x, t)).mean(),
    "poisson": lambda x, c, t: F.poisson_nll_loss(x, t.abs()),
    "hinge": lambda x, c, t: F.soft_margin_loss(x, t.detach().sign()),
}


@pytest.mark.parametrize("function", LOSSES.values(), ids=LOSSES.keys())
def test_losses(function: Callable, check_operator: Check) -> None:
    """Values and gradients of the usual losses."""
    classes = torch.tensor([0, 3, 2, 1, 3])
    check_operator(function, values(5, 4), classes, values(5, 4).flip(0))


def test_attention(check_operator: Check) -> None:
    """torch's fused attention is traced as the mathematics that it computes."""
    q, k, v = values(2, 2, 5, 4), values(2, 2, 5, 4) * 0.5, values(2, 2, 5, 4).flip(0)
    check_operator(F.scaled_dot_product_attention, q, k, v)
    check_operator(lambda a, b, c: F.scaled_dot_product_attention(a, b, c, is_causal=True), q, k, v)
