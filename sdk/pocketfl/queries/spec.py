"""What a plan may ask of a device's examples: a few kinds of query, as data and with bounds.

Every query becomes a vector of fixed length whose L2 norm is bounded by the query alone, whatever the
store holds. How an example counts is part of the query:

- ``unit: "device"``: the mean over the device's examples, so each device weighs 1 however many it has;
- ``unit: "example"``: the sum over at most ``max_examples`` of them, chosen by the device's own seed.

A query's ``bound`` makes its noise smaller than the largest possible answer asks for: an answer with a
larger L2 norm is scaled down to it as a whole, which keeps its proportions. Less noise, but devices
with much to say weigh less than they should; ``docs/statistics.md`` shows how to choose.

Examples without a value for the query's field are left out, as are those that a filter does not let
through. A device without any left answers with zeros.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from pocketfl.checks import require
from pocketfl.features.transforms import Source

MAX_LENGTH: Final = 65_536
"""Longest vector of a query, and of all queries of a plan together."""
MAX_EXAMPLES: Final = 10_000
MAX_FILTERS: Final = 8
MAX_WORDS: Final = 10_000

Unit: TypeAlias = Literal["device", "example"]

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}\Z")


def _check_range(what: str, low: float, high: float) -> None:
    require(
        low < high and math.isfinite(high - low), f"{what}: low must be below high, and both finite"
    )


@dataclass(frozen=True, kw_only=True)
class Filter:
    """Lets through the examples whose field has one of some values, or lies in a range.

    Attributes
    ----------
    field : str
        Of the collection, or of the server table.
    values : tuple of str or int, or None
        Those let through.
    low, high : float or None
        Smallest and largest number let through; a range has at least one of them.
    """

    field: str
    source: Source = "device"
    values: tuple[str | int, ...] | None = None
    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        what = f"filter on {self.field!r}"
        has_range = self.low is not None or self.high is not None
        require(has_range != (self.values is not None), f"{what}: give values, or a range")
        require(
            self.values is None or 0 < len(self.values) <= MAX_WORDS,
            f"{what}: 1 to {MAX_WORDS} values",
        )
        low = -math.inf if self.low is None else self.low
        high = math.inf if self.high is None else self.high
        require(low <= high, f"{what}: low must not be above high")


@dataclass(frozen=True, kw_only=True)
class _ExampleQuery:
    """What all queries over examples have.

    Attributes
    ----------
    name : str
        Of the result.
    share : float
        Part of the report's norm that this query may use, above 0 and at most 1. The squares of all
        shares of a plan sum to at most 1, and a query's noise grows with ``1 / share``.
    unit : {"device", "example"}
        How examples count; see :mod:`pocketfl.queries.spec`.
    max_examples : int or None
        For the unit ``example``: most examples of one device that count.
    bound : float or None
        Largest L2 norm of a device's answer in the query's natural units; a longer one is scaled down
        to it. None for the largest that is possible.
    where : tuple of Filter
        An example has to pass all of them.
    """

    name: str
    share: float = 1.0
    unit: Unit = "device"
    max_examples: int | None = None
    bound: float | None = None
    where: tuple[Filter, ...] = ()

    def __post_init__(self) -> None:
        _check_name_and_share(self.name, self.share)
        require(
            (self.unit == "example") == (self.max_examples is not None),
            f"query {self.name!r}: max_examples goes with the unit 'example', and only with it",
        )
        require(
            self.max_examples is None or 1 <= self.max_examples <= MAX_EXAMPLES,
            f"query {self.name!r}: max_examples must be 1 to {MAX_EXAMPLES}",
        )
        require(
            self.bound is None or (self.bound > 0 and math.isfinite(self.bound)),
            f"query {self.name!r}: bound must be above 0, and finite",
        )
        require(
            len(self.where) <= MAX_FILTERS, f"query {self.name!r}: {MAX_FILTERS} filters at most"
        )
        _check_length(self.name, self.length)

    @property
    def length(self) -> int:
        """Number of coordinates."""
        return 1

    @property
    def example_norm(self) -> float:
        """Largest L2 norm of what one example adds, in the query's natural units."""
        return 1.0

    @property
    def norm(self) -> float:
        """Largest L2 norm of what one device adds, in the query's natural units."""
        largest = self.example_norm * (self.max_examples or 1)
        return largest if self.bound is None else min(largest, self.bound)

    @property
    def scale(self) -> float:
        """Natural units per unit of the report's norm."""
        return self.norm / self.share

    @property
    def sources(self) -> tuple[tuple[Source, str], ...]:
        """Source and name of every field that is read."""
        return tuple((condition.source, condition.field) for condition in self.where)


@dataclass(frozen=True, kw_only=True)
class _FieldQuery(_ExampleQuery):
    """A query over one field of the collection (``device``) or of the server table (``server``)."""

    field: str
    source: Source = "device"

    @property
    def sources(self) -> tuple[tuple[Source, str], ...]:
        """Source and name of every field that is read."""
        return ((self.source, self.field), *super().sources)


@dataclass(frozen=True, kw_only=True)
class Count(_ExampleQuery):
    """Number of examples (unit ``example``), or of devices that have any (unit ``device``)."""

    kind: Literal["count"] = "count"


@dataclass(frozen=True, kw_only=True)
class Sum(_FieldQuery):
    """Sum of a number clamped to ``[low, high]``; one coordinate."""

    kind: Literal["sum"] = "sum"
    low: float
    high: float

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_range(f"query {self.name!r}", self.low, self.high)

    @property
    def example_norm(self) -> float:
        """The larger of the two bounds in size."""
        return max(abs(self.low), abs(self.high))


@dataclass(frozen=True, kw_only=True)
class Moments(_FieldQuery):
    """Count and sums of powers of a number, clamped to ``[low, high]`` and mapped to ``[-1, 1]``.

    The coordinates are the sums of ``1, u, ..., u**order`` for
    ``u = (2 x - low - high) / (high - low)``.
    """

    kind: Literal["moments"] = "moments"
    low: float
    high: float
    order: int = 2

    def __post_init__(self) -> None:
        require(1 <= self.order <= 4, f"query {self.name!r}: order must be 1 to 4")
        super().__post_init__()
        _check_range(f"query {self.name!r}", self.low, self.high)

    @property
    def length(self) -> int:
        """One coordinate per power, from 0 to ``order``."""
        return self.order + 1

    @property
    def example_norm(self) -> float:
        """Every power of ``u`` is at most 1 in size."""
        return math.sqrt(self.order + 1)


@dataclass(frozen=True, kw_only=True)
class Histogram(_FieldQuery):
    """How often a field has each of some categories, or falls between boundaries.

    Attributes
    ----------
    categories : tuple of str or int, or None
        One coordinate each.
    boundaries : tuple of float or None
        Rising; ``n`` of them make ``n + 1`` intervals, the outer ones without an end.
    closed : {"left", "right"}
        The end that belongs to an interval: a value that equals a boundary lies above it (``left``)
        or below it (``right``).
    other : bool
        Adds a last coordinate for values that are in no category, and for missing ones. Without it
        such examples are left out.
    """

    kind: Literal["histogram"] = "histogram"
    categories: tuple[str | int, ...] | None = None
    boundaries: tuple[float, ...] | None = None
    closed: Literal["left", "right"] = "left"
    other: bool = False

    def __post_init__(self) -> None:
        what = f"query {self.name!r}"
        require(
            (self.categories is None) != (self.boundaries is None),
            f"{what}: give categories or boundaries",
        )
        if self.categories is not None:
            require(
                0 < len(self.categories) <= MAX_WORDS
                and len(set(self.categories)) == len(self.categories),
                f"{what}: 1 to {MAX_WORDS} different categories",
            )
        if self.boundaries is not None:
            pairs = zip(self.boundaries, self.boundaries[1:], strict=False)
            require(
                0 < len(self.boundaries) <= MAX_WORDS
                and all(map(math.isfinite, self.boundaries))
                and all(a < b for a, b in pairs),
                f"{what}: 1 to {MAX_WORDS} finite boundaries that rise",
            )
        super().__post_init__()

    @property
    def length(self) -> int:
        """Number of categories or intervals, and one for the others."""
        if self.categories is not None:
            return len(self.categories) + self.other
        return len(self.boundaries or ()) + 1 + self.other


@dataclass(frozen=True, kw_only=True)
class Quantiles(_FieldQuery):
    """Hierarchical histogram of a number over ``[low, high]``: what quantiles are read from.

    Level ``l`` of 1 to ``levels`` cuts the range into ``branching**l`` equal bins, and each bin into
    ``branching`` bins of the next level; coordinates come level by level. A value is clamped to the
    range, so the outer bins hold what lies beyond it too (Cormode, Kulkarni and Srivastava 2019,
    arXiv 1812.10942).
    """

    kind: Literal["quantiles"] = "quantiles"
    low: float
    high: float
    branching: int = 16
    levels: int = 2

    def __post_init__(self) -> None:
        what = f"query {self.name!r}"
        require(2 <= self.branching <= 1024, f"{what}: branching must be 2 to 1024")
        require(1 <= self.levels <= 16, f"{what}: levels must be 1 to 16")
        super().__post_init__()
        _check_range(what, self.low, self.high)

    @property
    def bins(self) -> int:
        """Number of bins of the finest level."""
        return int(self.branching**self.levels)

    @property
    def length(self) -> int:
        """Bins of all levels."""
        return sum(int(self.branching**level) for level in range(1, self.levels + 1))

    @property
    def example_norm(self) -> float:
        """An example is in one bin of each level."""
        return math.sqrt(self.levels)


@dataclass(frozen=True, kw_only=True)
class ScoreHistogram(_ExampleQuery):
    """How the model scores the examples of each class: what AUC and calibration are read from.

    Coordinate ``c * bins + b`` counts the examples whose target is ``c`` and whose score, clamped to
    ``[low, high]``, falls into bin ``b`` of equal bins. With ``log_loss_limit`` a last coordinate sums
    ``-log p``, clamped to the limit and divided by it, for ``p`` the score of the true class: the score
    itself for target 1, 1 minus it for target 0. For evaluation plans only.

    Attributes
    ----------
    output : str
        Output of the model.
    index : int
        Which number of the output is the score, counted over its flattened shape.
    activation : {"none", "sigmoid", "softmax"}
        What turns the output into a score first.
    low, high : float
        Range of the score.
    bins : int
        Bins per class.
    classes : int
        Targets are 0 to ``classes - 1``; an example with another target is left out.
    log_loss_limit : float or None
        Largest log loss of one example, in nats; for two classes and scores from 0 to 1.
    """

    kind: Literal["score_histogram"] = "score_histogram"
    output: str
    index: int = 0
    activation: Literal["none", "sigmoid", "softmax"] = "none"
    low: float = 0.0
    high: float = 1.0
    bins: int = 64
    classes: int = 2
    log_loss_limit: float | None = None

    def __post_init__(self) -> None:
        what = f"query {self.name!r}"
        require(2 <= self.bins <= 4096, f"{what}: bins must be 2 to 4096")
        require(1 <= self.classes <= 1000, f"{what}: classes must be 1 to 1000")
        require(0 <= self.index < 10**6, f"{what}: index must be 0 to 999,999")
        if self.log_loss_limit is not None:
            require(
                0 < self.log_loss_limit <= 100,
                f"{what}: log_loss_limit must be above 0 and 100 at most",
            )
            require(
                self.classes == 2 and self.low >= 0 and self.high <= 1,
                f"{what}: log_loss_limit goes with two classes and scores from 0 to 1",
            )
        super().__post_init__()
        _check_range(what, self.low, self.high)

    @property
    def length(self) -> int:
        """``bins`` for each class, and one for the log loss."""
        return self.classes * self.bins + (self.log_loss_limit is not None)

    @property
    def example_norm(self) -> float:
        """An example is in one bin, and its share of the largest log loss is at most 1."""
        return 1.0 if self.log_loss_limit is None else math.sqrt(2)


@dataclass(frozen=True, kw_only=True)
class FunnelEvent:
    """One counter of a device's log of a day: a phase, and a reason where the phase has reasons."""

    phase: str
    reason: str = ""

    def __post_init__(self) -> None:
        for text in (self.phase, self.reason or "none"):
            require(bool(_NAME.match(text)), f"{text[:70]!r} is not a phase or reason")


@dataclass(frozen=True, kw_only=True)
class Funnel:
    """How often events happened on the device on the last full day (UTC), one coordinate each.

    Of the counters of :mod:`pocketfl.funnel`, those named here; each counts up to ``max_per_event``,
    and all together up to ``max_events``, chosen by the device's own seed where there are more. With
    ``n`` the counts, ``sum n**2 <= max_per_event * sum n``, which bounds the L2 norm.

    Attributes
    ----------
    name, share
        As for every query.
    events : tuple of FunnelEvent
        Those reported.
    max_events, max_per_event : int
        Bounds of one device's day.
    """

    kind: Literal["funnel"] = "funnel"
    name: str
    share: float = 1.0
    events: tuple[FunnelEvent, ...]
    max_events: int = 16
    max_per_event: int = 1

    def __post_init__(self) -> None:
        what = f"query {self.name!r}"
        _check_name_and_share(self.name, self.share)
        require(0 < len(self.events) <= 1000, f"{what}: 1 to 1000 events")
        require(len(set(self.events)) == len(self.events), f"{what}: an event is there twice")
        require(
            1 <= self.max_per_event <= self.max_events <= MAX_EXAMPLES,
            f"{what}: max_per_event is 1 to max_events, and that at most {MAX_EXAMPLES}",
        )

    @property
    def length(self) -> int:
        """One coordinate per event."""
        return len(self.events)

    @property
    def norm(self) -> float:
        """Largest L2 norm of what one device adds, in events."""
        most = min(self.max_events, self.max_per_event * self.length)
        return math.sqrt(self.max_per_event * most)

    @property
    def scale(self) -> float:
        """Events per unit of the report's norm."""
        return self.norm / self.share


ExampleQuery: TypeAlias = Count | Sum | Moments | Histogram | Quantiles | ScoreHistogram
Query: TypeAlias = ExampleQuery | Funnel


def _check_name_and_share(name: str, share: float) -> None:
    require(
        bool(_NAME.match(name)),
        f"a query needs a name of a letter and up to 63 letters, digits, '.', '_', '-', not "
        f"{name[:70]!r}",
    )
    require(0 < share <= 1, f"query {name!r}: share must be above 0 and at most 1")


def _check_length(name: str, length: int) -> None:
    require(length <= MAX_LENGTH, f"query {name!r} has {length} coordinates, {MAX_LENGTH} at most")
