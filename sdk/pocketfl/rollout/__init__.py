"""Which version of a model devices predict with: one signed document for each task."""

from pocketfl.rollout.book import RolloutBook
from pocketfl.rollout.bucket import Bucket
from pocketfl.rollout.document import (
    STABLE,
    Channel,
    Rollout,
    RolloutModel,
    is_older_plan,
    load_rollout,
    read_signed,
)

__all__ = [
    "STABLE",
    "Bucket",
    "Channel",
    "Rollout",
    "RolloutBook",
    "RolloutModel",
    "is_older_plan",
    "load_rollout",
    "read_signed",
]
