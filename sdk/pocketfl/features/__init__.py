"""From examples to tensors: transforms as data, and the pipeline that runs them.

The pipeline is imported when it is first asked for: plans need only the transforms, and the pipeline
needs plans.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pocketfl.features.pipeline import FeaturePipeline

__all__ = ["FeaturePipeline"]


def __getattr__(name: str) -> object:
    if name == "FeaturePipeline":
        from pocketfl.features.pipeline import FeaturePipeline

        return FeaturePipeline
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
