"""``pocketfl bench asynchronous`` and ``bench poisoning``: the made-up fleet, and what both print."""

from __future__ import annotations

import json

import numpy as np
import pytest
from dp_accounting import GaussianDpEvent, rdp
from typer.testing import CliRunner

from pocketfl_benchmarks.asynchronous.fleet import DAY, HOUR, Phones
from pocketfl_benchmarks.asynchronous.simulation import (
    BOUNDS,
    PARTICIPATIONS,
    Rounds,
    Training,
    production_noise,
)
from pocketfl_benchmarks.commands import bench
from pocketfl_benchmarks.flights.simulation import FleetFlights, Lies
from pocketfl_benchmarks.flights.task import DELTA, EPSILON, OPTIMIZER, LatenessModel


class Watched(Training):
    """Remembers at which releases each device checked in."""

    def __init__(self, *arguments, **options) -> None:
        super().__init__(*arguments, **options)
        self.releases_of_device: dict[int, list[int]] = {}

    def _check_in(self, device, now):
        self.releases_of_device.setdefault(device, []).append(self.run.releases)
        return super()._check_in(device, now)


WIDTH = next(LatenessModel().parameters()).shape[1]


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
def test_both_benchmarks_print_their_figures(tmp_path) -> None:
    """On the real flights, small: every kind of round gets there; ranges hold what is between them."""
    few = ["--reports", "40", "--buffer", "20", "--target", "0.6", "--seeds", "2", "--json"]
    few += ["--noise-multiplier", "0.2", "--learning-rate", "0.1"]
    result = CliRunner().invoke(bench, ["asynchronous", *few, "--plot", str(tmp_path / "a.svg")])
    assert result.exit_code == 0, result.output
    figures = json.loads(result.stdout)
    rows = figures["results"]
    assert [row["reached"] for row in rows] == [2] * 4
    for row in rows:
        assert 0 < row["hours_least"] <= row["hours"] <= row["hours_most"] < 6
        assert 0.6 <= row["auc_least"] <= row["auc"] <= row["auc_most"]
        assert [run[-1][1] >= 0.6 for run in row["hours_and_best_auc"]] == [True, True]
    assert [row["mean_staleness"] for row in rows[:2]] == [0, 0]
    assert "asynchronous, 40" in (tmp_path / "a.svg").read_text()
    small = ["--rounds", "2", "--cohort", "60", "--seeds", "2", "--share", "0.2", "--json"]
    result = CliRunner().invoke(bench, ["poisoning", *small, "--plot", str(tmp_path / "p.svg")])
    assert result.exit_code == 0, result.output
    figures = json.loads(result.stdout)
    assert [row["lie"] for row in figures["results"]] == ["flipped", "opposed"]
    for row in figures["results"]:
        least, most = row["auc_points_lost_least"], row["auc_points_lost_most"]
        assert least <= row["auc_points_lost"] <= most
    assert (tmp_path / "p.svg").exists()


def test_both_kinds_of_rounds_keep_to_one_rule() -> None:
    """A device's check-ins lie the separation apart and are no more than the cap, with either kind."""
    generator = np.random.default_rng(3)
    count = 60
    table = FleetFlights(
        generator.normal(size=(count, WIDTH)).astype(np.float32),
        (np.arange(count) % 2).astype(np.float32),
        [slice(n, n + 1) for n in range(count)],
        generator.normal(size=(20, WIDTH)).astype(np.float32),
        (np.arange(20) % 2).astype(np.float32),
    )
    for is_asynchronous in (False, True):
        phones = Phones(
            seconds=np.full(count, 60.0),
            begin=np.zeros(count),
            length=np.full(count, DAY),
            drop_out=0.08,
        )
        rounds = Rounds(name="", reports=5, at_once=7, asynchronous=is_asynchronous)
        training = Watched(table, phones, rounds, optimizer=OPTIMIZER, noise_multiplier=0.1, seed=1)
        training.until(2.0, days=0.2)
        releases = training.releases_of_device
        assert max(map(len, releases.values())) == PARTICIPATIONS, is_asynchronous
        gaps = np.concatenate([np.diff(each) for each in releases.values()])
        assert gaps.min() >= BOUNDS.min_separation
        assert max(training.run.staleness) <= BOUNDS.max_staleness


def test_noise_makes_all_participations_the_demos_epsilon() -> None:
    """Renyi accounting, which is never below the exact figure, comes to a little more than it."""
    accountant = rdp.RdpAccountant()
    accountant.compose(GaussianDpEvent(production_noise()), PARTICIPATIONS)
    assert EPSILON < accountant.get_epsilon(DELTA) < 1.1 * EPSILON
