"""The ablation in one picture: ranking and calibration of every arm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

_ACCENT, _MUTED, _WARM = "#0b6e99", "#c4cdd5", "#c2571a"


def draw_ablation(figures: dict[str, Any], path: Path) -> None:
    """Draw all arms of all labels, as the command prints them; the suffix decides the format."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    arms = figures["arms"]
    labels = sorted({arm["label_minutes"] for arm in arms})
    with plt.rc_context({"svg.fonttype": "none", "svg.hashsalt": "pocketfl", "font.size": 9}):
        figure, axes = plt.subplots(len(labels), 3, figsize=(9, 5.2), constrained_layout=True)
        for row, minutes in zip(np.atleast_2d(axes), labels, strict=True):
            mine = [arm for arm in arms if arm["label_minutes"] == minutes][::-1]
            names = [arm["arm"] for arm in mine]
            for axis, name, title in (
                (row[0], "auc", "AUC"),
                (row[1], "average_precision", "average precision"),
            ):
                values = [arm[name] for arm in mine]
                spread = [arm[f"{name}_deviation"] for arm in mine]
                axis.errorbar(values, names, xerr=spread, fmt="o", color=_ACCENT, markersize=5)
                axis.set_title(f"{title}, late by {minutes:g} min", loc="left")
                axis.margins(y=0.2)
            places = np.arange(len(mine))
            for offset, name, colour, label in (
                (0.2, "calibration_error", _ACCENT, "corrected"),
                (-0.2, "uncorrected_calibration_error", _WARM, "uncorrected"),
            ):
                values = [arm[name] for arm in mine]
                row[2].barh(places + offset, values, height=0.36, color=colour, label=label)
            row[2].set_yticks(places, names)
            row[2].set_title("calibration error", loc="left")
            row[1].set_yticklabels([])
            row[2].set_yticklabels([])
            for axis in row:
                axis.grid(axis="x", color=_MUTED, linewidth=0.4)
                axis.spines[["top", "right"]].set_visible(False)
        np.atleast_2d(axes)[0, 2].legend(frameon=False, loc="upper right")
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
        plt.close(figure)
