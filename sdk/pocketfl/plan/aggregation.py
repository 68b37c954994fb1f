"""What a plan says of the way from reports to a release: bounds, noise, and what it all may spend."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from typing import Final, Literal

from pocketfl.checks import require
from pocketfl.encoding.spec import EncodingSpec
from pocketfl.plan.adaptive_clipping import AdaptiveClippingSpec
from pocketfl.plan.asynchronous import WHOLE_WEIGHT, AsynchronousSpec

NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,127}\Z")
"""Of a plan or a budget."""

BudgetUnit = Literal["device", "device-day"]


@dataclass(frozen=True, kw_only=True)
class AggregationSpec:
    """The bounds of one device's report, and of the sum that it goes into.

    A report is an integer vector whose L2 norm is at most ``norm_bound``; one unit of that grid is
    ``clip_norm / norm_bound`` in the model's own units.

    Attributes
    ----------
    clip_norm : float
        L2 bound of one device's update.
    norm_bound : int
        The same bound in grid units; at most 32,767, so that a coordinate takes two bytes. With an
        encoding it follows from the number of parameters; see :meth:`encoded`.
    sampling_probability : float
        Probability with which a device takes part in a round, by its own coin.
    population : int
        Number of devices that toss the coin; the sum is divided by the fixed expected cohort
        ``population * sampling_probability``, which depends on nobody's data.
    cohort_floor : int
        Fewest reports of which a sum may be released.
    max_rounds : int
        Most releases of a task under this plan.
    max_participations : int
        Most rounds that one device takes part in, whatever a server asks.
    encoding : EncodingSpec or None
        How reports are made small; None for two bytes a coordinate.
    adaptive : AdaptiveClippingSpec or None
        Lets the clip norm follow the fleet; ``clip_norm`` is then that of the first round.
    asynchronous : AsynchronousSpec or None
        Lets releases take reports from older models; then every device may take part in every round,
        as far as its separation lets it, and nothing is amplified by sampling.
    """

    clip_norm: float
    norm_bound: int = 30_000
    sampling_probability: float = 1.0
    population: int
    cohort_floor: int
    max_rounds: int
    max_participations: int
    encoding: EncodingSpec | None = None
    adaptive: AdaptiveClippingSpec | None = None
    asynchronous: AsynchronousSpec | None = None

    def __post_init__(self) -> None:
        require(
            self.asynchronous is None or self.sampling_probability == 1,
            "asynchronous rounds sample nobody: sampling_probability has to be 1",
        )
        require(
            self.asynchronous is None or self.adaptive is None,
            "asynchronous rounds add up reports of several models, which need one clip norm",
        )
        require(0 < self.clip_norm <= 1e6, "clip_norm must be above 0 and at most 1e6")
        if self.adaptive is not None:
            least_norm, most_norm = self.adaptive.min_clip_norm, self.adaptive.max_clip_norm
            require(
                least_norm <= self.clip_norm <= most_norm,
                f"clip_norm is {self.clip_norm:g}; the plan allows {least_norm:g} to {most_norm:g}",
            )
        # How coarse a grid an encoding may have depends on the model: the manifest judges it.
        least = 256 if self.encoding is None else 1
        require(least <= self.norm_bound <= 32_767, f"norm_bound must be {least} to 32,767")
        require(
            0 < self.sampling_probability <= 1, "sampling_probability must be above 0, 1 at most"
        )
        require(1 <= self.population <= 10**10, "population must be 1 to 10,000,000,000")
        require(1 <= self.max_rounds <= 1_000_000, "max_rounds must be 1 to 1,000,000")
        require(
            1 <= self.max_participations <= self.max_rounds,
            "max_participations must be 1 to max_rounds",
        )
        expected = self.expected_cohort
        highest = max(1, math.floor(expected - 6 * math.sqrt(expected)))
        if self.sampling_probability == 1.0:
            highest = self.population
        require(
            1 <= self.cohort_floor <= highest,
            f"cohort_floor must be 1 to {highest}: above expected - 6 sqrt(expected) reports, chance "
            "alone would abort rounds",
        )

    @property
    def expected_cohort(self) -> float:
        """Expected number of participants: ``population * sampling_probability``."""
        return self.population * self.sampling_probability

    @property
    def grid_step(self) -> float:
        """Size of one grid unit in the model's own units."""
        return self.clip_norm / self.update_bound

    @property
    def whole_weight(self) -> int:
        """What an exact sum counts a report with: 1, or what leaves room for smaller weights."""
        return 1 if self.asynchronous is None else WHOLE_WEIGHT

    @property
    def release_step(self) -> float:
        """Size of one unit of a release in the model's own units."""
        return self.grid_step / self.whole_weight

    @property
    def count_weight(self) -> int:
        """Grid units that say whether an update was clipped; 0 where the clip norm stays."""
        return 0 if self.adaptive is None else self.adaptive.count_weight(self.norm_bound)

    @property
    def update_bound(self) -> float:
        """What the norm bound leaves to the update, in grid units; the clip norm is as much."""
        if self.adaptive is None:
            return self.norm_bound
        return math.sqrt(self.norm_bound**2 - self.count_weight**2)

    def in_round(self, clip_norm: float | None) -> AggregationSpec:
        """Return the bounds of one round.

        Parameters
        ----------
        clip_norm : float or None
            As it was announced; None where the plan has one for all rounds.

        Raises
        ------
        ValueError
            If one is announced and the plan has none to move, or the other way round, or it is not
            within the plan's bounds.
        """
        if (clip_norm is None) != (self.adaptive is None):
            has = "has one clip norm for all rounds" if self.adaptive is None else "needs one"
            raise ValueError(f"a round's clip norm is {clip_norm}, and the plan {has}")
        return self if clip_norm is None else replace(self, clip_norm=clip_norm)

    def encoded(self, encoding: EncodingSpec, *, parameters: int) -> AggregationSpec:
        """Return the same bounds with an encoding, and the norm bound that suits it."""
        bound = encoding.norm_bound(parameters + (self.adaptive is not None))
        return replace(self, encoding=encoding, norm_bound=bound)


@dataclass(frozen=True, kw_only=True)
class TreeNoiseSpec:
    """Noise that the releases of a task share, for training without assumptions on who takes part.

    Attributes
    ----------
    min_separation : int
        Fewest rounds from one participation of a device to its next, kept by the device itself.
    """

    min_separation: int = 1

    def __post_init__(self) -> None:
        require(1 <= self.min_separation <= 1_000_000, "min_separation must be 1 to 1,000,000")


@dataclass(frozen=True, kw_only=True)
class DifferentialPrivacySpec:
    """How much noise a release carries, and how much may be learnt over the task's whole life.

    Attributes
    ----------
    noise_multiplier : float
        Standard deviation of the noise, divided by ``AggregationSpec.norm_bound``.
    epsilon : float
        Budget against someone who sees only the released models.
    delta : float
        Its delta.
    tree : TreeNoiseSpec or None
        None gives each release noise of its own. With a tree, ``noise_multiplier`` is that of each
        node, nothing is amplified by sampling, and round numbers end at ``max_rounds``; see
        :mod:`pocketfl.tree_noise`.
    """

    noise_multiplier: float
    epsilon: float
    delta: float
    tree: TreeNoiseSpec | None = None

    def __post_init__(self) -> None:
        require(0.01 <= self.noise_multiplier <= 1000, "noise_multiplier must be 0.01 to 1000")
        require(0 < self.epsilon <= 1000, "epsilon must be above 0 and at most 1000")
        require(0 < self.delta < 0.01, "delta must be above 0 and below 0.01")


@dataclass(frozen=True, kw_only=True)
class BudgetSpec:
    """One account for every task whose plan names it: training, statistics and metrics together.

    Attributes
    ----------
    name : str
        The account's; plans that share it have to agree on all of this.
    epsilon, delta : float
        What all releases of all its tasks may come to together, against someone who sees them all.
    unit : {"device", "device-day"}
        Whose data the account protects: all of a device's, or its log of one day. Only plans that ask
        for nothing but a day's log, and so touch each day once, have the unit ``device-day``.
    """

    name: str
    epsilon: float
    delta: float
    unit: BudgetUnit = "device"

    def __post_init__(self) -> None:
        require(bool(NAME.match(self.name)), f"{self.name[:140]!r} is not the name of a budget")
        require(0 < self.epsilon <= 1000, "epsilon must be above 0 and at most 1000")
        require(0 < self.delta < 0.01, "delta must be above 0 and below 0.01")
