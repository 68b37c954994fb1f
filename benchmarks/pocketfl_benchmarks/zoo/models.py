"""Ten compact models of the kinds that apps train, each with data from which it can learn.

The data that timings and 8 bits use are made up from fixed seeds: every class has a template of its own
and an example is a noisy copy, so that a few hundred steps give a model whose decisions mean something
when they are compared between float32 and 8 bits. What a step costs does not depend on the values; what
a model learns does, so those for which there are public data learn from them, too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from pocketfl_benchmarks.models import (
    ClickModel,
    Loss,
    Mlp,
    MotionConvolution,
    WordTransformer,
)

Batch = tuple[dict[str, Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class RealTask:
    """Real data of the kind that a model is for.

    Attributes
    ----------
    data : str
        Name in :data:`pocketfl_benchmarks.zoo.quality.SOURCES`.
    learning_rate : float
        With which that many steps of plain SGD learn something.
    steps : int
        Of one batch each.
    """

    data: str
    learning_rate: float
    steps: int = 300


@dataclass(frozen=True, kw_only=True)
class ZooModel:
    """One model of the zoo.

    Attributes
    ----------
    name : str
        As the figures call it.
    about : str
        One line.
    make : callable
        Makes the model, from torch's present random state.
    loss : callable
        ``loss(outputs, target)``.
    draw : callable
        ``draw(rows, generator)`` gives a batch.
    learning_rate : float
        With which a few hundred steps of SGD with momentum learn something of the made-up data.
    real : RealTask or None
        What it learns besides, where there are real data for it.
    """

    name: str
    about: str
    make: Callable[[], nn.Module]
    loss: Loss
    draw: Callable[[int, torch.Generator], Batch]
    learning_rate: float = 0.05
    real: RealTask | None = None


class LogisticRegression(nn.Module):
    """One layer over hand-made features."""

    def __init__(self, features: int = 128, classes: int = 6) -> None:
        super().__init__()
        self.layer = nn.Linear(features, classes)

    def forward(self, features: Tensor) -> Tensor:
        """Return the logits of the classes."""
        logits: Tensor = self.layer(features)
        return logits


class KeywordNet(nn.Module):
    """Depthwise-separable convolutions over a spectrogram, as in "Hello Edge" (arXiv 1711.07128).

    Group normalisation stands where the paper has batch normalisation.
    """

    def __init__(self, channels: int = 32, words: int = 12) -> None:
        super().__init__()

        def block() -> list[nn.Module]:
            return [
                nn.Conv2d(channels, channels, 3, padding=1, groups=channels),
                nn.GroupNorm(4, channels),
                nn.ReLU(),
                nn.Conv2d(channels, channels, 1),
                nn.GroupNorm(4, channels),
                nn.ReLU(),
            ]

        self.layers = nn.Sequential(
            nn.Conv2d(1, channels, (10, 4), stride=(2, 2), padding=(5, 1)),
            nn.ReLU(),
            *block(),
            *block(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(channels, words),
        )

    def forward(self, spectrogram: Tensor) -> Tensor:
        """Return the logits of the words; a spectrogram is (1, 49 frames, 10 coefficients)."""
        logits: Tensor = self.layers(spectrogram)
        return logits


class MotionGru(nn.Module):
    """A recurrent net over 16 frames of 8 samples of six motion sensors, for six activities."""

    FRAME: Final = 8

    def __init__(self, hidden: int = 32) -> None:
        super().__init__()
        self.gru = nn.GRU(6 * self.FRAME, hidden, batch_first=True)
        self.head = nn.Linear(hidden, 6)

    def forward(self, motion: Tensor) -> Tensor:
        """Return the logits of the activities; motion is (6, 128)."""
        frames = motion.reshape(motion.shape[0], 6, -1, self.FRAME).transpose(1, 2).flatten(2)
        states, _ = self.gru(frames)
        logits: Tensor = self.head(states[:, -1])
        return logits


class LeNet(nn.Module):
    """LeNet-5 (LeCun et al. 1998) over 28 x 28 images, with ReLU and max pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 6, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 16, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(400, 120),
            nn.ReLU(),
            nn.Linear(120, 84),
            nn.ReLU(),
            nn.Linear(84, 10),
        )

    def forward(self, image: Tensor) -> Tensor:
        """Return the logits of ten classes."""
        logits: Tensor = self.layers(image)
        return logits


class MobileNet(nn.Module):
    """Inverted residual blocks over 32 x 32 colour images, as in MobileNetV2 (arXiv 1801.04381)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.ReLU6())
        self.blocks = nn.ModuleList(
            [self._block(16, 16, 1), self._block(16, 24, 2), self._block(24, 24, 1)]
        )
        self.head = nn.Sequential(
            nn.Conv2d(24, 64, 1),
            nn.ReLU6(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(64, 10),
        )

    @staticmethod
    def _block(channels_in: int, channels_out: int, stride: int) -> nn.Sequential:
        inner = 2 * channels_in
        return nn.Sequential(
            nn.Conv2d(channels_in, inner, 1),
            nn.GroupNorm(4, inner),
            nn.ReLU6(),
            nn.Conv2d(inner, inner, 3, stride=stride, padding=1, groups=inner),
            nn.GroupNorm(4, inner),
            nn.ReLU6(),
            nn.Conv2d(inner, channels_out, 1),
            nn.GroupNorm(4, channels_out),
        )

    def forward(self, photo: Tensor) -> Tensor:
        """Return the logits of ten classes."""
        values = self.stem(photo)
        for block in self.blocks:
            made = block(values)
            values = values + made if made.shape == values.shape else made
        logits: Tensor = self.head(values)
        return logits


class Transformer(WordTransformer):
    """Says which of eight intents a text of 16 words has, by the mean of what its words have seen."""

    def __init__(self, intents: int = 8) -> None:
        super().__init__(intents)

    def forward(self, words: Tensor) -> Tensor:
        """Return the logits of the intents."""
        logits: Tensor = self.head(self.states(words).mean(1))
        return logits


class Autoencoder(nn.Module):
    """A bottleneck of eight numbers over 64 readings of a machine, for anomalies."""

    def __init__(self, readings: int = 64) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(readings, 32),
            nn.ReLU(),
            nn.Linear(32, 8),
            nn.ReLU(),
            nn.Linear(8, 32),
            nn.ReLU(),
            nn.Linear(32, readings),
        )

    def forward(self, readings: Tensor) -> Tensor:
        """Return the readings as the bottleneck remembers them."""
        again: Tensor = self.layers(readings)
        return again


def _templates(classes: int, shape: tuple[int, ...]) -> Tensor:
    return torch.randn(classes, *shape, generator=torch.Generator().manual_seed(7))


def _classified(
    name: str, classes: int, shape: tuple[int, ...]
) -> Callable[[int, torch.Generator], Batch]:
    templates = _templates(classes, shape)

    def draw(rows: int, generator: torch.Generator) -> Batch:
        target = torch.randint(0, classes, (rows,), generator=generator)
        noise = torch.randn(rows, *shape, generator=generator)
        return {name: templates[target] + 0.7 * noise}, target

    return draw


def _draw_clicks(rows: int, generator: torch.Generator) -> Batch:
    taste = torch.Generator().manual_seed(7)
    weights = torch.randn(8, generator=taste)
    tables = [torch.randn(n, generator=taste) for n in ClickModel.VOCABULARIES]
    dense = torch.randn(rows, 8, generator=generator)
    categories = torch.stack(
        [torch.randint(0, n, (rows,), generator=generator) for n in ClickModel.VOCABULARIES], dim=1
    )
    score = dense @ weights
    for column, table in enumerate(tables):
        score = score + table[categories[:, column]]
    return {"dense": dense, "categories": categories}, (score > 0).float()


def _draw_words(rows: int, generator: torch.Generator) -> Batch:
    # Each intent has favourite words among which half of a text is drawn.
    target = torch.randint(0, 8, (rows,), generator=generator)
    shape = (rows, Transformer.LENGTH)
    words = torch.randint(0, Transformer.WORDS, shape, generator=generator)
    favourites = 30 * target[:, None] + torch.randint(0, 30, shape, generator=generator)
    return {
        "words": torch.where(torch.rand(shape, generator=generator) < 0.5, favourites, words)
    }, target


def _draw_readings(rows: int, generator: torch.Generator) -> Batch:
    directions = _templates(4, (64,)) / 2
    readings = torch.randn(rows, 4, generator=generator) @ directions
    readings = readings + 0.1 * torch.randn(rows, 64, generator=generator)
    return {"readings": readings}, readings.clone()


_MODELS: Final = (
    ZooModel(
        name="logistic_regression",
        about="six activities from 128 features",
        make=LogisticRegression,
        loss=F.cross_entropy,
        draw=_classified("features", 6, (128,)),
        real=RealTask(data="motion features", learning_rate=0.05),
    ),
    ZooModel(
        name="mlp",
        about="ten classes of 28 x 28 images",
        make=Mlp,
        loss=F.cross_entropy,
        draw=_classified("image", 10, (1, 28, 28)),
        real=RealTask(data="clothes", learning_rate=0.05),
    ),
    ZooModel(
        name="click",
        about="clicks from 8 numbers and 4 categories, by embeddings and their products",
        make=ClickModel,
        loss=F.binary_cross_entropy_with_logits,
        draw=_draw_clicks,
        learning_rate=0.03,
        real=RealTask(data="flights", learning_rate=0.3, steps=1000),
    ),
    ZooModel(
        name="keyword_ds_cnn",
        about="twelve words from spectrograms of a second",
        make=KeywordNet,
        loss=F.cross_entropy,
        draw=_classified("spectrogram", 12, (1, 49, 10)),
    ),
    ZooModel(
        name="har_conv1d",
        about="six activities from 128 samples of six motion sensors",
        make=MotionConvolution,
        loss=F.cross_entropy,
        draw=_classified("motion", 6, (6, 128)),
        real=RealTask(data="motion", learning_rate=0.3),
    ),
    ZooModel(
        name="har_gru",
        about="the same by a recurrent net over 16 frames",
        make=MotionGru,
        loss=F.cross_entropy,
        draw=_classified("motion", 6, (6, 128)),
        real=RealTask(data="motion", learning_rate=0.3),
    ),
    ZooModel(
        name="lenet",
        about="ten classes of 28 x 28 images, by convolutions and max pooling",
        make=LeNet,
        loss=F.cross_entropy,
        draw=_classified("image", 10, (1, 28, 28)),
        learning_rate=0.01,
        real=RealTask(data="clothes", learning_rate=0.1),
    ),
    ZooModel(
        name="mobilenet",
        about="ten classes of 32 x 32 colour photos, by inverted residuals",
        make=MobileNet,
        loss=F.cross_entropy,
        draw=_classified("photo", 10, (3, 32, 32)),
        real=RealTask(data="colour clothes", learning_rate=0.3),
    ),
    ZooModel(
        name="transformer",
        about="eight intents of texts of 16 words",
        make=Transformer,
        loss=F.cross_entropy,
        draw=_draw_words,
    ),
    ZooModel(
        name="autoencoder",
        about="64 readings through a bottleneck of 8",
        make=Autoencoder,
        loss=F.mse_loss,
        draw=_draw_readings,
        learning_rate=0.2,
    ),
)
ZOO: Final[dict[str, ZooModel]] = {model.name: model for model in _MODELS}


def trained_model(entry: ZooModel, *, steps: int = 300, rows: int = 32) -> nn.Module:
    """Return the model after a little training in torch; the same every time."""
    generator = torch.Generator().manual_seed(1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = entry.make()
    optimizer = torch.optim.SGD(model.parameters(), lr=entry.learning_rate, momentum=0.9)
    for _ in range(steps):
        inputs, target = entry.draw(rows, generator)
        optimizer.zero_grad()
        torch.autograd.backward(entry.loss(model(**inputs), target))
        optimizer.step()
    return model
