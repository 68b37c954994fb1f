"""What people put into compact models: one small problem per operator, as an app would write it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

ROWS = 6
CLASSES = 3

Make: TypeAlias = Callable[[], nn.Module]


@dataclass(frozen=True, kw_only=True)
class Case:
    """A model around one operator.

    Attributes
    ----------
    section, name : str
        Where the operator stands in the table.
    make : callable
        Makes the model.
    loss : callable
        Its loss.
    inputs : Any
        Example inputs.
    target : Tensor
        Example target.
    """

    section: str
    name: str
    make: Make
    loss: Callable[..., Tensor]
    inputs: Any
    target: Tensor


def _seeded(make: Callable[[], Any]) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return make()


LABELS = _seeded(lambda: torch.randint(0, CLASSES, (ROWS,)))
VECTORS = _seeded(lambda: torch.randn(ROWS, 6))
SERIES = _seeded(lambda: torch.randn(ROWS, 4, 9))
IMAGES = _seeded(lambda: torch.randn(ROWS, 4, 8, 9))
WORDS = _seeded(lambda: torch.randint(0, 12, (ROWS, 5)))
STEPS = _seeded(lambda: torch.randn(ROWS, 5, 8))
NUMBERS = _seeded(lambda: torch.randn(ROWS, 6))
PROBABILITIES = _seeded(lambda: torch.rand(ROWS, 6))


class Forward(nn.Module):
    """Modules and a function that uses them: ``forward`` without a class of its own per case."""

    def __init__(
        self, function: Callable[..., Tensor], **modules: nn.Module | nn.Parameter
    ) -> None:
        super().__init__()
        self._function = function
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, x: Tensor) -> Tensor:
        return self._function(self, x)


def _between(layer: Callable[[], nn.Module], before: nn.Module, width: int) -> nn.Module:
    """Something to train before the layer and after it, so that gradients go through it."""
    return nn.Sequential(before, layer(), nn.Flatten(), nn.LazyLinear(CLASSES))


def materialised(make: Make, inputs: Any) -> Make:
    def made() -> nn.Module:
        model = make()
        with torch.no_grad():
            model(inputs)
        return model

    return made


CASES: list[Case] = []


def add(section: str, name: str, make: Make, inputs: Any, **options: Any) -> None:
    CASES.append(
        Case(
            section=section,
            name=name,
            make=make,
            loss=options.get("loss", F.cross_entropy),
            inputs=inputs,
            target=options.get("target", LABELS),
        )
    )


def add_layer(section: str, name: str, layer: Callable[[], nn.Module], inputs: Tensor) -> None:
    before: Callable[[], nn.Module]
    if inputs is VECTORS:
        before = lambda: nn.Linear(6, 8)  # noqa: E731
    elif inputs is SERIES:
        before = lambda: nn.Conv1d(4, 4, 1)  # noqa: E731
    elif inputs is IMAGES:
        before = lambda: nn.Conv2d(4, 4, 1)  # noqa: E731
    else:
        before = lambda: nn.Linear(8, 8)  # noqa: E731
    make = materialised(lambda: _between(layer, before(), CLASSES), inputs)
    add(section, name, make, inputs)


def add_function(
    section: str, name: str, function: Callable[[Tensor], Tensor], inputs: Tensor
) -> None:
    def make() -> nn.Module:
        width = 6 if inputs is VECTORS else 8
        return Forward(
            lambda self, x: self.head(function(self.body(x)).flatten(1)),
            body=nn.Linear(width, 8),
            head=nn.LazyLinear(CLASSES),
        )

    add(section, name, materialised(make, inputs), inputs)
