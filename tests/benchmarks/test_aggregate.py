"""``pocketfl bench aggregate`` sums real sealed reports and says so in the agreed form."""

from __future__ import annotations

import json

from typer.testing import CliRunner

from pocketfl_benchmarks.commands import bench


def test_figures_have_the_agreed_names_and_belong_together():
    """Every figure of the contract is there, for both kinds of reports."""
    result = CliRunner().invoke(
        bench, ["aggregate", "--json", "--parameters", "2000", "--reports", "30"]
    )
    assert result.exit_code == 0, result.output
    figures = json.loads(result.stdout)
    for kind, size in ((figures, 5 + 4000 + 48), (figures["four_bits"], 5 + 1008 + 48)):
        assert (kind["parameters"], kind["report_bytes"]) == (2000, size)
        rate, bound = kind["reports_per_second_per_core"], kind["bound_per_second"]
        assert 0 < rate < bound
        assert abs(kind["ratio_to_bound"] - rate / bound) < 1e-9
