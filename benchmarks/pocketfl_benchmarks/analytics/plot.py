"""The metrics in one picture: what the bound of an answer does, and a calibration curve."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_INK, _ACCENT, _MUTED, _WARM = "#1f2933", "#0b6e99", "#9aa5b1", "#c2571a"


def draw_metrics(figures: dict[str, Any], path: Path) -> None:
    """Draw both from what the command prints; the suffix of the path decides the format."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    with plt.rc_context({"svg.fonttype": "none", "svg.hashsalt": "pocketfl", "font.size": 9}):
        figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), constrained_layout=True)
        _bounds(axes[0], figures["details"]["bounds"])
        _calibration(axes[1], figures["details"]["calibration"])
        for axis in axes:
            axis.spines[["top", "right"]].set_visible(False)
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
        plt.close(figure)


def _bounds(axis: Axes, rows: list[dict[str, Any]]) -> None:
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


def _calibration(axis: Axes, curve: dict[str, Any]) -> None:
    points = curve["points"]
    mean = [point["mean_score"] for point in points]
    value = np.array([point["observed"] for point in points])
    low = value - [point["low"] for point in points]
    high = [point["high"] for point in points] - value
    axis.plot([0, 1], [0, 1], color=_MUTED, linewidth=0.8)
    axis.errorbar(
        mean, value, [low, high], color=_ACCENT, fmt="o", markersize=4, label="private, 95 %"
    )
    exact = [np.nan if point["exact"] is None else point["exact"] for point in points]
    axis.plot(mean, exact, color=_INK, linestyle="", marker="x", label="exact")
    axis.set(xlim=(0, 1), ylim=(0, 1), xlabel="score", ylabel="share of late flights")
    axis.set_title(f"Calibration, {curve['devices']} devices", loc="left")
    axis.legend(frameon=False, loc="upper left")
