"""Which versions a fleet runs: coarse, after the round, and nobody's."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pocketfl_server.versions import MOST_VERSIONS

from .conftest import AVERAGING, CHECK_IN


@pytest.fixture
def check_in(back_end, fleet, make_plan):
    """Lets a number of devices check in to an open round, with a version."""
    plan = make_plan(population=1000)
    back_end.create_task("clicks", plan.data, optimizer=AVERAGING)
    names = iter(range(10_000))

    def some(count: int, sdk: str, *, round: int = 1) -> None:  # noqa: A002
        for _ in range(count):
            token = fleet.token(f"device-{next(names)}")
            back_end.check_in(token, "clicks", round, replace(CHECK_IN, sdk=sdk))

    return some


def test_versions_are_counted_coarsely_once_a_round_has_ended(back_end, check_in) -> None:
    """Two gateways add up; few devices of a kind are together, or nowhere; no row is one device's."""
    back_end.open_round("clicks", seconds=60)
    check_in(47, "1.2.0")
    back_end.turn_rounds()
    check_in(12, "1.2.0.dev3+of-ada")
    check_in(11, "0.9.1")
    check_in(10, "<script>")
    back_end.turn_rounds()
    assert back_end.versions("clicks") is None
    back_end.abort_round("clicks", 1)
    found = back_end.versions("clicks")
    assert found is not None and found.round == 1
    assert found.sdk == {"1.2.0": 50, "other": 20}
    assert found.plan_schema == {"2": 80}
    # A round with too few of any kind shows none, and the funnel knows nothing of versions.
    back_end.open_round("clicks", seconds=60)
    check_in(19, "2.0.0", round=2)
    back_end.turn_rounds()
    back_end.abort_round("clicks", 2)
    assert back_end.versions("clicks").sdk == {}
    assert back_end.funnel("clicks", 2).checked_in == 19


def test_made_up_versions_fill_no_table(back_end, check_in) -> None:
    """Beyond so many they are all one."""
    back_end.open_round("clicks", seconds=60)
    for number in range(MOST_VERSIONS + 30):
        check_in(1, f"{number}.0")
    back_end.turn_rounds()
    with back_end.database.reading() as connection:
        rows = connection.exec_driver_sql("SELECT reason FROM round_counts WHERE stage = 'sdk'")
        assert len(rows.all()) == MOST_VERSIONS + 1
