"""A clip norm that follows the fleet: the next round's comes of a noised count of this one's.

Each device says with its update whether that was within the clip norm, by one more coordinate of its
report. The trusted tier releases the count of these, noised like everything else, and the clip norm
moves towards the quantile that the plan wants (Andrew, Thakkar, McMahan and Ramaswamy 2021,
"Differentially Private Learning with Adaptive Clipping", arXiv 1905.03871).

The coordinate is ``+weight`` or ``-weight`` grid units, and the update gets what is left of the norm
bound, so that the whole report is within it and one release costs what one without the count costs.
That is the paper's split: with ``z`` the plan's noise multiplier and ``c`` the coordinate's share of
the norm bound, the count carries noise of ``s = z / (2 c)`` devices, the update of
``(z**-2 - (2 s)**-2)**-0.5`` clip norms.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from pocketfl.checks import require


@dataclass(frozen=True, kw_only=True)
class AdaptiveClippingSpec:
    """How the clip norm may move; the plan's own ``clip_norm`` is the first.

    Attributes
    ----------
    min_clip_norm, max_clip_norm : float
        Bounds that no server can leave. The first is the floor of the noise as well: in the model's own
        units it is never below the noise multiplier times this.
    quantile : float
        Share of updates that are to be within the clip norm.
    learning_rate : float
        Of the logarithm of the clip norm.
    count_share : float
        What the count takes of the norm bound; a larger share has less noise on the count, more on
        the update.
    """

    min_clip_norm: float
    max_clip_norm: float
    quantile: float = 0.5
    learning_rate: float = 0.2
    count_share: float = 0.02

    def __post_init__(self) -> None:
        require(
            0 < self.min_clip_norm <= self.max_clip_norm <= 1e6,
            "min_clip_norm must be above 0 and at most max_clip_norm, which is at most 1e6",
        )
        require(0 < self.quantile < 1, "quantile must be above 0 and below 1")
        require(0 < self.learning_rate <= 10, "learning_rate must be above 0 and at most 10")
        require(0.001 <= self.count_share <= 0.5, "count_share must be 0.001 to 0.5")

    def count_weight(self, norm_bound: int) -> int:
        """Return the size in grid units of the coordinate that says within or not."""
        return max(1, round(self.count_share * norm_bound))

    def count_noise(self, norm_bound: int, *, noise_multiplier: float) -> float:
        """Return the standard deviation of the noise on the count, in devices."""
        return noise_multiplier * norm_bound / (2 * self.count_weight(norm_bound))

    def share_within(self, count: float, *, norm_bound: int, reports: int) -> float:
        """Return the share of updates within the clip norm, by a released coordinate.

        Parameters
        ----------
        count : float
            Noised sum of the reports' last coordinates, in grid units.
        norm_bound : int
            The plan's.
        reports : int
            How many reports were summed.

        Returns
        -------
        float
            Below 0 or above 1 where noise has it so.
        """
        return 0.5 + count / (2 * self.count_weight(norm_bound) * reports)

    def following(self, clip_norm: float, share_within: float) -> float:
        """Return the next round's clip norm: a step of geometric descent, within the bounds."""
        # A count of few reports can be mostly noise, and the exponential must not overflow.
        error = min(max(share_within, 0.0), 1.0) - self.quantile
        moved = clip_norm * math.exp(-self.learning_rate * error)
        return min(max(moved, self.min_clip_norm), self.max_clip_norm)
