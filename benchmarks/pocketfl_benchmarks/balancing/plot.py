"""The ablation in one picture: ranking and calibration of every arm."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pocketfl_benchmarks.balancing.ablation import ArmResult

_ACCENT, _MUTED, _WARM = "#0b6e99", "#c4cdd5", "#c2571a"


def draw_ablation(results: Sequence[ArmResult], *, path: Path) -> None:
    """Draw all arms of all labels; the suffix of the path decides the format."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    labels = sorted({result.label_minutes for result in results})
    with plt.rc_context({"svg.fonttype": "none", "svg.hashsalt": "pocketfl", "font.size": 9}):
        figure, axes = plt.subplots(len(labels), 3, figsize=(9, 5.2), constrained_layout=True)
        for row, minutes in zip(np.atleast_2d(axes), labels, strict=True):
            mine = [result for result in results if result.label_minutes == minutes][::-1]
            names = [result.arm for result in mine]
            for axis, name, title in (
                (row[0], "auc", "AUC"),
                (row[1], "average_precision", "average precision"),
            ):
                values = [getattr(result, name) for result in mine]
                spread = [getattr(result, f"{name}_deviation") for result in mine]
                axis.errorbar(values, names, xerr=spread, fmt="o", color=_ACCENT, markersize=5)
                axis.set_title(f"{title}, late by {minutes:g} min", loc="left")
                axis.margins(y=0.2)
            places = np.arange(len(mine))
            for offset, name, colour, label in (
                (0.2, "calibration_error", _ACCENT, "corrected"),
                (-0.2, "uncorrected_calibration_error", _WARM, "uncorrected"),
            ):
                values = [getattr(result, name) for result in mine]
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
