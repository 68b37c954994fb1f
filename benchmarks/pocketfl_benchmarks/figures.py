"""Draws the documents' figures, and writes their tables, from the committed JSON of benchmarks.

``python -m benchmarks.figures`` from the root of the repository does so for every JSON that is there.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from matplotlib.figure import Figure

from pocketfl_benchmarks.analytics.plot import draw_metrics
from pocketfl_benchmarks.asynchronous.plot import draw_curves
from pocketfl_benchmarks.balancing.plot import draw_ablation
from pocketfl_benchmarks.life.plot import draw_month
from pocketfl_benchmarks.poisoning.plot import draw_losses
from pocketfl_benchmarks.soak.plot import plot as draw_soak
from pocketfl_benchmarks.zoo.document import write_tables

COMMITTED: Final = Path("benchmarks/figures")
IMAGES: Final = Path("docs/images")
ZOO: Final = Path("docs/zoo.md")

_REQUESTS: Final = {
    "enrolment": "enrolment",
    "check_in": "check-in",
    "report": "report, on disk",
    "plan_download": "plan",
    "parameters_download": "parameters",
    "notices": "notices",
}


def draw_capacity(figures: dict[str, Any], path: Path) -> None:
    """Draw what one core of a gateway answers, and how long that takes, into a file."""
    import matplotlib as mpl

    figure = Figure(figsize=(8.0, 2.9), layout="constrained")
    rates, waits = figure.subplots(1, 2, sharey=True)
    names = [title for key, title in _REQUESTS.items() if key in figures]
    kinds = [figures[key] for key in _REQUESTS if key in figures]
    for axes, title, values in (
        (rates, "requests per core and second", [kind["per_core_second"] for kind in kinds]),
        (waits, "99th percentile, milliseconds", [kind["p99_ms"] for kind in kinds]),
    ):
        bars = axes.barh(names, values, color="#35507a")
        axes.bar_label(bars, fmt="{:,.0f}", padding=3, fontsize=9)
        axes.set_title(title, fontsize=10)
        axes.margins(x=0.18)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="x", color="#e4e6ea", linewidth=0.8)
        axes.set_axisbelow(True)
    rates.invert_yaxis()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "capacity"}):
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


_SIMULATORS: Final = {"pocketfl": "PocketFL", "pfl": "pfl-research", "flower": "Flower"}
_WORKS: Final = {"mlp": "flights, MLP", "cnn": "Fashion-MNIST, CNN"}


def draw_simulators(figures: dict[str, Any], path: Path) -> None:
    """Draw the devices that each simulator trains in a second, into a file."""
    import matplotlib as mpl

    figure = Figure(figsize=(8.0, 2.0), layout="constrained")
    for axes, (kind, title) in zip(figure.subplots(1, len(_WORKS)), _WORKS.items(), strict=True):
        values = [figures[kind][f"{name}_devices_per_second"] for name in _SIMULATORS]
        bars = axes.barh(
            list(_SIMULATORS.values()), values, color=["#35507a", "#a9b4c6", "#a9b4c6"]
        )
        axes.bar_label(bars, fmt="{:,.0f}", padding=3, fontsize=9)
        axes.set_title(f"{title}: devices a second", fontsize=10)
        axes.margins(x=0.18)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="x", color="#e4e6ea", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.invert_yaxis()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "simulators"}):
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


_DRAWINGS: Final[dict[str, tuple[str, Callable[[dict[str, Any], Path], None]]]] = {
    "asynchronous.svg": ("asynchronous.json", draw_curves),
    "capacity.svg": ("scale.json", draw_capacity),
    "poisoning.svg": ("poisoning.json", draw_losses),
    "simulators.svg": ("simulators.json", draw_simulators),
    "soak.svg": ("soak.json", draw_soak),
    "month.svg": ("life.json", draw_month),
    "metrics.svg": ("analytics.json", draw_metrics),
    "balancing.svg": ("balancing.json", draw_ablation),
}


def draw_all(images: Path = IMAGES) -> list[Path]:
    """Draw every figure whose JSON is committed, and return the files."""
    drawn: list[Path] = []
    for image, (name, draw) in _DRAWINGS.items():
        source, path = COMMITTED / name, images / image
        if source.exists():
            draw(json.loads(source.read_text()), path)
            drawn.append(path)
    return drawn


def write_zoo(document: Path = ZOO) -> list[Path]:
    """Write the zoo's tables into its document if their JSON is committed; return what was written."""
    source = COMMITTED / "zoo.json"
    if not source.exists():
        return []
    write_tables(json.loads(source.read_text()), document)
    return [document]
