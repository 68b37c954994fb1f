"""The modeller's part of the app: a small network for digits, trained on public ones, and its plan.

The convolutions are trained here and then frozen: they become constants of the plan's graphs. Devices
train the last layer alone, 650 numbers, so that a report is small and the noise of a small crowd does
not drown it.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

import numpy as np
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray
from torch import nn

from pocketfl.features.transforms import FeatureSpec, FieldSpec, InputSpec, LabelSpec
from pocketfl.features.transforms import Tensor as TensorColumn
from pocketfl.plan import (
    AggregationSpec,
    DifferentialPrivacySpec,
    EligibilitySpec,
    Plan,
    TrainingSpec,
)
from pocketfl.plan.manifest import RUNTIME_NAMES
from pocketfl_benchmarks.digits.data import SIDE, Digits
from pocketfl_export.plans import export_plan
from pocketfl_server.optimizers import OptimizerSpec

COLLECTION: Final = "drawings"
"""The app's collection of a person's own drawings."""
TASK: Final = "digits"
FEATURE_UNITS: Final = 64
BATCH_SIZE: Final = 16
PRETRAINING: Final = 2000
"""Digits that the bundled model has seen; the writers of the demo hold others."""
_EPOCHS: Final = 14
_SEED: Final = 0

# Chosen by simulating 51 writers over 15 rounds on the digits left out of the pretraining: a median
# update has norm 0.6, and clipping at 0.3 is slower by a few rounds while no noise at all gains 0.01.
TRAINING: Final = TrainingSpec(epochs=3, max_examples=64, learning_rate=0.1, max_gradient_norm=10.0)
CLIP_NORM: Final = 0.5
OPTIMIZER: Final = OptimizerSpec(kind="sgd", learning_rate=1.0)
WRITERS: Final = 50
"""Simulated writers of the demo; the app is one device more."""
ROUNDS: Final = 20
MIN_DRAWINGS: Final = 5
"""Drawings that a device needs to take part."""
PRIVACY: Final = DifferentialPrivacySpec(noise_multiplier=2.0, epsilon=16.0, delta=1e-5)

FEATURES: Final = FeatureSpec(
    collection=COLLECTION,
    fields=(
        FieldSpec(name="image", type="tensor", shape=(1, SIDE, SIDE)),
        FieldSpec(name="digit", type="int"),
    ),
    inputs=(InputSpec(tensor="image", columns=(TensorColumn(field="image"),)),),
    label=LabelSpec(field="digit"),
)


class DigitsModel(nn.Module):
    """Three convolutions and a layer of features, frozen for devices; one layer for them to train."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 8, 5, stride=2, padding=2),
            nn.ReLU(),
            nn.Conv2d(8, 16, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(512, FEATURE_UNITS),
            nn.ReLU(),
        )
        self.output = nn.Linear(FEATURE_UNITS, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return logits, shape (rows, 10), for images of shape (rows, 1, 28, 28)."""
        logits: torch.Tensor = self.output(self.features(image))
        return logits

    def freeze(self) -> None:
        """Leave nothing but the last layer to train."""
        for parameter in self.features.parameters():
            parameter.requires_grad = False


def split_digits(digits: Digits) -> tuple[Digits, Digits]:
    """Return what the bundled model is trained on, and the rest."""
    order = np.random.default_rng(_SEED).permutation(len(digits))
    return digits.take(order[:PRETRAINING]), digits.take(order[PRETRAINING:])


def pretrain(digits: Digits) -> DigitsModel:
    """Train the whole network on public digits, each a little moved and bent in every epoch."""
    torch.manual_seed(_SEED)
    generator = torch.Generator().manual_seed(_SEED)
    chances = np.random.default_rng(_SEED)
    images = torch.from_numpy(digits.images)[:, None]
    labels = torch.from_numpy(digits.labels)
    model = DigitsModel()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # More of them make batches this small slower.
    try:
        for _ in range(_EPOCHS):
            for rows in torch.split(torch.randperm(len(labels), generator=generator), 32):
                batch = bend(images[rows], random_bends(len(rows), chances))
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(batch), labels[rows])
                torch.autograd.backward(loss)
                optimizer.step()
    finally:
        torch.set_num_threads(threads)
    return model


def random_bends(count: int, chances: np.random.Generator) -> NDArray[np.float64]:
    """Draw small bends, shape (count, 2, 3): a few degrees, some slant, a tenth of size, two pixels."""
    turn, slant = chances.uniform(-0.15, 0.15, (2, count))
    wide, high = chances.uniform(0.9, 1.1, (2, count))
    right, down = chances.uniform(-0.07, 0.07, (2, count))
    return bends(turn=turn, slant=slant, wide=wide, high=high, right=right, down=down)


def bends(
    *,
    turn: NDArray[np.float64],
    slant: NDArray[np.float64],
    wide: NDArray[np.float64],
    high: NDArray[np.float64],
    right: NDArray[np.float64],
    down: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return affine maps from places of the new image to places of the old one, shape (n, 2, 3)."""
    rows = (
        (np.cos(turn) / wide, (slant - np.sin(turn)) / wide, right),
        (np.sin(turn) / high, np.cos(turn) / high, down),
    )
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=1)


def bend(images: torch.Tensor, maps: NDArray[np.float64]) -> torch.Tensor:
    """Return images, shape (n, 1, 28, 28), after an affine map each."""
    grid = nn.functional.affine_grid(
        torch.from_numpy(maps.astype(np.float32)), list(images.shape), align_corners=False
    )
    return nn.functional.grid_sample(images, grid, align_corners=False)


def export_task(
    path: Path,
    *,
    digits: Digits,
    signing_key: Ed25519PrivateKey,
    writers: int = WRITERS,
    runtimes: Iterable[str] = RUNTIME_NAMES,
) -> Plan:
    """Train the bundled model and export it into a signed plan, for both runtimes.

    Parameters
    ----------
    path : Path
        Where to write it.
    digits : Digits
        All of them; the model sees the first part of :func:`split_digits`.
    signing_key : Ed25519PrivateKey
        The modeller's.
    writers : int
        Devices that take part beside the app; all of them in every round.
    runtimes : iterable of str
        What to export for.

    Returns
    -------
    Plan
        Parity-checked on both runtimes.
    """
    seen, _ = split_digits(digits)
    model = pretrain(seen)
    model.freeze()
    population = writers + 1
    return export_plan(
        model,
        nn.functional.cross_entropy,
        (torch.from_numpy(seen.images[:BATCH_SIZE])[:, None],),
        torch.from_numpy(seen.labels[:BATCH_SIZE]),
        path,
        name=TASK,
        version="1",
        signing_key=signing_key,
        features=FEATURES,
        training=TRAINING,
        aggregation=AggregationSpec(
            clip_norm=CLIP_NORM,
            sampling_probability=1.0,
            population=population,
            # Every device takes part, so that only those that fail are missing.
            cohort_floor=max(1, population * 4 // 5),
            max_rounds=ROUNDS,
            max_participations=ROUNDS,
        ),
        dp=PRIVACY,
        eligibility=EligibilitySpec(min_examples=MIN_DRAWINGS),
        runtimes=runtimes,
    )
