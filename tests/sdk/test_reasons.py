"""Reasons read as sentences."""

from __future__ import annotations

import pytest

from pocketfl.reasons import Reason


@pytest.mark.parametrize(
    ("observed", "required", "text"),
    [
        ("24 %", ">= 30 %", "battery 24 % < 30 %"),
        ("900 s", "<= 600 s", "battery 900 s > 600 s"),
        ("unknown", ">= 30 %", "battery unknown, required >= 30 %"),
        ("severe", "at most light", "battery severe, required at most light"),
        ("3 of 3", "another day", "battery 3 of 3, required another day"),
    ],
)
def test_a_reason_reads_as_a_comparison_where_it_is_one(
    observed: str, required: str, text: str
) -> None:
    """Two quantities are compared with the sign that is true; words stand beside what was required."""
    assert str(Reason(condition="battery", observed=observed, required=required)) == text
