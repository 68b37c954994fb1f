"""``pocketfl bench asynchronous`` and ``bench poisoning``: the made-up fleet, and what both print."""

from __future__ import annotations

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from pocketfl_benchmarks.asynchronous.fleet import DAY, HOUR, Phones
from pocketfl_benchmarks.commands import bench
from pocketfl_benchmarks.flights.simulation import Lies


def test_phones_are_there_by_night_and_differ_in_speed() -> None:
    """More of them at one in the night than at one in the day; two orders of magnitude in speed."""
    generator = np.random.default_rng(1)
    phones = Phones.draw(3000, drop_out=0.08, generator=generator)
    night, day = (float((phones.hours_left(t) > 0).mean()) for t in (HOUR, 13 * HOUR))
    assert night > 2 * day > 0
    assert phones.seconds.max() > 100 * phones.seconds.min()
    assert np.allclose(phones.hours_left(5 * DAY + HOUR), phones.hours_left(HOUR))


def test_sessions_break_off_at_the_stated_rate_or_when_the_phone_leaves() -> None:
    """Of 4,000 sessions of devices that stay, 8 % break off, give or take five deviations."""
    generator = np.random.default_rng(2)
    phones = Phones(
        seconds=np.full(2, 60.0),
        begin=np.array([0.0, 0.0]),
        length=np.array([0.9 * DAY, 1.0]),
        drop_out=0.08,
    )
    done = np.mean([phones.session(0, HOUR, generator)[1] for _ in range(4000)])
    assert abs(done - 0.92) < 5 * (0.92 * 0.08 / 4000) ** 0.5
    assert not any(phones.session(1, 0.5, generator)[1] for _ in range(20))


def test_a_lie_is_the_opposite_and_far_above_any_clip() -> None:
    """Of what was learnt, or of where the model went, in which all that lie agree."""
    update, step = np.array([1.0, 0.0], np.float32), np.array([0.0, 2.0], np.float32)
    assert Lies(share=0.1, kind="flipped").told(update, step).tolist() == [-1e6, 0.0]
    assert Lies(share=0.1, kind="opposed").told(update, step).tolist() == [0.0, -2e6]
    assert Lies(share=0.1, kind="opposed").told(update, None).tolist() == [-1e6, 0.0]


@pytest.mark.slow
def test_both_benchmarks_print_their_figures() -> None:
    """On the real flights, small: every kind of round gets there, and lies cost something."""
    few = ["--reports", "40", "--buffer", "20", "--target", "0.6", "--seeds", "1", "--json"]
    result = CliRunner().invoke(bench, ["asynchronous", *few])
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)["results"]
    assert [row["reached"] for row in rows] == [1, 1, 1]
    assert all(0 < row["hours"] < 48 and row["auc"] >= 0.6 for row in rows)
    assert rows[0]["mean_staleness"] == 0 <= rows[1]["mean_staleness"]
    small = ["--rounds", "2", "--cohort", "60", "--seeds", "1", "--share", "0.2", "--json"]
    result = CliRunner().invoke(bench, ["poisoning", *small])
    assert result.exit_code == 0, result.output
    figures = json.loads(result.stdout)
    assert [row["lie"] for row in figures["results"]] == ["flipped", "opposed"]
