"""docs/operators.md says what the gate says: no cell is silently wrong, and none is out of date."""

from __future__ import annotations

import os

import pytest

from . import table
from .cases import CASES, Case

TOLERANCE = 1e-5
SAMPLE = CASES[::12]
EXECUTORCH_SAMPLE = CASES[5::14]
"""An export for ExecuTorch takes seconds; the whole column is measured when the table is written."""


@pytest.fixture(scope="module")
def committed() -> dict[str, dict[str, str]]:
    return table.read(table.PATH.read_text())


def test_every_problem_has_a_row_and_no_row_is_left_over(committed) -> None:
    """A problem that is added, renamed or removed changes the table."""
    keys = [table.key(case) for case in CASES]
    assert list(committed) == keys
    assert len(set(keys)) == len(keys)


def test_no_cell_is_silently_wrong(committed) -> None:
    """A cell is a figure within the gate's tolerance or a refusal that names an operator."""
    for name, cells in committed.items():
        for runtime, cell in cells.items():
            if cell.startswith("refused: "):
                operator, _, reason = cell.removeprefix("refused: ").partition("; ")
                assert operator, name
                assert reason, name
            else:
                assert 0 <= float(cell) <= TOLERANCE, (name, runtime)


def assert_current(case: Case, runtime: str, committed: dict[str, dict[str, str]]) -> None:
    said = committed[table.key(case)][runtime]
    found = str(table.measure(case, runtime))
    # The last digits of a figure depend on the processor.
    assert said.startswith("refused") == found.startswith("refused"), (said, found)
    if said.startswith("refused"):
        assert said.partition(";")[0] == found.partition(";")[0]


@pytest.mark.parametrize("case", SAMPLE, ids=table.key)
def test_a_sample_is_current(case: Case, committed) -> None:
    """The table says what the exporter does today; the rest of it is looked at by the slow tests."""
    assert_current(case, "onnxruntime", committed)


@pytest.mark.slow
@pytest.mark.parametrize("case", [c for c in CASES if c not in SAMPLE], ids=table.key)
def test_the_rest_is_current(case: Case, committed) -> None:
    """As above."""
    assert_current(case, "onnxruntime", committed)


@pytest.mark.slow
@pytest.mark.parametrize("case", EXECUTORCH_SAMPLE, ids=table.key)
def test_a_sample_is_current_on_executorch(case: Case, committed) -> None:
    """As above, on the other runtime."""
    assert_current(case, "executorch", committed)


@pytest.mark.slow
@pytest.mark.timeout(0)
@pytest.mark.skipif("POCKETFL_WRITE_OPERATORS" not in os.environ, reason="writes the table")
def test_write_the_table() -> None:
    """Measure every cell, or those of new rows, and write the document."""
    known = {}
    if os.environ["POCKETFL_WRITE_OPERATORS"] == "new":
        known = table.read(table.PATH.read_text())
    cells = {
        table.key(case): {
            runtime: known.get(table.key(case), {}).get(runtime) or table.measure(case, runtime)
            for runtime in table.RUNTIMES
        }
        for case in CASES
    }
    table.PATH.write_text(table.render(cells))
