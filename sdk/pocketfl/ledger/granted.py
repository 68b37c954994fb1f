"""The arithmetic of a reservation: what was granted, what came of it, and what may follow."""

from __future__ import annotations

from pocketfl.budgets.amounts import MEASURES, Amounts
from pocketfl.budgets.epsilon import contribution_rho
from pocketfl.budgets.limits import HARD_BOUNDS, Budgets
from pocketfl.ledger.checking import exceeds
from pocketfl.ledger.clock import Instant
from pocketfl.reasons import Reason


def over_granted(spent: Amounts, *, stride: Amounts, granted: Amounts) -> Reason | None:
    """Return why another stride does not fit into what was granted, or None if it does."""
    following = spent + stride
    for name in MEASURES:
        if name == "contributions":
            continue
        value, most = getattr(following, name), getattr(granted, name)
        if exceeds(value, most):
            return Reason(
                condition=f"{name} of this round",
                observed=f"{value:.6g} (next step included)",
                required=f"<= {most:.6g}",
            )
    return None


def raised(spent: Amounts, total: Amounts | None) -> Amounts:
    """Return what was spent, and at least the total where one is known."""
    return spent if total is None else spent.covering(total)


def after_end(expires: float, instant: Instant) -> tuple[Reason, ...]:
    """Return that a reservation is over: its windows run, so nothing more may be spent."""
    if instant.time <= expires:
        return ()
    return (
        Reason(
            condition="time after the reservation's end",
            observed=f"{instant.time - expires:.0f} s",
            required="<= 0 s",
        ),
    )


def of_one_round(budgets: Budgets) -> Amounts:
    """Return as much as one round may ever use."""
    limits = HARD_BOUNDS.per_round.tightened(budgets.per_round)
    return Amounts(**{name: getattr(limits, name) for name in MEASURES})


def rho_of(needs: Amounts, noise_multiplier: float | None, adds_up: bool) -> float:
    """Return the zCDP parameter of what is asked for; 0 without differential privacy."""
    if noise_multiplier is None or not adds_up:
        return 0.0
    return needs.contributions * contribution_rho(noise_multiplier)
