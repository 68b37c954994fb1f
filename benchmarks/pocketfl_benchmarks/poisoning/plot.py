"""What lies cost, by the share of devices that lie: the mean and the range of all runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

_COLOURS = {"flipped": "#0b6e99", "opposed": "#c2571a"}


def draw_losses(figures: dict[str, Any], path: Path) -> None:
    """Draw what ``pocketfl bench poisoning --json`` printed; the suffix decides the format."""
    import matplotlib as mpl

    figure = Figure(figsize=(5.5, 3.0), layout="constrained")
    axis = figure.subplots()
    for shift, (kind, colour) in zip((-0.06, 0.06), _COLOURS.items(), strict=True):
        rows = [row for row in figures["results"] if row["lie"] == kind]
        lost = [row["auc_points_lost"] for row in rows]
        below = [row["auc_points_lost"] - row["auc_points_lost_least"] for row in rows]
        above = [row["auc_points_lost_most"] - row["auc_points_lost"] for row in rows]
        places = [place + shift for place in range(len(rows))]
        axis.errorbar(
            places, lost, yerr=[below, above], fmt="o", color=colour, capsize=3, label=kind
        )
        axis.set_xticks(range(len(rows)), [f"{row['share']:.0%}" for row in rows])
    axis.axhline(0, color="#c4cdd5", linewidth=0.8)
    axis.set_xlabel("devices that lie")
    axis.set_ylabel("AUC points lost")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, loc="upper left")
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "poisoning"}):
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
