"""Why a device does or does not train now, in words and as values."""

from __future__ import annotations

from dataclasses import dataclass

from pocketfl.reasons import Reason, combined_retry, format_wait


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """What :meth:`Device.explain` found.

    Attributes
    ----------
    eligible : bool
        Whether the device would look for a round now. The coin and the server still have a say.
    reasons : tuple of Reason
        What stands against it, each with ``condition``, ``observed`` and ``required``; empty when
        nothing does.
    next_attempt : float or None
        Unix time in seconds of the next try, at the earliest; None if something has to change first.
    window : tuple of float, or None
        Seconds from now between which the next try comes, where that can be said.
    """

    eligible: bool
    reasons: tuple[Reason, ...]
    next_attempt: float | None
    window: tuple[float, float] | None = None

    def __str__(self) -> str:
        """Return a line such as ``skipped: battery 24 % < 30 %; next try in 5-7 h``."""
        if self.eligible:
            return "ready: nothing stands against a round now"
        why = "; ".join(map(str, self.reasons))
        if self.window is None:
            return f"skipped: {why}; no next try until that changes"
        return f"skipped: {why}; next try in {format_wait(self.window)}"


def explain(
    reasons: tuple[Reason, ...], *, now: float, scheduled: float | None, off: bool = False
) -> Explanation:
    """Put reasons and the schedule together.

    Parameters
    ----------
    reasons : tuple of Reason
        What stands against a round now, the schedule's own reasons included.
    now : float
        Unix time in seconds.
    scheduled : float or None
        When the scheduler wants to try next, if that is known.
    off : bool
        Whether training is switched off until somebody switches it on.
    """
    if not reasons:
        return Explanation(eligible=True, reasons=(), next_attempt=now, window=(0.0, 0.0))
    window = combined_retry(reasons)
    if off or window is None:
        return Explanation(eligible=False, reasons=reasons, next_attempt=None)
    first = max(window[0], 0.0 if scheduled is None else scheduled - now)
    last = max(first, window[1])
    return Explanation(
        eligible=False, reasons=reasons, next_attempt=now + first, window=(first, last)
    )
