"""What ``pocketfl simulate`` says of rounds and releases: lines of a table, and records for JSON."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Final

from pocketfl_simulation.buffered import SimulatedRelease
from pocketfl_simulation.clocked import Closed
from pocketfl_simulation.evaluation import Quality
from pocketfl_simulation.rounds import SimulatedRound

_QUALITY: Final = "quality on held-out devices"
ROUNDS: Final = f" round   cohort  reports  clipped   norm  epsilon  {_QUALITY}"
ROUNDS_ON_A_CLOCK: Final = (
    " round   hours   cohort  reports    old   away  dropped   late  clipped   norm  epsilon  "
    f"{_QUALITY}"
)
RELEASES: Final = f" round   hours  reports  wasted  staleness  clipped   norm  epsilon  {_QUALITY}"


def round_line(done: SimulatedRound, quality: Quality | None, when: Closed | None) -> str:
    """Return a round's line below :data:`ROUNDS`, or below :data:`ROUNDS_ON_A_CLOCK`."""
    hours = "" if when is None else f" {when.hours:7.2f}"
    lost = "" if when is None else _lost(when)
    text = f"{done.round:6}{hours} {done.cohort:8} {done.reports:8}{lost}"
    if done.state == "aborted":
        return f"{text}  aborted: below the cohort floor"
    return text + _update(done.clipped_share, done.median_norm, done.epsilon) + _said(quality)


def release_line(done: SimulatedRelease, quality: Quality | None) -> str:
    """Return a release's line below :data:`RELEASES`."""
    text = (
        f"{done.round:6} {done.hours:7.2f} {done.reports:8} {done.wasted:7} {done.staleness:10.1f}"
    )
    return text + _update(done.clipped_share, done.median_norm, done.epsilon) + _said(quality)


def _lost(when: Closed) -> str:
    widths = {"old": 7, "away": 7, "dropped": 9, "late": 7}
    return "".join(f"{when.lost[reason]:{width}}" for reason, width in widths.items())


def _update(clipped: float, norm: float, epsilon: float | None) -> str:
    spent = "   none" if epsilon is None else f"{epsilon:7.2f}"
    return f" {100 * clipped:6.0f} % {norm:6.3g}  {spent}"


def _said(quality: Quality | None) -> str:
    return "" if quality is None else f"  {describe(quality)}"


def describe(quality: Quality) -> str:
    """Return a model's quality in a few words."""
    parts = [f"loss {quality.loss:.4f}"]
    if quality.auc is not None:
        parts.append(f"AUC {quality.auc:.4f}")
    if quality.accuracy is not None:
        parts.append(f"accuracy {quality.accuracy:.4f}")
    return ", ".join(parts)


def record(
    done: SimulatedRound | SimulatedRelease,
    quality: Quality | None,
    when: Closed | None = None,
) -> dict[str, Any]:
    """Return a round or release for JSON, which has no NaN."""
    values = dataclasses.asdict(done)
    values["quality"] = None if quality is None else dataclasses.asdict(quality)
    if when is not None:
        values |= dataclasses.asdict(when)
    return {
        name: None if isinstance(value, float) and math.isnan(value) else value
        for name, value in values.items()
    }
