"""AUC over the hours of a fleet, for each kind of rounds: the middle run and the band of all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

Curve = Sequence[tuple[float, float]]
"""Seconds and AUC of each release."""

_COLOURS = ("#0b6e99", "#7fb6cf", "#c2571a", "#e3a98a")


def draw_curves(curves: Mapping[str, Sequence[Curve]], *, target: float, path: Path) -> None:
    """Draw the best AUC so far of all kinds; the suffix of the path decides the format."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    longest = max((c[-1][0] for runs in curves.values() for c in runs if c), default=1.0)
    hours = np.linspace(0, longest / 3600, 400)
    with plt.rc_context({"svg.fonttype": "none", "svg.hashsalt": "pocketfl", "font.size": 9}):
        figure, axis = plt.subplots(figsize=(7, 3.6), constrained_layout=True)
        for colour, (name, runs) in zip(_COLOURS, curves.items(), strict=False):
            known = [_best_so_far(curve, 3600 * hours) for curve in runs if curve]
            if not known:
                continue
            axis.plot(hours, np.median(known, axis=0), color=colour, label=name)
            axis.fill_between(
                hours, np.min(known, axis=0), np.max(known, axis=0), color=colour, alpha=0.2
            )
        axis.axhline(target, color="#5b6770", linewidth=0.8, linestyle="--")
        axis.set_xlabel("hours")
        axis.set_ylabel("best AUC so far")
        axis.set_ylim(0.6, None)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False, loc="lower right", title="rounds, reports of a release")
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
        plt.close(figure)


def _best_so_far(curve: Curve, seconds: np.ndarray) -> np.ndarray:
    times = np.array([time for time, _ in curve])
    best = np.maximum.accumulate([auc for _, auc in curve])
    reached = np.searchsorted(times, seconds, side="right")
    return np.concatenate([[0.5], best])[reached]
