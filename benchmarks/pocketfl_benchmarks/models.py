"""The compact models that every figure is measured on, written as an app's modeller would write them.

Each factory returns ``(model, loss, example_inputs, example_target)``, so its name is what
``pocketfl export check pocketfl_benchmarks.models:mlp`` takes. Weights and batches come from fixed
seeds and leave the caller's random state alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

BATCH: Final = 16

Loss: TypeAlias = Callable[[Tensor, Tensor], Tensor]
Problem: TypeAlias = tuple[nn.Module, Loss, dict[str, Tensor], Tensor]


class Mlp(nn.Module):
    """Two layers over a flattened 28 x 28 image."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 10))

    def forward(self, image: Tensor) -> Tensor:
        """Return the logits of ten classes."""
        logits: Tensor = self.layers(image)
        return logits


class Cnn(nn.Module):
    """Two convolutions and two dense layers over a 28 x 28 image, at 7 x 7 after down-sampling."""

    def __init__(self, pool: type[nn.MaxPool2d] | type[nn.AvgPool2d] | None) -> None:
        super().__init__()
        stride = 2 if pool is None else 1

        def block(channels_in: int, channels_out: int) -> nn.Sequential:
            layers: list[nn.Module] = [
                nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1),
                nn.ReLU(),
            ]
            if pool is not None:
                layers.append(pool(2))
            return nn.Sequential(*layers)

        self.features = nn.Sequential(block(1, 16), block(16, 32))
        self.head = nn.Sequential(
            nn.Flatten(), nn.Linear(32 * 7 * 7, 32), nn.ReLU(), nn.Linear(32, 10)
        )

    def forward(self, image: Tensor) -> Tensor:
        """Return the logits of ten classes."""
        logits: Tensor = self.head(self.features(image))
        return logits


class MotionConvolution(nn.Module):
    """One-dimensional convolutions over 128 samples of six motion sensors, for six activities."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv1d(6, 16, 5, stride=2, padding=2),
            nn.ReLU(),
            nn.Conv1d(16, 32, 5, stride=2, padding=2),
            nn.ReLU(),
            nn.MaxPool1d(2),
            nn.Flatten(),
            nn.Linear(32 * 16, 32),
            nn.ReLU(),
            nn.Linear(32, 6),
        )

    def forward(self, motion: Tensor) -> Tensor:
        """Return the logits of six activities."""
        logits: Tensor = self.layers(motion)
        return logits


class ClickModel(nn.Module):
    """Embeddings, a dense tower and their pairwise products (DLRM, arXiv 1906.00091)."""

    VOCABULARIES: Final = (1000, 500, 200, 50)

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        tables = [nn.Embedding(n, width) for n in self.VOCABULARIES]
        for table in tables:
            # Torch's own entries of size 1 would drown what the tower learns in products of chance.
            nn.init.normal_(table.weight, std=width**-0.5)
        self.tables = nn.ModuleList(tables)
        self.bottom = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, width), nn.ReLU())
        pairs = (len(self.VOCABULARIES) + 1) ** 2
        self.top = nn.Sequential(nn.Linear(width + pairs, 32), nn.ReLU(), nn.Linear(32, 1))

    def forward(self, dense: Tensor, categories: Tensor) -> Tensor:
        """Return one logit per example."""
        tower = self.bottom(dense)
        vectors = [tower] + [table(categories[:, i]) for i, table in enumerate(self.tables)]
        stacked = torch.stack(vectors, dim=1)
        products = torch.bmm(stacked, stacked.transpose(1, 2)).flatten(1)
        logits: Tensor = self.top(torch.cat([tower, products], dim=1))
        return logits.squeeze(1)


class NextWordGru(nn.Module):
    """A recurrent next-word model: 20 words in, the next one out."""

    def __init__(self, words: int = 500, width: int = 32, hidden: int = 64) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, width)
        self.gru = nn.GRU(width, hidden, batch_first=True)
        self.head = nn.Linear(hidden, words)

    def forward(self, words: Tensor) -> Tensor:
        """Return the logits of the next word."""
        states, _ = self.gru(self.embedding(words))
        logits: Tensor = self.head(states[:, -1])
        return logits


class WordTransformer(nn.Module):
    """One encoder layer over 16 words of a small vocabulary, and what a subclass makes of it.

    Parameters
    ----------
    outputs : int
        Of the last layer.
    """

    WORDS: Final = 300
    LENGTH: Final = 16

    def __init__(self, outputs: int, *, width: int = 32) -> None:
        super().__init__()
        self.embedding = nn.Embedding(self.WORDS, width)
        self.position = nn.Parameter(0.02 * torch.randn(self.LENGTH, width))
        self.encoder = nn.TransformerEncoderLayer(
            width,
            nhead=2,
            dim_feedforward=4 * width,
            dropout=0.0,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        self.head = nn.Linear(width, outputs)

    def states(self, words: Tensor) -> Tensor:
        """Return what the encoder makes of each word."""
        encoded: Tensor = self.encoder(self.embedding(words) + self.position)
        return encoded


class NextWordTransformer(WordTransformer):
    """The next word, by what the last one has seen."""

    def __init__(self) -> None:
        super().__init__(self.WORDS)

    def forward(self, words: Tensor) -> Tensor:
        """Return the logits of the next word."""
        logits: Tensor = self.head(self.states(words)[:, -1])
        return logits


def _seeded(
    make: Callable[[], nn.Module], loss: Loss, batch: Callable[[], tuple[dict[str, Tensor], Tensor]]
) -> Problem:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = make()
        inputs, target = batch()
    return model, loss, inputs, target


def _images() -> tuple[dict[str, Tensor], Tensor]:
    return {"image": torch.randn(BATCH, 1, 28, 28)}, torch.randint(0, 10, (BATCH,))


def _words(vocabulary: int, length: int) -> tuple[dict[str, Tensor], Tensor]:
    words = torch.randint(0, vocabulary, (BATCH, length))
    return {"words": words}, torch.randint(0, vocabulary, (BATCH,))


def mlp() -> Problem:
    """Image classification by two dense layers; 50,890 parameters."""
    return _seeded(Mlp, F.cross_entropy, _images)


def cnn_strided() -> Problem:
    """Image classification with strided convolutions; 55,338 parameters."""
    return _seeded(lambda: Cnn(None), F.cross_entropy, _images)


def cnn_avg_pool() -> Problem:
    """Image classification with average pooling; 55,338 parameters."""
    return _seeded(lambda: Cnn(nn.AvgPool2d), F.cross_entropy, _images)


def cnn_max_pool() -> Problem:
    """Image classification with max pooling; 55,338 parameters."""
    return _seeded(lambda: Cnn(nn.MaxPool2d), F.cross_entropy, _images)


def conv1d() -> Problem:
    """Activity recognition from motion sensors; 19,702 parameters."""

    def batch() -> tuple[dict[str, Tensor], Tensor]:
        return {"motion": torch.randn(BATCH, 6, 128)}, torch.randint(0, 6, (BATCH,))

    return _seeded(MotionConvolution, F.cross_entropy, batch)


def click() -> Problem:
    """Click prediction from dense and categorical features; 30,193 parameters."""

    def batch() -> tuple[dict[str, Tensor], Tensor]:
        categories = [torch.randint(0, n, (BATCH,)) for n in ClickModel.VOCABULARIES]
        inputs = {"dense": torch.randn(BATCH, 8), "categories": torch.stack(categories, dim=1)}
        return inputs, torch.randint(0, 2, (BATCH,)).float()

    return _seeded(ClickModel, F.binary_cross_entropy_with_logits, batch)


def gru() -> Problem:
    """Next-word prediction by a GRU over 20 words; 67,316 parameters."""
    return _seeded(NextWordGru, F.cross_entropy, lambda: _words(500, 20))


def transformer() -> Problem:
    """Next-word prediction by one transformer layer over 16 words; 32,716 parameters."""
    return _seeded(NextWordTransformer, F.cross_entropy, lambda: _words(300, 16))


MODELS: Final[dict[str, Callable[[], Problem]]] = {
    "mlp": mlp,
    "cnn_strided": cnn_strided,
    "cnn_avg_pool": cnn_avg_pool,
    "cnn_max_pool": cnn_max_pool,
    "conv1d": conv1d,
    "click": click,
    "gru": gru,
    "transformer": transformer,
}
