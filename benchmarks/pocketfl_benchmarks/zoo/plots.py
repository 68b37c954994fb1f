"""Plots of the zoo's figures."""

from __future__ import annotations

from typing import Any, Final

from matplotlib.figure import Figure

from pocketfl_benchmarks.drawing import inline_svg

_COLOURS: Final = {"onnxruntime": "#35507a", "executorch": "#c2571a"}
_MUTED: Final = "#7a7f87"
_HEIGHT: Final = 0.36


def plot_ratios(figures: dict[str, Any]) -> str:
    """Return each model's step time on each runtime, relative to eager torch."""
    figure, axes, names = _blank(figures, "step time relative to eager torch (less is faster)")
    for offset, runtime in _bars(figures):
        values = [_value(figures, name, runtime, "ratio") for name in names]
        places = [place + offset for place in range(len(names))]
        axes.barh(places, values, _HEIGHT, color=_COLOURS[runtime], label=runtime)
        for place, value in zip(places, values, strict=True):
            if value:
                axes.annotate(f" {value:.2f}", (value, place), va="center", fontsize=8)
    axes.axvline(1.0, color=_MUTED, linewidth=1, linestyle="--")
    _legend(axes)
    return inline_svg(figure, "step time by model")


def plot_sizes(figures: dict[str, Any]) -> str:
    """Return the bytes to predict with, in float32 and 8 bits, and those of the training step."""
    runtime = next(iter(_runtimes(figures)))
    figure, axes, names = _blank(figures, f"kB, {runtime}")
    kinds = (
        ("step, without parameters", "step_bytes", "#9aa7bd"),
        ("predict, float32", "inference_bytes", "#35507a"),
        ("predict, 8 bits", "inference_int8_bytes", "#0b6e4f"),
    )
    height = 0.26
    for index, (label, key, colour) in enumerate(kinds):
        values = [_value(figures, name, runtime, key) / 1e3 for name in names]
        axes.barh(
            [place + (index - 1) * height for place in range(len(names))],
            values,
            height,
            color=colour,
            label=label,
        )
    axes.set_xscale("log")
    _legend(axes)
    return inline_svg(figure, "sizes by model")


def plot_memory(figures: dict[str, Any]) -> str:
    """Return the peak memory of a process that trains each model."""
    figure, axes, names = _blank(figures, "peak resident memory of the process, MB")
    for offset, runtime in _bars(figures):
        axes.barh(
            [place + offset for place in range(len(names))],
            [_value(figures, name, runtime, "peak_rss_mb") for name in names],
            _HEIGHT,
            color=_COLOURS[runtime],
            label=runtime,
        )
    _legend(axes)
    return inline_svg(figure, "memory by model")


def _runtimes(figures: dict[str, Any]) -> list[str]:
    return [name for name in _COLOURS if any(name in m for m in figures["models"].values())]


def _bars(figures: dict[str, Any]) -> list[tuple[float, str]]:
    runtimes = _runtimes(figures)
    middle = (len(runtimes) - 1) / 2
    return [((index - middle) * _HEIGHT, name) for index, name in enumerate(runtimes)]


def _value(figures: dict[str, Any], model: str, runtime: str, key: str) -> float:
    value = figures["models"][model].get(runtime, {}).get(key)
    return float(value or 0.0)


def _legend(axes: Any) -> None:
    # Above the bars, which reach into every corner.
    axes.legend(
        frameon=False, fontsize=8, loc="lower left", bbox_to_anchor=(0, 1), ncols=3, borderpad=0
    )


def _blank(figures: dict[str, Any], label: str) -> tuple[Figure, Any, list[str]]:
    names = list(figures["models"])
    figure = Figure(figsize=(6.4, 1.2 + 0.42 * len(names)), layout="constrained")
    axes = figure.subplots()
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlabel(label)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", color="#e4e6ea", linewidth=0.8)
    axes.set_axisbelow(True)
    return figure, axes, names
