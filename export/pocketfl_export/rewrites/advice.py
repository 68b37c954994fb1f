"""What to write instead of an operator that a device cannot run."""

from __future__ import annotations

import re
from typing import Final

_REWRITES: Final[tuple[tuple[str, str], ...]] = (
    (r"batch_norm", "use torch.nn.GroupNorm or LayerNorm, or call .eval() on the module"),
    (
        r"dropout|bernoulli|rand|normal",
        "remove it, or give the random tensor to the model as an input",
    ),
    (
        r"sort|topk|kthvalue|median|mode",
        "use amax, amin or max(dim), or prepare the order in the features before the model",
    ),
    (
        r"nonzero|masked_select|unique|bincount|histc",
        "choose with torch.where and sum; shapes stay fixed",
    ),
    (r"max_pool3d|avg_pool3d", "pool the axes two at a time with MaxPool2d or AvgPool2d"),
    (r"adaptive_max_pool", "use MaxPool2d with kernel_size = input size / output size"),
    (
        r"fractional_max_pool|max_unpool",
        "use MaxPool2d and torch.nn.Upsample or strided convolutions",
    ),
    (
        r"upsample|grid_sampl|interpolate",
        "use ConvTranspose2d, or repeat elements with expand and reshape",
    ),
    (r"lstm|gru|rnn", "write the cell out with Linear layers and a loop over time"),
    (
        r"scaled_dot_product|attention",
        "write it out: softmax(q @ k.transpose(-2, -1) / sqrt(d)) @ v",
    ),
    (r"embedding_renorm", "leave max_norm out and normalise the rows in forward with F.normalize"),
    (r"embedding_bag", "use torch.nn.Embedding and sum or average its rows"),
    (r"fft|stft", "compute spectra in the features before the model"),
    (r"linalg|inverse|cholesky|svd|eig|det", "write it out in products and sums of matrices"),
    (r"complex|view_as_real", "keep real and imaginary parts as two real tensors"),
    (r"cumprod|logcumsumexp|cummax|cummin", "use cumsum, on logarithms where products are needed"),
    (r"col2im|im2col|unfold|fold", "use Conv1d or Conv2d, or slices and torch.stack"),
    (
        r"atan2|lgamma|digamma|erfinv|polygamma",
        "use a composition of exp, log, tanh, erf and powers",
    ),
    (
        r"silu|mish|swish",
        "write x * torch.sigmoid(x), or x * torch.tanh(torch.nn.functional.softplus(x))",
    ),
    (r"cdist|pairwise", "write the squared distance out: x^2 - 2 x y + y^2 by a matrix product"),
    (
        r"bucketize|searchsorted",
        "compare with the boundaries and sum, or use a `buckets` transform",
    ),
)

GENERAL_REWRITE: Final = (
    "write it with elementwise arithmetic, matrix products, reductions, slices, cat, where, gather or "
    "convolutions"
)


def rewrite_for(operator: str) -> str:
    """Return the rewrite for an operator, such as ``aten.topk.default``."""
    for pattern, rewrite in _REWRITES:
        if re.search(pattern, operator):
            return rewrite
    return GENERAL_REWRITE
