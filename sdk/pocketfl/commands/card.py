"""How ``pocketfl plan show`` prints a plan's card."""

from __future__ import annotations

from typing import Final

from rich.console import Console
from rich.table import Table

from pocketfl.plan.card import ModelCard, PlanCard

_SHOWN_OPERATORS: Final = 8


def print_card(card: PlanCard, *, console: Console) -> None:
    """Print the modeller's text, what each graph costs, and what each part is made of."""
    if card.text is not None:
        console.print(_text(card.text))
    if card.costs:
        console.print(_costs(card))
    if card.operators:
        console.print(_operators(card))
    for runtime, difference in sorted(card.differences.items()):
        console.print(
            f"{runtime}: a step differed from torch by at most {difference:.1e} at export",
            highlight=False,
        )
    if card.rounding is not None:
        console.print(
            f"stored as float16: initial parameters differ from the modeller's by at most "
            f"{card.rounding:.1e}",
            highlight=False,
        )


def _text(text: ModelCard) -> Table:
    table = Table(title="model card", title_justify="left", show_header=False)
    rows = {
        "predicts": text.predicts,
        "data": text.data,
        **{f"metric: {name}": f"{value:g}" for name, value in text.metrics.items()},
        "limits": text.limits,
        "licence": text.licence,
    }
    for label, said in rows.items():
        table.add_row(label, said or "not stated")
    return table


def _costs(card: PlanCard) -> Table:
    title = "one call: million operations, MB of tensors alive at once"
    table = Table(title=title, title_justify="left")
    table.add_column("batch", justify="right")
    parts = sorted(card.costs, key=lambda part: (part != "train", part))
    for part in parts:
        table.add_column(part, justify="right")
        table.add_column("MB", justify="right")
    sizes = sorted({cost.batch_size for costs in card.costs.values() for cost in costs})
    for size in sizes:
        cells = [f"{size:,}"]
        for part in parts:
            cost = next((one for one in card.costs[part] if one.batch_size == size), None)
            cells += (
                ["-", "-"]
                if cost is None
                else [f"{cost.flops / 1e6:,.2f}", f"{cost.memory_bytes / 1e6:,.2f}"]
            )
        table.add_row(*cells)
    return table


def _operators(card: PlanCard) -> Table:
    table = Table("part", "operators", "of these")
    table.columns[1].justify = "right"
    for part, counts in card.operators.items():
        ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        named = [f"{count} {name.removeprefix('aten::')}" for name, count in ranked]
        hidden = len(named) - _SHOWN_OPERATORS
        shown = named[:_SHOWN_OPERATORS] + ([f"{hidden} other kinds"] if hidden > 0 else [])
        table.add_row(part, f"{sum(counts.values()):,}", ", ".join(shown))
    return table
