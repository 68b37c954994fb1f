"""What the fleet taught goes into the plan's features, and nothing else changes."""

import math

import pytest

from pocketfl.balancing import balance_classes
from pocketfl.features.bundle import TransformBundle
from pocketfl.features.transforms import Scale
from pocketfl_benchmarks.flights.statistics import Learned, statistics_queries
from pocketfl_benchmarks.flights.task import FEATURES, Schedule


def test_what_was_learned_replaces_ranges_and_balances_the_label():
    """The bundle's numbers are in the features, which name it; the output starts where training is."""
    bundle = TransformBundle(
        name="flights", version="1", transforms=(Scale(field="seats", low=20, high=300),)
    )
    policy = balance_classes([0.85, 0.15], method="weight", strength=1.0)
    learned = Learned(bundle=bundle, balancing=policy)
    made = learned.apply(FEATURES)
    (seats,) = [c for c in made.inputs[0].columns if isinstance(c, Scale) and c.field == "seats"]
    assert (seats.low, seats.high) == (20, 300)
    assert made.bundle == bundle.reference
    assert made.label.balancing == policy
    assert learned.starting_logit == pytest.approx(0.0)
    nothing = Learned(bundle=None, balancing=None, hidden=("seats",))
    assert nothing.apply(FEATURES) == FEATURES
    assert nothing.starting_logit is None


def test_all_questions_fit_one_report():
    """Shares of label and features fill the norm exactly."""
    shares = [query.share for query in statistics_queries(FEATURES).queries]
    assert math.fsum(share**2 for share in shares) == pytest.approx(1)


def test_rounds_beside_statistics_carry_a_little_more_noise():
    """What the statistics spend is taken from the rounds, and is little."""
    schedule = Schedule(population=3196)
    alone = schedule.privacy().noise_multiplier
    beside = schedule.privacy(beside=6.0).noise_multiplier
    assert alone < beside < 1.05 * alone
