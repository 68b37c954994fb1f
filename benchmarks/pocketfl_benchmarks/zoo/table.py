"""The zoo's figures in a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from rich.console import Console
from rich.table import Table

from pocketfl.plan.manifest import RUNTIME_NAMES
from pocketfl_benchmarks.zoo.comparison import Change

COLUMNS = (
    "model",
    "parameters",
    "runtime",
    "step ms",
    "p95",
    "ratio",
    "examples/s",
    "peak MB",
    "open ms",
    "step kB",
    "predict kB",
    "int8 kB",
    "agrees",
    "J/step",
    "round fits",
)


LEARNED_COLUMNS = ("model", "data", "steps", "metric", "torch", *RUNTIME_NAMES)

SPEED_COLUMNS = ("model", "runtime", "step ms", "p95", "ratio", "examples/s", "open ms", "J/step")
SIZE_COLUMNS = (
    "model",
    "runtime",
    "peak MB",
    "step kB",
    "predict kB",
    "int8 kB",
    "agrees",
    "round fits",
)


def figure_rows(figures: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """Yield the cells of every model and runtime, as terminal and page show them."""
    for name, model in figures["models"].items():
        for runtime, values in runtimes_of(model):
            head = (name, f"{model['parameters']:,}", runtime)
            if "refused" in values:
                yield (*head, "refused", *[""] * (len(COLUMNS) - 4))
                continue
            yield (
                *head,
                f"{values['ms']:.2f}",
                f"{values['p95_ms']:.2f}",
                f"{values['ratio']:.2f}",
                f"{values['examples_per_second']:,.0f}",
                f"{values['peak_rss_mb']:.0f}",
                f"{values['session_ms']:.0f}",
                f"{values['step_bytes'] / 1e3:.1f}",
                f"{values['inference_bytes'] / 1e3:.0f}",
                _or_dash(values["inference_int8_bytes"], lambda v: f"{v / 1e3:.0f}"),
                _or_dash(values["int8_agreement"], lambda v: f"{v:.1%}"),
                _or_dash(values["joules"], lambda v: f"{v:.3f}", "not measured"),
                verdict(values["round"]),
            )


def rows_of(figures: dict[str, Any], columns: Iterable[str]) -> Iterator[tuple[str, ...]]:
    """Yield some of the columns of :func:`figure_rows`."""
    places = [COLUMNS.index(column) for column in columns]
    for row in figure_rows(figures):
        yield tuple(row[place] for place in places)


def learned_rows(figures: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """Yield the cells of :data:`LEARNED_COLUMNS`, of every model that learnt from real data."""
    for name, model in figures["models"].items():
        if "torch_quality" not in model:
            continue
        reached = dict(runtimes_of(model))
        yield (
            name,
            model["quality_of"],
            f"{model['quality_steps']}",
            model["quality_metric"],
            f"{model['torch_quality']:.4f}",
            *(
                f"{reached[runtime]['quality']:.4f}"
                if reached.get(runtime, {}).get("quality") is not None
                else "-"
                for runtime in RUNTIME_NAMES
            ),
        )


def runtimes_of(model: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the runtimes of a model's figures."""
    for name, values in model.items():
        if isinstance(values, dict):
            yield name, values


def verdict(cost: dict[str, Any]) -> str:
    """Return "yes", or what a round does not fit into."""
    names = (("fits_time", "4 min"), ("fits_bytes", "50 MB"), ("fits_battery", "1 % battery"))
    missed = [text for key, text in names if not cost[key]]
    return "no: " + ", ".join(missed) if missed else "yes"


def notes_of(figures: dict[str, Any]) -> Iterator[str]:
    """Yield what was refused or could not be had, and why."""
    for name, model in figures["models"].items():
        if "quality_missing" in model:
            yield f"{name} on real data: {model['quality_missing']}"
        for runtime, values in runtimes_of(model):
            for note in [values["refused"]] if "refused" in values else values["notes"]:
                yield f"{name} on {runtime}: {note}"


def describe(machine: dict[str, Any]) -> str:
    """Return the machine in one line."""
    libraries = ", ".join(f"{name} {found}" for name, found in machine["libraries"].items())
    return (
        f"{machine['processor']}, {machine['cores']} cores, load {machine['load_average']}, "
        f"{machine['system']}; {libraries}"
    )


def print_figures(figures: dict[str, Any]) -> None:
    """Print the table, the machine, and what was refused."""
    rows = list(figures["models"].values())
    size = rows[0]["batch_size"] if rows else 0
    console = Console()
    if not console.is_terminal:  # A file has all the width that it needs.
        console = Console(width=120)
    title = f"One training step at batch {size}, one thread; ratio to eager torch in the same run"
    console.print(_part_of_table(figures, SPEED_COLUMNS, title))
    console.print(_part_of_table(figures, SIZE_COLUMNS, "What it takes, and whether a round fits"))
    learned = list(learned_rows(figures))
    if learned:
        console.print(_learned_table(learned))
    console.print(describe(figures["machine"]), highlight=False)
    console.print(f"{figures['wall_seconds']:.0f} s in all", highlight=False)
    for note in notes_of(figures):
        console.print(note, highlight=False)


def _part_of_table(figures: dict[str, Any], columns: tuple[str, ...], title: str) -> Table:
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, justify="left" if column in {"model", "runtime"} else "right")
    for row in rows_of(figures, columns):
        table.add_row(*row)
    return table


def _learned_table(rows: Iterable[tuple[str, ...]]) -> Table:
    table = Table(title="What they learn from real data", title_justify="left")
    for column in LEARNED_COLUMNS:
        left = column in {"model", "data", "metric"}
        table.add_column(column, justify="left" if left else "right")
    for row in rows:
        table.add_row(*row)
    return table


def print_changes(changes: Iterable[Change], *, machines: list[Any]) -> None:
    """Print what changed; figures that stayed within 2 % are left out."""
    table = Table("model", "runtime", "figure", "before", "after", "change")
    shown = 0
    for change in changes:
        if change.before == change.after or (change.factor and abs(change.factor - 1) < 0.02):
            continue
        colour = {True: "green", False: "red", None: "yellow"}[change.is_better]
        moved = "-" if change.factor is None else f"{100 * (change.factor - 1):+.0f} %"
        table.add_row(
            change.model,
            change.runtime,
            change.figure,
            _or_dash(change.before, lambda v: f"{v:,.4g}"),
            _or_dash(change.after, lambda v: f"{v:,.4g}"),
            f"[{colour}]{moved}[/{colour}]",
        )
        shown += 1
    console = Console()
    console.print(table if shown else "nothing changed by more than 2 %")
    for label, machine in zip(("before", "after"), machines, strict=True):
        if isinstance(machine, dict):
            console.print(f"{label}: {describe(machine)}", highlight=False)


def _or_dash(value: Any, show: Any, missing: str = "-") -> str:
    return missing if value is None else str(show(value))
