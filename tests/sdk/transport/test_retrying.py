"""Waiting: random over a growing range, never shorter than asked, never without bound."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketfl.errors import TransportError
from pocketfl.transport import RetryPolicy
from pocketfl.transport.retrying import FailedAttemptError, Retrier, parse_retry_after

policies = st.builds(
    RetryPolicy,
    attempts=st.integers(1, 8),
    first_wait=st.floats(0, 2),
    longest_wait=st.floats(2, 60),
    longest_retry_after=st.floats(0, 60),
)


@given(policy=policies, asked=st.none() | st.floats(0, 100))
def test_waits_are_bounded_and_never_shorter_than_asked(policy, asked) -> None:
    """Total attempts, each wait, and Retry-After keep to the policy."""
    naps: list[float] = []
    attempts = 0

    def attempt() -> None:
        nonlocal attempts
        attempts += 1
        raise FailedAttemptError(TransportError("busy", retryable=True, retry_after=asked))

    with pytest.raises(TransportError):
        Retrier(policy, sleep=naps.append).run(attempt, idempotent=True)
    too_long = asked is not None and asked > policy.longest_retry_after
    assert attempts == (1 if too_long else policy.attempts)
    assert len(naps) == attempts - 1
    for number, nap in enumerate(naps):
        least = asked or 0.0
        assert least <= nap <= least + min(policy.longest_wait, policy.first_wait * 2.0**number)


def test_waits_are_spread_over_their_whole_range() -> None:
    """Devices that failed together come back apart: 400 draws reach both fifths of the range.

    The chance that none of 400 uniform draws lies in the lowest fifth is 0.8**400 < 1e-38.
    """
    naps: list[float] = []
    retrier = Retrier(RetryPolicy(attempts=2, first_wait=1.0), sleep=naps.append)

    def attempt() -> None:
        raise FailedAttemptError(TransportError("busy", retryable=True))

    for _ in range(400):
        with pytest.raises(TransportError):
            retrier.run(attempt, idempotent=True)
    assert min(naps) < 0.2
    assert 0.8 < max(naps) <= 1.0


@pytest.mark.parametrize(
    ("idempotent", "unprocessed", "retryable", "attempts"),
    [
        (True, False, True, 4),
        (True, True, True, 4),
        (False, True, True, 4),
        (False, False, True, 1),
        (True, True, False, 1),
    ],
)
def test_what_is_repeated(idempotent, unprocessed, retryable, attempts) -> None:
    """Only what may succeed, and what either does no harm twice or was not done once."""
    made = 0

    def attempt() -> None:
        nonlocal made
        made += 1
        raise FailedAttemptError(TransportError("x", retryable=retryable), unprocessed=unprocessed)

    with pytest.raises(TransportError):
        Retrier(RetryPolicy(), sleep=lambda _: None).run(attempt, idempotent=idempotent)
    assert made == attempts


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("120", 120.0),
        (" 5 ", 5.0),
        ("Thu, 01 Jan 1970 00:01:40 GMT", 40.0),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
        ("soon", None),
        ("-5", None),
        ("1e3", None),
        ("9" * 30, None),
        ("", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(value, seconds) -> None:
    """Both forms of RFC 9110 are read; anything else is ignored."""
    assert parse_retry_after(value, now=60.0) == seconds


@given(value=st.text(max_size=60))
def test_no_retry_after_is_negative_or_an_error(value) -> None:
    """A hostile header is harmless."""
    seconds = parse_retry_after(value, now=0.0)
    assert seconds is None or seconds >= 0


@pytest.mark.parametrize(
    "settings",
    [{"attempts": 0}, {"first_wait": -1}, {"first_wait": 9}, {"longest_retry_after": -1}],
)
def test_policies_make_sense(settings) -> None:
    """An impossible policy is refused when it is made."""
    with pytest.raises(ValueError, match=r"least|negative"):
        RetryPolicy(**settings)
