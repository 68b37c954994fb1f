"""The month in one picture: when devices ask and contribute, and how much of its limits each used."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_INK, _ACCENT, _MUTED = "#1f2933", "#0b6e99", "#c4cdd5"


def draw_month(figures: dict[str, Any], path: Path) -> None:
    """Draw a month as the command prints it; the suffix of the path decides the format."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    # Text stays text, and nothing in the file depends on the moment of drawing.
    with plt.rc_context({"svg.fonttype": "none", "svg.hashsalt": "pocketfl", "font.size": 9}):
        figure, axes = plt.subplots(3, 1, figsize=(8, 8.4), constrained_layout=True)
        figure.suptitle(
            f"{figures['days']} days of {figures['devices']:,} phones: "
            f"{figures['contributions']:,} contributions, "
            f"{figures['over_budget']} devices over budget"
        )
        _by_hour(axes[0], figures)
        _by_day(axes[1], figures)
        _limits(axes[2], figures)
        for axis in axes:
            axis.spines[["top", "right"]].set_visible(False)
        metadata = {"Date": None} if path.suffix == ".svg" else None
        figure.savefig(path, metadata=metadata)
        plt.close(figure)


def _by_hour(axis: Axes, figures: dict[str, Any]) -> None:
    places = 4 * figures["places_per_quarter_hour"]
    for name, colour, label in (
        ("asked", _MUTED, "asked"),
        ("admitted", _ACCENT, "got a place"),
    ):
        counts = np.array(figures["by_hour"][name]) / figures["days"]
        axis.bar(np.arange(24) + 0.5, counts, width=0.9, color=colour, label=label)
    axis.axhline(places, color=_INK, linewidth=0.8, linestyle="--")
    axis.text(24, places, " places", va="center", color=_INK)
    axis.set(xlim=(0, 24), xticks=range(0, 25, 3), xlabel="hour of the day", ylabel="per hour")
    axis.set_title("Check-ins: at night, on the charger, as many as there are places", loc="left")
    axis.legend(frameon=False)


def _by_day(axis: Axes, figures: dict[str, Any]) -> None:
    days = figures["days"]
    for name, colour in (("contributed", _ACCENT), ("stopped", _MUTED)):
        counts = figures["by_day"][name]
        axis.plot(
            np.arange(1, days + 1), counts, color=colour, label=name, marker="o", markersize=3
        )
    axis.set(xlabel="day", ylabel="sessions", ylim=(0, None), xlim=(0.5, days + 0.5))
    axis.set_title(
        "Sessions per day: what ends them early is a broken condition or a budget", loc="left"
    )
    axis.legend(frameon=False)


def _limits(axis: Axes, figures: dict[str, Any]) -> None:
    names = list(reversed(figures["highest"]))
    values = [100 * figures["highest"][name] for name in names]
    labels = [name.replace("_", " ").replace("cpu", "CPU") for name in names]
    axis.barh(labels, values, color=_ACCENT, height=0.6)
    axis.axvline(100, color=_INK, linewidth=0.8, linestyle="--")
    for place, value in enumerate(values):
        axis.text(value, place, f" {value:.0f} %", va="center", color=_INK)
    axis.set(xlabel="% of the limit, the device that used most of it", xlim=(0, 112))
    over = figures["over_budget"]
    title = f"{over} devices are over budget" if over else "Nobody is over budget"
    axis.set_title(title, loc="left")
