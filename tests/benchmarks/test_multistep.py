"""Steps of a Scan are the steps of calls."""

from __future__ import annotations

from pocketfl_benchmarks.models import MODELS
from pocketfl_benchmarks.multistep import measure
from pocketfl_export.problem import make_problem


def test_ten_steps_in_one_call_end_where_ten_calls_end() -> None:
    """The same arithmetic in the same order, so that the figures compare the same work."""
    figures = measure(make_problem(*MODELS["mlp"]()), repeats=1)
    assert figures["max_difference"] <= 1e-7
    assert set(figures) == {"calls_us", "scan_us", "ratio", "max_difference"}
