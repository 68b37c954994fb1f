"""The metrics in one picture: what the bound of an answer does, and a calibration curve."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pocketfl_benchmarks.analytics.figures import Measured

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_INK, _ACCENT, _MUTED, _WARM = "#1f2933", "#0b6e99", "#9aa5b1", "#c2571a"


def draw_metrics(measured: Measured, *, path: Path) -> None:
    """Draw both; the suffix of the path decides the format."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    with plt.rc_context({"svg.fonttype": "none", "svg.hashsalt": "pocketfl", "font.size": 9}):
        figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), constrained_layout=True)
        _bounds(axes[0], measured)
        _calibration(axes[1], measured)
        for axis in axes:
            axis.spines[["top", "right"]].set_visible(False)
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
        plt.close(figure)


def _bounds(axis: Axes, measured: Measured) -> None:
    rows = measured.figures["details"]["bounds"]
    for devices, colour in zip(
        sorted({row["devices"] for row in rows}), (_WARM, _ACCENT), strict=True
    ):
        mine = [row for row in rows if row["devices"] == devices]
        bounds = [row["bound"] for row in mine]
        errors = [np.nan if row["error"] is None else row["error"] for row in mine]
        axis.plot(
            bounds, errors, color=colour, marker="o", markersize=3, label=f"{devices:,} devices"
        )
        axis.plot(bounds, [abs(row["bias"]) for row in mine], color=colour, linestyle=":")
    axis.plot([], [], color=_INK, linestyle=":", label="of it bias")
    axis.set(xscale="log", yscale="log", ylim=(1e-4, 0.1))
    axis.set(xlabel="bound of one device's answer (examples)", ylabel="error of the AUC")
    axis.set_title("A large bound drowns in noise; at 2 bias is least", loc="left")
    axis.legend(frameon=False)


def _calibration(axis: Axes, measured: Measured) -> None:
    score = 1 / (1 + np.exp(-np.concatenate(measured.scored.logits).astype(np.float64)))
    target = np.concatenate(measured.scored.targets)
    points = [point for point in measured.metrics.calibration if point.observed.is_known]
    mean = [point.mean_score for point in points]
    value = np.array([point.observed.value for point in points])
    low = value - [point.observed.low for point in points]
    high = [point.observed.high for point in points] - value
    axis.plot([0, 1], [0, 1], color=_MUTED, linewidth=0.8)
    axis.errorbar(
        mean, value, [low, high], color=_ACCENT, fmt="o", markersize=4, label="private, 95 %"
    )
    exact = []
    for point in points:
        inside = (score >= point.low) & (score < point.high)
        exact.append(float(target[inside].mean()) if inside.any() else np.nan)
    axis.plot(mean, exact, color=_INK, linestyle="", marker="x", label="exact")
    axis.set(xlim=(0, 1), ylim=(0, 1), xlabel="score", ylabel="share of late flights")
    axis.set_title(f"Calibration, {len(measured.scored.targets)} devices", loc="left")
    axis.legend(frameon=False, loc="upper left")
