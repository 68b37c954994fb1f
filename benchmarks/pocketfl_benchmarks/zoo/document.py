"""The tables of ``docs/zoo.md``, written from the committed figures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from pocketfl_benchmarks.zoo.table import (
    COLUMNS,
    LEARNED_COLUMNS,
    describe,
    learned_rows,
    rows_of,
)

BEGIN: Final = (
    "<!-- measured: python -m benchmarks.figures writes this from benchmarks/figures/zoo.json -->"
)
END: Final = "<!-- end of what was measured -->"

_SHOWN: Final = tuple(
    column for column in COLUMNS if column not in {"parameters", "p95", "examples/s", "J/step"}
)


def write_tables(figures: dict[str, Any], path: Path) -> None:
    """Replace what stands between the two marks of a document.

    Raises
    ------
    ValueError
        If the document lacks a mark.
    """
    text = path.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{path} lacks one of the marks {BEGIN!r} and {END!r}")
    path.write_text(f"{before}{BEGIN}\n\n{tables(figures)}\n{END}{after}", encoding="utf-8")


def tables(figures: dict[str, Any]) -> str:
    """Return the tables as Markdown."""
    parts = [
        f"{describe(figures['machine'])}; {figures['wall_seconds']:.0f} s in all.",
        "",
        *_table(_SHOWN, rows_of(figures, _SHOWN)),
    ]
    learned = list(learned_rows(figures))
    if learned:
        parts += ["", *_table(LEARNED_COLUMNS, learned)]
    return "\n".join([*parts, ""])


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    text = {"model", "runtime", "data", "metric"}
    return [
        f"| {' | '.join(columns)} |",
        f"| {' | '.join('---' if column in text else '--:' for column in columns)} |",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]
