"""Which rounds a token is for, and how far two tokens of a device lie apart."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketfl.plan import AsynchronousSpec
from pocketfl_server.credentials.epochs import (
    AHEAD,
    check_rounds_per_token,
    epoch_of,
    epochs_ahead,
    epochs_apart,
)


@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 200))
def test_epochs_keep_the_separation(rounds_per_token, separation, latest) -> None:
    """Tokens lie apart as the plan says, so the accountant's number holds for any device."""
    apart = epochs_apart(rounds_per_token, separation=separation)
    ahead = epochs_ahead(latest, rounds_per_token=rounds_per_token)
    assert ahead[0].first > latest >= ahead[0].first - rounds_per_token
    assert [epoch.first for epoch in ahead[1:]] == [epoch.last + 1 for epoch in ahead[:-1]]
    assert all(epoch_of(e.last, rounds_per_token=rounds_per_token) == e for e in ahead)
    one = ahead[0]
    other = epoch_of(one.first + apart * rounds_per_token, rounds_per_token=rounds_per_token)
    assert other.first - one.last >= separation
    # The worst case: the last round of the first epoch, the first round of each that follows.
    rounds = [one.last, *(other.first + n * apart * rounds_per_token for n in range(20))]
    assert all(
        len(rounds[: n + 1])
        <= AsynchronousSpec(max_staleness=0, min_separation=max(separation, 1)).participations(last)
        for n, last in enumerate(rounds)
    )
    if apart <= AHEAD:
        assert check_rounds_per_token(rounds_per_token, separation=separation) == rounds_per_token
    else:
        with pytest.raises(ValueError, match="at least"):
            check_rounds_per_token(rounds_per_token, separation=separation)
