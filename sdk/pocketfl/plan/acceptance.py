"""When a device takes a new model into use: what its own examples may say against it at most."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

_COLLECTION: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}\Z")


@dataclass(frozen=True, kw_only=True)
class AcceptanceSpec:
    """By how much a new version may lose on a device's own examples, and which these are.

    Attributes
    ----------
    collection : str or None
        Of examples with the plan's fields that the app sets aside and no training sees; None for the
        plan's own collection, of which each device is but a clipped part of what the model learnt from.
    min_examples : int
        With fewer examples nothing can be said, and the new version is taken.
    max_examples : int
        Most that are looked at, for the sake of time.
    margin : float
        Share of the examples, 0 to 1, by which a classifier may be right less often.
    loss_slack : float
        By what part the mean loss may rise: of any other model, and of a classifier that is right as
        often as before.
    """

    collection: str | None = None
    min_examples: int = 20
    max_examples: int = 500
    margin: float = 0.02
    loss_slack: float = 0.05

    def __post_init__(self) -> None:
        if self.collection is not None and not _COLLECTION.match(self.collection):
            raise ValueError(f"{self.collection[:70]!r} is not the name of a collection")
        if not 1 <= self.min_examples <= self.max_examples <= 100_000:
            raise ValueError("min_examples must be 1 to max_examples, and that at most 100,000")
        if not 0 <= self.margin < 1 or not 0 <= self.loss_slack < 1:
            raise ValueError("margin and loss_slack must be at least 0 and below 1")
