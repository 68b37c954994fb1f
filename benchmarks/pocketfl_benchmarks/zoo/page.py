"""The zoo's figures as one HTML file that asks nothing of the network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from pocketfl_benchmarks.zoo.plots import plot_memory, plot_ratios, plot_sizes
from pocketfl_benchmarks.zoo.round_cost import ROUND_EPOCHS, ROUND_EXAMPLES
from pocketfl_benchmarks.zoo.table import (
    LEARNED_COLUMNS,
    SIZE_COLUMNS,
    SPEED_COLUMNS,
    describe,
    learned_rows,
    notes_of,
    rows_of,
    runtimes_of,
)


def render_page(figures: dict[str, Any]) -> str:
    """Return the page."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pocketfl_benchmarks.zoo"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    drawings = (plot_ratios(figures), plot_sizes(figures), plot_memory(figures))
    return environment.get_template("zoo.html.j2").render(
        tables=[
            (columns, list(rows_of(figures, columns))) for columns in (SPEED_COLUMNS, SIZE_COLUMNS)
        ],
        learned_columns=LEARNED_COLUMNS,
        learned=list(learned_rows(figures)),
        models=figures["models"],
        runtimes_of=runtimes_of,
        machine=describe(figures["machine"]),
        wall_seconds=figures["wall_seconds"],
        notes=list(notes_of(figures)),
        # Our own drawings, in which nothing comes from outside.
        plots=[Markup(drawing) for drawing in drawings],  # noqa: S704
        round_examples=ROUND_EXAMPLES,
        round_epochs=ROUND_EPOCHS,
    )


def write_page(figures: dict[str, Any], path: Path) -> None:
    """Write the page, making the folder if it does not exist."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render_page(figures), encoding="utf-8")
