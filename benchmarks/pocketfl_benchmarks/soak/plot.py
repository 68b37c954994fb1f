"""The plot of a soak: memory over time."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from matplotlib.figure import Figure

_COLOURS: Final = {"gateway": "#35507a", "trusted": "#c2571a"}
_NAMES: Final = {"gateway": "gateway", "trusted": "trusted tier"}


def plot(figures: dict[str, Any], path: Path) -> None:
    """Draw the memory of both processes into a file; its name's ending says the format."""
    import matplotlib as mpl

    figure = Figure(figsize=(6.4, 3.2), layout="constrained")
    axes = figure.subplots()
    minutes = [sample["seconds"] / 60 for sample in figures["samples"]]
    for name, colour in _COLOURS.items():
        slope = figures["memory"][name]["slope_mb_per_hour"]
        axes.plot(
            minutes,
            [sample[name] for sample in figures["samples"]],
            color=colour,
            label=f"{_NAMES[name]} ({slope:+.1f} MB an hour)",
        )
    axes.set_ylim(bottom=0)
    axes.set_xlabel("minutes")
    axes.set_ylabel("own memory, MB")
    axes.set_title(
        f"{figures['requests']:,} requests, {figures['reports']:,} reports in "
        f"{sum(figures['rounds'].values())} rounds, {figures['errors']} errors",
        fontsize=10,
    )
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e4e6ea", linewidth=0.8)
    axes.legend(frameon=False, fontsize=9)
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "soak"}):
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
