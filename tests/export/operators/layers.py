"""Layers and activations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from .problems import (
    CLASSES,
    IMAGES,
    ROWS,
    SERIES,
    STEPS,
    VECTORS,
    WORDS,
    Forward,
    Make,
    add,
    add_function,
    add_layer,
    materialised,
)

# Layers -------------------------------------------------------------------------------------------

add_layer("Dense", "Linear", lambda: nn.Linear(8, 5), VECTORS)
add_layer("Dense", "Linear without bias", lambda: nn.Linear(8, 5, bias=False), VECTORS)
add(
    "Dense",
    "Bilinear",
    lambda: Forward(
        lambda self, x: self.layer(x, self.body(x)),
        body=nn.Linear(6, 4),
        layer=nn.Bilinear(6, 4, CLASSES),
    ),
    VECTORS,
)

for _n, _k in {
    "Conv1d": {},
    "Conv1d strided, padded": {"stride": 2, "padding": 2},
    "Conv1d dilated": {"dilation": 2},
    "Conv1d depthwise": {"groups": 4, "padding": 1},
    "Conv1d grouped": {"groups": 2},
    "Conv1d padding same": {"padding": "same"},
    "Conv1d circular padding": {"padding": 1, "padding_mode": "circular"},
}.items():
    add_layer("Convolution", _n, lambda k=_k: nn.Conv1d(4, 8, 3, **k), SERIES)
for _n, _k in {
    "Conv2d": {},
    "Conv2d 1 x 1": {"kernel_size": 1},
    "Conv2d strided, padded": {"stride": 2, "padding": 1},
    "Conv2d dilated": {"dilation": 2},
    "Conv2d depthwise": {"groups": 4, "padding": 1},
    "Conv2d depthwise strided": {"groups": 4, "padding": 1, "stride": 2},
    "Conv2d depthwise, two per channel": {"groups": 4},
    "Conv2d grouped": {"groups": 2},
    "Conv2d grouped strided dilated": {"groups": 2, "stride": 2, "dilation": 2, "padding": 2},
    "Conv2d oblong": {"kernel_size": (3, 2), "stride": (1, 2), "padding": (0, 1)},
    "Conv2d without bias": {"bias": False},
    "Conv2d reflect padding": {"padding": 1, "padding_mode": "reflect"},
}.items():
    _width = 4 if _n.startswith("Conv2d depthwise") and "two" not in _n else 8
    add_layer(
        "Convolution", _n, lambda k=_k, w=_width: nn.Conv2d(4, w, **{"kernel_size": 3, **k}), IMAGES
    )
add_layer("Convolution", "ConvTranspose1d", lambda: nn.ConvTranspose1d(4, 3, 3, 2, 1), SERIES)
add_layer("Convolution", "ConvTranspose2d", lambda: nn.ConvTranspose2d(4, 3, 3, 2, 1, 1), IMAGES)
add(
    "Convolution",
    "Conv3d",
    materialised(
        lambda: nn.Sequential(
            nn.Conv3d(2, 3, 2, padding=1), nn.ReLU(), nn.Flatten(), nn.LazyLinear(CLASSES)
        ),
        IMAGES.reshape(ROWS, 2, 2, 8, 9),
    ),
    IMAGES.reshape(ROWS, 2, 2, 8, 9),
)

for _n, _m in {
    "MaxPool1d": lambda: nn.MaxPool1d(3),
    "MaxPool1d overlapping": lambda: nn.MaxPool1d(3, 2, 1),
    "AvgPool1d": lambda: nn.AvgPool1d(3),
    "AvgPool1d overlapping": lambda: nn.AvgPool1d(3, 1, 1),
    "AdaptiveAvgPool1d": lambda: nn.AdaptiveAvgPool1d(1),
    "AdaptiveAvgPool1d unequal windows": lambda: nn.AdaptiveAvgPool1d(4),
    "AdaptiveMaxPool1d": lambda: nn.AdaptiveMaxPool1d(1),
    "LPPool1d": lambda: nn.LPPool1d(2, 3),
}.items():
    add_layer("Pooling", _n, _m, SERIES)
for _n, _m in {
    "MaxPool2d": lambda: nn.MaxPool2d(2),
    "MaxPool2d overlapping": lambda: nn.MaxPool2d(3, 2, 1),
    "MaxPool2d dilated": lambda: nn.MaxPool2d(2, 1, dilation=2),
    "MaxPool2d ceil_mode": lambda: nn.MaxPool2d(2, ceil_mode=True),
    "AvgPool2d": lambda: nn.AvgPool2d(2),
    "AvgPool2d overlapping": lambda: nn.AvgPool2d(3, 2, 1),
    "AvgPool2d without padding in the count": lambda: nn.AvgPool2d(
        3, 2, 1, count_include_pad=False
    ),
    "AvgPool2d ceil_mode": lambda: nn.AvgPool2d(2, ceil_mode=True),
    "AvgPool2d divisor_override": lambda: nn.AvgPool2d(2, divisor_override=3),
    "AdaptiveAvgPool2d to 1": lambda: nn.AdaptiveAvgPool2d(1),
    "AdaptiveAvgPool2d unequal windows": lambda: nn.AdaptiveAvgPool2d((3, 2)),
    "AdaptiveMaxPool2d to 1": lambda: nn.AdaptiveMaxPool2d(1),
    "AdaptiveMaxPool2d unequal windows": lambda: nn.AdaptiveMaxPool2d((3, 2)),
    "Upsample nearest": lambda: nn.Upsample(scale_factor=2),
    "Upsample bilinear": lambda: nn.Upsample(scale_factor=2, mode="bilinear"),
    "PixelShuffle": lambda: nn.PixelShuffle(2),
    "ZeroPad2d": lambda: nn.ZeroPad2d(1),
    "ReflectionPad2d": lambda: nn.ReflectionPad2d(1),
    "ReplicationPad2d": lambda: nn.ReplicationPad2d(1),
}.items():
    add_layer("Pooling", _n, _m, IMAGES)

for _n, _m, _i in (
    ("LayerNorm", lambda: nn.LayerNorm(8), VECTORS),
    ("LayerNorm without parameters", lambda: nn.LayerNorm(8, elementwise_affine=False), VECTORS),
    ("RMSNorm", lambda: nn.RMSNorm(8), VECTORS),
    ("GroupNorm", lambda: nn.GroupNorm(2, 4), IMAGES),
    ("GroupNorm over series", lambda: nn.GroupNorm(2, 4), SERIES),
    ("InstanceNorm2d", lambda: nn.InstanceNorm2d(4, affine=True), IMAGES),
    ("LocalResponseNorm", lambda: nn.LocalResponseNorm(2), IMAGES),
    ("BatchNorm1d frozen", lambda: nn.BatchNorm1d(8).eval(), VECTORS),
    ("BatchNorm2d frozen", lambda: nn.BatchNorm2d(4).eval(), IMAGES),
    ("BatchNorm2d in train mode", lambda: nn.BatchNorm2d(4), IMAGES),
):
    add_layer("Normalisation", _n, _m, _i)


def _words(function: Callable[..., Tensor], **modules: Any) -> Make:
    return lambda: Forward(function, **{name: make() for name, make in modules.items()})


_head = lambda width: lambda: nn.Linear(width, CLASSES)  # noqa: E731
add(
    "Embedding",
    "Embedding",
    _words(
        lambda self, x: self.head(self.table(x).mean(1)),
        table=lambda: nn.Embedding(12, 8),
        head=_head(8),
    ),
    WORDS,
)
add(
    "Embedding",
    "Embedding padding_idx",
    _words(
        lambda self, x: self.head(self.table(x).mean(1)),
        table=lambda: nn.Embedding(12, 8, padding_idx=0),
        head=_head(8),
    ),
    WORDS,
)
add(
    "Embedding",
    "Embedding max_norm",
    _words(
        lambda self, x: self.head(self.table(x).mean(1)),
        table=lambda: nn.Embedding(12, 8, max_norm=1.0),
        head=_head(8),
    ),
    WORDS,
)
add(
    "Embedding",
    "Embedding scale_grad_by_freq",
    _words(
        lambda self, x: self.head(self.table(x).mean(1)),
        table=lambda: nn.Embedding(12, 8, scale_grad_by_freq=True),
        head=_head(8),
    ),
    WORDS,
)
for _mode in ("sum", "mean", "max"):
    add(
        "Embedding",
        f"EmbeddingBag {_mode}",
        _words(
            lambda self, x: self.head(self.table(x)),
            table=lambda m=_mode: nn.EmbeddingBag(12, 8, mode=m),
            head=_head(8),
        ),
        WORDS,
    )
add(
    "Embedding",
    "EmbeddingBag mean padding_idx",
    _words(
        lambda self, x: self.head(self.table(x)),
        table=lambda: nn.EmbeddingBag(12, 8, mode="mean", padding_idx=0),
        head=_head(8),
    ),
    WORDS,
)
add(
    "Embedding",
    "one_hot",
    _words(lambda self, x: self.head(F.one_hot(x, 12).float().mean(1)), head=_head(12)),
    WORDS,
)

SHORT = STEPS[:, :3]
for _kind, _n, _k in (
    ("RNN", "", {}),
    ("GRU", "", {}),
    ("GRU", ", two layers", {"num_layers": 2}),
    ("GRU", ", two layers with dropout", {"num_layers": 2, "dropout": 0.3}),
    ("LSTM", "", {}),
    ("LSTM", ", bidirectional", {"bidirectional": True}),
):
    add(
        "Recurrent",
        f"{_kind}{_n}",
        _words(
            lambda self, x: self.head(self.cell(x)[0][:, -1]),
            cell=lambda kind=_kind, k=_k: getattr(nn, kind)(8, 6, batch_first=True, **k),
            head=_head(12 if _k.get("bidirectional") else 6),
        ),
        SHORT,
    )
add(
    "Recurrent",
    "GRUCell in a loop",
    _words(
        lambda self, x: self.head(_loop(self.cell, x)), cell=lambda: nn.GRUCell(8, 6), head=_head(6)
    ),
    SHORT,
)


def _loop(cell: nn.Module, x: Tensor) -> Tensor:
    state = torch.zeros(x.shape[0], 6)
    for step in range(x.shape[1]):
        state = cell(x[:, step], state)
    return state


CAUSAL = torch.triu(torch.full((5, 5), float("-inf")), 1)
add(
    "Attention",
    "scaled_dot_product_attention",
    _words(
        lambda self, x: self.head(F.scaled_dot_product_attention(self.q(x), self.k(x), x).mean(1)),
        q=lambda: nn.Linear(8, 8),
        k=lambda: nn.Linear(8, 8),
        head=_head(8),
    ),
    STEPS,
)
add(
    "Attention",
    "scaled_dot_product_attention causal",
    _words(
        lambda self, x: self.head(
            F.scaled_dot_product_attention(self.q(x), self.k(x), x, is_causal=True).mean(1)
        ),
        q=lambda: nn.Linear(8, 8),
        k=lambda: nn.Linear(8, 8),
        head=_head(8),
    ),
    STEPS,
)
add(
    "Attention",
    "MultiheadAttention",
    _words(
        lambda self, x: self.head(self.attention(x, x, x)[0].mean(1)),
        attention=lambda: nn.MultiheadAttention(8, 2, batch_first=True),
        head=_head(8),
    ),
    STEPS,
)
add(
    "Attention",
    "MultiheadAttention causal mask",
    _words(
        lambda self, x: self.head(
            self.attention(x, x, x, attn_mask=CAUSAL, need_weights=False)[0].mean(1)
        ),
        attention=lambda: nn.MultiheadAttention(8, 2, batch_first=True),
        head=_head(8),
    ),
    STEPS,
)
add(
    "Attention",
    "MultiheadAttention padding mask",
    _words(
        lambda self, x: self.head(
            self.attention(x, x, x, key_padding_mask=x[:, :, 0] > 1.0)[0].mean(1)
        ),
        attention=lambda: nn.MultiheadAttention(8, 2, batch_first=True),
        head=_head(8),
    ),
    STEPS,
)
add(
    "Attention",
    "MultiheadAttention dropout",
    _words(
        lambda self, x: self.head(self.attention(x, x, x)[0].mean(1)),
        attention=lambda: nn.MultiheadAttention(8, 2, batch_first=True, dropout=0.2),
        head=_head(8),
    ),
    STEPS,
)
add(
    "Attention",
    "TransformerEncoderLayer",
    _words(
        lambda self, x: self.head(self.layer(x).mean(1)),
        layer=lambda: nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True),
        head=_head(8),
    ),
    STEPS,
)
add(
    "Attention",
    "TransformerEncoderLayer norm_first gelu",
    _words(
        lambda self, x: self.head(self.layer(x).mean(1)),
        layer=lambda: nn.TransformerEncoderLayer(
            8, 2, 16, dropout=0.0, batch_first=True, norm_first=True, activation="gelu"
        ),
        head=_head(8),
    ),
    STEPS,
)
add(
    "Attention",
    "TransformerEncoderLayer dropout",
    _words(
        lambda self, x: self.head(self.layer(x).mean(1)),
        layer=lambda: nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True),
        head=_head(8),
    ),
    STEPS,
)
add(
    "Attention",
    "TransformerDecoderLayer",
    _words(
        lambda self, x: self.head(self.layer(x, x).mean(1)),
        layer=lambda: nn.TransformerDecoderLayer(8, 2, 16, dropout=0.0, batch_first=True),
        head=_head(8),
    ),
    STEPS,
)

for _n, _m, _i in (
    ("Dropout", lambda: nn.Dropout(0.4), VECTORS),
    ("Dropout1d", lambda: nn.Dropout1d(0.4), SERIES),
    ("Dropout2d", lambda: nn.Dropout2d(0.4), IMAGES),
    ("AlphaDropout", lambda: nn.AlphaDropout(0.4), VECTORS),
    ("FeatureAlphaDropout", lambda: nn.FeatureAlphaDropout(0.4), IMAGES),
):
    add_layer("Dropout", _n, _m, _i)
add_function("Dropout", "functional.dropout", lambda x: F.dropout(x, 0.3), VECTORS)
add_function("Dropout", "random noise", lambda x: x + 0.1 * torch.randn_like(x), VECTORS)

for _a in (
    nn.ReLU(),
    nn.LeakyReLU(),
    nn.PReLU(),
    nn.RReLU().eval(),
    nn.ReLU6(),
    nn.ELU(),
    nn.CELU(),
    nn.SELU(),
    nn.GELU(),
    nn.GELU("tanh"),
    nn.SiLU(),
    nn.Mish(),
    nn.Sigmoid(),
    nn.LogSigmoid(),
    nn.Tanh(),
    nn.Hardtanh(),
    nn.Hardswish(),
    nn.Hardsigmoid(),
    nn.Softplus(),
    nn.Softplus(2.0, 3.0),
    nn.Softsign(),
    nn.Tanhshrink(),
    nn.Softshrink(),
    nn.Hardshrink(),
    nn.Threshold(0.1, -1.0),
    nn.Softmax(1),
    nn.Softmin(1),
    nn.LogSoftmax(1),
    nn.GLU(1),
):
    add_layer("Activation", repr(_a), lambda a=_a: a, VECTORS)
