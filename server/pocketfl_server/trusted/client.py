"""How the back end reaches the trusted tier."""

# ruff: noqa: A002 - "round" is the word of the field

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from pocketfl_server.trusted.messages import (
    KeyDescription,
    Release,
    SealedEntry,
    TaskDescription,
)


class TrustedTier(Protocol):
    """All that a back end can ask of a trusted tier; every method may be repeated without harm.

    Each raises a subclass of :class:`~pocketfl_server.trusted.messages.TrustedTierError` when it
    refuses, and then its state is as it was.
    """

    def register(self, task: str, plan_data: bytes) -> KeyDescription:
        """Verify a plan and bind a key to it.

        Parameters
        ----------
        task : str
            Name of the task.
        plan_data : bytes
            The plan's archive. The same plan again gives the same key.

        Raises
        ------
        PlanRefused
            If no trusted modeller signed it, or its privacy claims cannot be kept.
        Conflict
            If the task has another plan, or the plan another task: one plan, one budget.
        """

    def describe(self, task: str) -> TaskDescription:
        """Say where a task stands: its key, its last released round, planned and spent privacy."""

    def submit(
        self, task: str, round: int, model_version: int, entries: Iterable[SealedEntry]
    ) -> None:
        """Hand over sealed reports; on return they are durable.

        Parameters
        ----------
        task : str
            Name of the task.
        round : int
            Counts from 1; must be above the last released round.
        model_version : int
            The version that the round started from; the same in every call for the round.
        entries : iterable of SealedEntry
            The same bytes for the same lease again change nothing.

        Raises
        ------
        Conflict
            If other bytes are on record for a lease (the first stay, and nothing of the call's
            current batch is kept), or the round is over.
        """

    def release(self, task: str, round: int, model_version: int) -> Release:
        """Sum a round's reports, add noise, charge the budget, and return the noised sum.

        Repeating the call, also after a crash, returns the same values and charges nothing more.

        Raises
        ------
        FloorNotReached
            Too few valid reports. Nothing was drawn or charged; submit more or abandon the round.
        BudgetExhausted
            The plan allows no further release.
        Conflict
            If the round is abandoned or not above the last released one.
        """

    def abandon(self, task: str, round: int) -> None:
        """Delete a round's sealed reports for good; it can never be released.

        Raises
        ------
        Conflict
            If the round has been released.
        """
