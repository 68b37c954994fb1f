"""Asynchronous rounds: a release takes the reports that came meanwhile, from older models too.

Buffered aggregation (Nguyen et al. 2022, "Federated Learning with Buffered Asynchronous Aggregation",
arXiv 2106.06639). Rounds are numbered by their releases: a device that checks in during round ``r``
trains on the model of that time, and its report goes into the release of a round from ``r`` to
``r + max_staleness``, with a weight that falls with the difference.

The weight is applied in the trusted tier, on the exact integer sums, in 256ths: a device cannot know
when its report will be released, and a factor of at most one never makes a report's norm larger.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from pocketfl.checks import require

WHOLE_WEIGHT: Final = 256
"""What a report of the round itself is multiplied with; the released grid is as much finer."""
MAX_STALENESS: Final = 100


def staleness_weight(staleness: int) -> int:
    """Return the whole number that a report is multiplied with: ``256 / sqrt(1 + staleness)``.

    Parameters
    ----------
    staleness : int
        Rounds between the one in which the device checked in and the one of the release.

    Returns
    -------
    int
        Rounded down, from :data:`WHOLE_WEIGHT` to 1.
    """
    if not 0 <= staleness <= MAX_STALENESS:
        raise ValueError(f"staleness must be 0 to {MAX_STALENESS}")
    return math.isqrt(WHOLE_WEIGHT**2 // (1 + staleness))


@dataclass(frozen=True, kw_only=True)
class AsynchronousSpec:
    """What asynchronous rounds may do; how many devices take part at once is the task's business.

    Attributes
    ----------
    max_staleness : int
        Most rounds between a device's check-in and its release; an older report is refused.
    min_separation : int
        Fewest rounds from one check-in of a device to its next, kept by the device itself. It is above
        ``max_staleness``, so that no device has two reports that are not released yet.
    """

    max_staleness: int = 4
    min_separation: int = 5

    def __post_init__(self) -> None:
        require(
            0 <= self.max_staleness <= MAX_STALENESS, f"max_staleness must be 0 to {MAX_STALENESS}"
        )
        require(
            self.max_staleness < self.min_separation <= 1_000_000,
            "min_separation must be above max_staleness: a device has one report under way at most",
        )

    def participations(self, rounds: int) -> int:
        """Return in how many of the first rounds a device can have checked in."""
        return -(-rounds // self.min_separation)
