"""Whether a round of a plan fits into the budgets that hold on this device."""

from __future__ import annotations

from dataclasses import dataclass

from pocketfl.budgets import MEASURES, Amounts, Limits


@dataclass(frozen=True, kw_only=True)
class BudgetVerdict:
    """One measure of a round against its limit.

    Attributes
    ----------
    measure : str
        As in :class:`pocketfl.budgets.Amounts`.
    needed : float
        What a round comes to.
    limit : float
        Of one round.
    """

    measure: str
    needed: float
    limit: float

    @property
    def fits(self) -> bool:
        """Whether the round stays within the limit."""
        return self.needed <= self.limit


def judge_round(needed: Amounts, limits: Limits) -> tuple[BudgetVerdict, ...]:
    """Hold a round against the limits of one round; measures without a limit are left out."""
    found = ((name, getattr(needed, name), getattr(limits, name)) for name in MEASURES)
    return tuple(
        BudgetVerdict(measure=name, needed=float(amount), limit=float(limit))
        for name, amount, limit in found
        if limit is not None
    )
