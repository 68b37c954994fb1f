"""The month in one picture: when devices ask and contribute, and how much of its limits each used."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pocketfl_benchmarks.life.habits import DAY
from pocketfl_benchmarks.life.simulation import Month, MonthSettings

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_INK, _ACCENT, _MUTED = "#1f2933", "#0b6e99", "#c4cdd5"


def draw_month(
    month: Month, verdict: dict[str, Any], settings: MonthSettings, *, path: Path
) -> None:
    """Draw a month.

    Parameters
    ----------
    month : Month
        What happened.
    verdict : dict
        What :func:`~pocketfl_benchmarks.life.simulation.judge_month` found.
    settings : MonthSettings
        What was run.
    path : Path
        Where the picture goes; its suffix decides the format.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    # Text stays text, and nothing in the file depends on the moment of drawing.
    with plt.rc_context({"svg.fonttype": "none", "svg.hashsalt": "pocketfl", "font.size": 9}):
        figure, axes = plt.subplots(3, 1, figsize=(8, 8.4), constrained_layout=True)
        figure.suptitle(
            f"{settings.days} days of {settings.devices:,} phones: "
            f"{sum(s.sent for made in month.sessions.values() for s in made):,} contributions, "
            f"{verdict['over_budget']} devices over budget"
        )
        _by_hour(axes[0], month, settings)
        _by_day(axes[1], month, settings)
        _limits(axes[2], verdict)
        for axis in axes:
            axis.spines[["top", "right"]].set_visible(False)
        metadata = {"Date": None} if path.suffix == ".svg" else None
        figure.savefig(path, metadata=metadata)
        plt.close(figure)


def _by_hour(axis: Axes, month: Month, settings: MonthSettings) -> None:
    bins = np.arange(25)
    asked = np.repeat([slot * 0.25 % 24 for slot in month.asked], list(month.asked.values()))
    admitted = np.repeat(
        [slot * 0.25 % 24 for slot in month.admitted], list(month.admitted.values())
    )
    for hours, colour, label in (
        (asked, _MUTED, "asked"),
        (admitted, _ACCENT, "got a place"),
    ):
        counts, _ = np.histogram(hours, bins)
        axis.bar(bins[:-1] + 0.5, counts / settings.days, width=0.9, color=colour, label=label)
    axis.axhline(settings.places_per_hour, color=_INK, linewidth=0.8, linestyle="--")
    axis.text(24, settings.places_per_hour, " places", va="center", color=_INK)
    axis.set(xlim=(0, 24), xticks=range(0, 25, 3), xlabel="hour of the day", ylabel="per hour")
    axis.set_title("Check-ins: at night, on the charger, as many as there are places", loc="left")
    axis.legend(frameon=False)


def _by_day(axis: Axes, month: Month, settings: MonthSettings) -> None:
    ended = [s for made in month.sessions.values() for s in made]
    first = min((s.ended_at for s in ended), default=0.0) // DAY * DAY
    days = np.arange(settings.days + 1)
    for sent, colour, label in ((True, _ACCENT, "contributed"), (False, _MUTED, "stopped")):
        counts, _ = np.histogram(
            [(s.ended_at - first) / DAY for s in ended if s.sent is sent], days
        )
        axis.plot(days[:-1] + 1, counts, color=colour, label=label, marker="o", markersize=3)
    axis.set(xlabel="day", ylabel="sessions", ylim=(0, None), xlim=(0.5, settings.days + 0.5))
    axis.set_title(
        "Sessions per day: what ends them early is a broken condition or a budget", loc="left"
    )
    axis.legend(frameon=False)


def _limits(axis: Axes, verdict: dict[str, Any]) -> None:
    names = list(reversed(verdict["highest"]))
    values = [100 * verdict["highest"][name] for name in names]
    labels = [name.replace("_", " ").replace("cpu", "CPU") for name in names]
    axis.barh(labels, values, color=_ACCENT, height=0.6)
    axis.axvline(100, color=_INK, linewidth=0.8, linestyle="--")
    for place, value in enumerate(values):
        axis.text(value, place, f" {value:.0f} %", va="center", color=_INK)
    axis.set(xlabel="% of the limit, the device that used most of it", xlim=(0, 112))
    over = verdict["over_budget"]
    title = f"{over} devices are over budget" if over else "Nobody is over budget"
    axis.set_title(title, loc="left")
