"""Plots of the report, as SVG that stands inside a page."""

from __future__ import annotations

from typing import Any, Final

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pocketfl_benchmarks.drawing import inline_svg
from pocketfl_benchmarks.flights.results import NO_PRIVACY, DemoResult

_SIZE: Final = (6.4, 3.4)
_PRIVATE: Final = "#0b6e4f"
_UNPROTECTED: Final = "#c2571a"
_CENTRAL: Final = "#35507a"
_MUTED: Final = "#7a7f87"


def plot_auc(result: DemoResult) -> str:
    """Return AUC by round of the federated arms, with the centralised models as lines."""
    figure, axes = _blank("round", "AUC on held-out aircraft")
    curves = [judged.curve for judged in (result.federated, result.private) if judged]
    if result.federated is not None:
        axes.plot(result.federated.curve, color=_UNPROTECTED, label=f"FL ({NO_PRIVACY})")
    if result.private is not None:
        axes.plot(result.private.curve, color=_PRIVATE, linewidth=2.2, label="FL-DP")
    axes.axhline(result.server_trained, color=_CENTRAL, linestyle="--", label="server-trained")
    axes.axhline(result.server_only, color=_MUTED, linestyle=":", label="server-only")
    # The first versions lie near one half; what matters is how the others compare.
    best = max(curve[-1] for curve in curves)
    axes.set_ylim(bottom=min(best, result.server_only) - 0.1)
    axes.legend(frameon=False, fontsize=9, loc="lower right")
    return inline_svg(figure, "AUC by round")


def plot_epsilon(result: DemoResult) -> str:
    """Return both epsilons by round, as the trusted tier charged them."""
    figure, axes = _blank("round", "epsilon so far")
    versions = [entry.version for entry in result.main.arm.rounds]
    rounds = range(1, len(versions) + 1)
    seen = [version.epsilon or 0.0 for version in versions]
    back_end = [version.epsilon_against_back_end or 0.0 for version in versions]
    axes.plot(rounds, seen, color=_PRIVATE, linewidth=2.2, label="who sees released models")
    axes.plot(rounds, back_end, color=_MUTED, linestyle="--", label="the back end")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize=9, loc="center right")
    return inline_svg(figure, "epsilon by round")


def plot_funnel(result: DemoResult) -> str:
    """Return how many devices checked in, uploaded and were counted, by round."""
    arm = result.main.arm
    figure, axes = _blank("round", "devices")
    rounds = range(1, len(arm.rounds) + 1)
    for label, counts, style in (
        ("checked in", [entry.funnel.checked_in for entry in arm.rounds], "-"),
        ("uploaded", [entry.funnel.uploaded for entry in arm.rounds], "--"),
        ("in the released sum", [entry.funnel.accepted or 0 for entry in arm.rounds], ":"),
    ):
        axes.plot(rounds, counts, linestyle=style, label=label, linewidth=1.6)
    axes.axhline(result.aggregation.expected_cohort, color=_MUTED, linewidth=0.8)
    axes.axhline(result.aggregation.cohort_floor, color=_UNPROTECTED, linewidth=0.8)
    last = len(arm.rounds)
    for height, text in (
        (result.aggregation.expected_cohort, "expected"),
        (result.aggregation.cohort_floor, "floor"),
    ):
        axes.annotate(text, (last, height), ha="right", va="bottom", fontsize=8, color=_MUTED)
    axes.set_ylim(0, 1.2 * max(axes.get_ylim()))
    axes.legend(frameon=False, fontsize=9, loc="lower left")
    return inline_svg(figure, "funnel by round")


def _blank(x: str, y: str) -> tuple[Figure, Any]:
    figure = Figure(figsize=_SIZE, layout="constrained")
    axes = figure.subplots()
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e4e6ea", linewidth=0.8)
    return figure, axes
