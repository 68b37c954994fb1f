"""AUC over the hours of a fleet, for each kind of rounds: the middle run and the band of all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

_COLOURS = ("#0b6e99", "#7fb6cf", "#c2571a", "#e3a98a")


def draw_curves(figures: dict[str, Any], path: Path) -> None:
    """Draw what ``pocketfl bench asynchronous --json`` printed; the suffix decides the format."""
    import matplotlib as mpl

    hours = np.linspace(0, 24 * figures["days"], 600)
    figure = Figure(figsize=(8.0, 3.4), layout="constrained")
    axis = figure.subplots()
    for colour, row in zip(_COLOURS, figures["results"], strict=True):
        best = [_best_so_far(run, hours) for run in row["hours_and_best_auc"]]
        name = f"{row['rounds']}, {row['reports_per_release']}"
        axis.plot(hours, np.median(best, axis=0), color=colour, label=name)
        axis.fill_between(
            hours, np.min(best, axis=0), np.max(best, axis=0), color=colour, alpha=0.2, linewidth=0
        )
    axis.axhline(figures["target_auc"], color="#5b6770", linewidth=0.8, linestyle="--")
    axis.set_xlabel("hours")
    axis.set_ylabel("best AUC so far")
    axis.set_ylim(0.6, None)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, loc="lower right", title="rounds, reports of a release")
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "asynchronous"}):
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def _best_so_far(
    run: Sequence[tuple[float, float]], hours: NDArray[np.float64]
) -> NDArray[np.float64]:
    reached = np.searchsorted([when for when, _ in run], hours, side="right")
    return np.array([0.5, *(auc for _, auc in run)])[reached]
