"""All problems of the operator table, in its order."""

from __future__ import annotations

from typing import Final

from . import functions, layers, losses, models, problems
from .problems import Case

SECTIONS: Final = (
    "Dense",
    "Convolution",
    "Pooling",
    "Normalisation",
    "Embedding",
    "Recurrent",
    "Attention",
    "Dropout",
    "Activation",
    "Loss",
    "Model",
    "Arithmetic",
    "Shape and reduction",
)
CASES: Final = sorted(problems.CASES, key=lambda case: SECTIONS.index(case.section))

__all__ = ["CASES", "Case", "functions", "layers", "losses", "models"]
