"""A small task over two device-only fields, and a fleet of uneven devices."""

from __future__ import annotations

import random
from functools import cache

import torch
from torch import nn

from pocketfl.features.transforms import FeatureSpec, FieldSpec, InputSpec, LabelSpec, OneHot, Scale
from pocketfl.plan import AggregationSpec, DifferentialPrivacySpec, TrainingSpec
from pocketfl_export.configuration import ExportConfiguration
from pocketfl_simulation import SimulationTask
from pocketfl_simulation.tasks import make_task

DEVICES = 12
FEATURES = FeatureSpec(
    collection="visits",
    fields=(
        FieldSpec(name="place", type="str"),
        FieldSpec(name="minutes", type="float"),
        FieldSpec(name="rating", type="float", optional=True),
    ),
    inputs=(
        InputSpec(
            tensor="x",
            columns=(
                OneHot(field="place", vocabulary=("home", "work", "shop")),
                Scale(field="minutes", low=0.0, high=600.0),
            ),
        ),
    ),
    label=LabelSpec(field="rating", above=3.0),
)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x).squeeze(-1)


def factory() -> tuple[object, ...]:
    """What ``pocketfl simulate`` takes as MODULE:FACTORY."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        target = torch.randint(0, 2, (8,)).float()
        loss = nn.functional.binary_cross_entropy_with_logits
        return Model(), loss, torch.randn(8, 5), target


def configuration(**changes: object) -> ExportConfiguration:
    values: dict[str, object] = {
        "model": "tests.simulation.visits:factory",
        "name": "visits",
        "version": "1",
        "key": "",
        "out": "",
        "features": FEATURES,
        "training": TrainingSpec(epochs=2, learning_rate=0.3, max_examples=32),
        "aggregation": AggregationSpec(
            clip_norm=0.4,
            population=DEVICES,
            cohort_floor=DEVICES,
            max_rounds=20,
            max_participations=20,
        ),
        "dp": DifferentialPrivacySpec(noise_multiplier=1.0, epsilon=15.0, delta=1e-5),
        **changes,
    }
    return ExportConfiguration(**values)  # type: ignore[arg-type]


@cache
def simulated() -> SimulationTask:
    """The whole task as MODULE:FACTORY; nobody changes it."""
    return make_task(configuration())


def examples_of(number: int) -> list[dict[str, object]]:
    """Examples of a device: few or many, some without a rating; device 3 has no usable one."""
    generator = random.Random(number)
    examples: list[dict[str, object]] = []
    for _ in range(3 + 5 * number):
        minutes = generator.uniform(0, 600)
        rating = None if number == 3 or generator.random() < 0.2 else 1.0 + 4.0 * minutes / 600
        place = generator.choice(["home", "work", "shop", "beach"])
        examples.append({"place": place, "minutes": minutes, "rating": rating})
    return examples
