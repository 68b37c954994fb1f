"""Reasons read as sentences."""

from __future__ import annotations

import pytest

from pocketfl.reasons import Reason, combined_retry, format_wait


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


def reason(retry: tuple[float, float] | None) -> Reason:
    return Reason(condition="battery", observed="24 %", required=">= 30 %", retry_seconds=retry)


def test_several_reasons_wait_for_the_last() -> None:
    """It is worth looking again when the longest of them may have passed."""
    assert combined_retry([]) == (0, 0)
    assert combined_retry([reason((60, 600)), reason((300, 400))]) == (300, 600)
    assert combined_retry([reason((60, 600)), reason(None)]) is None


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        ((18_000, 25_200), "5-7 h"),
        ((900, 1800), "15-30 min"),
        ((7200, 7200), "2 h"),
        ((0, 5400), "0-90 min"),
        ((0, 0), "0 s"),
        ((10, 40), "10-40 s"),
    ],
)
def test_a_wait_is_written_for_people(seconds: tuple[float, float], text: str) -> None:
    """In the largest unit that still tells the two ends apart."""
    assert format_wait(seconds) == text
