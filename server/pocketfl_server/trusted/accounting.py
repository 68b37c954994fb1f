"""How much privacy a plan spends: Rényi accounting of discrete Gaussian sums, over dp-accounting.

What happens is described as events (``PoissonSampledDpEvent`` of ``GaussianDpEvent``) apart from the
accountant that prices them, so that another accountant can price the same history later.

The neighbouring relation is zero-out (dp-accounting's ``REPLACE_SPECIAL``; Kairouz et al. 2021,
arXiv 2103.00039, definition 1.1): one device's data is replaced by a report of zeros. Who takes part,
and hence every count and every abort at the floor, is then the same for both neighbours.

Why the continuous formulas may price a discrete Gaussian: at an integer order ``a`` the Poisson-sampled
divergence expands into moments ``E[(P/Q)^k]`` for whole ``k`` (Mironov, Talwar and Zhang 2019,
arXiv 1908.10530, section 3.3), and for a shift by whole numbers those moments of the discrete Gaussian
are exactly ``exp(k (k - 1) |shift|^2 / (2 sigma^2))``, as for the continuous one (Canonne, Kamath and
Steinke 2020, arXiv 2004.00010, proposition 5); the reflection that swaps the two distributions, which
makes one direction the worse one, maps whole numbers to whole numbers. Hence integer orders only where
something is sampled; without sampling that proposition gives ``a |shift|^2 / (2 sigma^2)`` at every
order.

Asynchronous rounds have noise of their own, no sampling, and a device whose check-ins are
``min_separation`` rounds apart, each of which is in one release at most. Up to a round's release it is
in ``ceil(round / min_separation)`` of them, a number known in advance, and weights of at most one only
make its reports smaller: they cost as many Gaussian releases without sampling.

With a tree (:mod:`pocketfl.tree_noise`) every round ends one node, whose sum gets noise of its own,
and all that is released is computed from these noised sums. A device shifts the sum of a node by as
many norm bounds as it has participations in it. Which those are may depend on what was released
before: the squares of the shifts never add up to more than
:func:`~pocketfl.tree_noise.squared_sensitivity`, and Gaussian releases whose squared shifts are
bounded in advance compose to the Gaussian with that bound (Feldman and Zrnic 2021, arXiv
2008.11193; Denisov et al. 2022, arXiv 2202.08312).

Why a device's cap on participations needs no price of its own: a round's coin is independent of all
earlier rounds, so given everything released before, the device takes part with the coin's probability
times the probability that its cap has not bound yet. That is at most the coin's, the divergence of the
sampled Gaussian grows with it, and Rényi divergences compose over such adaptive choices (Mironov 2017,
arXiv 1702.07476, proposition 1). The same holds for a device that is away.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from pocketfl.plan.manifest import Manifest
from pocketfl.tree_noise import squared_sensitivity
from pocketfl_server.trusted.curves import renyi_curve
from pocketfl_server.trusted.messages import PrivacyStatement
from pocketfl_server.trusted.refusals import PlanRefused
from pocketfl_server.trusted.releases import BudgetStatement

SAMPLED_ORDERS: Final = (*range(2, 65), 72, 80, 96, 112, 128, 160, 192, 256, 384, 512, 1024)
"""Orders of the Rényi divergence under sampling, dense where common budgets have their optimum."""
UNSAMPLED_ORDERS: Final = tuple(1 + 2 ** (step / 8) for step in range(-48, 81))
"""Orders without sampling: from 1.016 to 1,025, each 9 % further from 1 than the one before."""

NEIGHBOURING_RELATION: Final = (
    "zero-out: one device's data against a report of zeros from the same device (REPLACE_SPECIAL)"
)
SAMPLING: Final = (
    "Poisson: a device takes part in a round by its own secret coin, tossed for it alone"
)
TREE: Final = (
    "none assumed: releases share a tree's noise; a device keeps its participations apart by itself"
)
APART: Final = (
    "none assumed: a device keeps its check-ins apart by itself; its reports count with at most one"
)
NO_SAMPLING: Final = "none: every device may take part in every round, so nothing is amplified"


def check_claims(manifest: Manifest) -> None:
    """Refuse a plan whose privacy claims this tier cannot account for.

    Raises
    ------
    PlanRefused
        If not even one release fits the budget.
    """
    if manifest.dp is None:
        return
    first = spent_privacy(manifest, 1)
    if first.epsilon is None or first.epsilon > manifest.dp.epsilon:
        raise PlanRefused(
            f"a single release spends epsilon={first.epsilon or math.inf:.4g}, more than the plan's "
            f"budget of {manifest.dp.epsilon:g}; raise the noise multiplier",
            code="budget_below_one_release",
        )


@dataclass(frozen=True, kw_only=True)
class Spending:
    """Releases of one plan, as far as the unit of privacy is concerned.

    Attributes
    ----------
    sampling_probability : float
        Of the device's coin.
    noise_multiplier : float
        Standard deviation of the noise over the bound of one report's norm.
    releases : int
        How many touch the unit.
    participations : int
        In how many of these it takes part at most.
    """

    sampling_probability: float
    noise_multiplier: float
    releases: int
    participations: int

    @classmethod
    def of(cls, manifest: Manifest, releases: int) -> Spending:
        """Return what a number of a private plan's releases spends.

        With asynchronous rounds, too, ``releases`` is the last round's number.

        A day of a device's log is reported once, so of any number of releases one touches it. With a
        tree, ``releases`` is the last round's number, and what the nodes of its rounds reveal together
        costs as much as so many Gaussian releases without sampling.
        """
        if manifest.dp is None:
            raise ValueError("a plan without differential privacy has nothing to spend")
        if manifest.dp.tree is not None:
            cost = squared_sensitivity(
                rounds=releases,
                participations=manifest.aggregation.max_participations,
                separation=manifest.dp.tree.min_separation,
            )
            return cls(
                sampling_probability=1.0,
                noise_multiplier=manifest.dp.noise_multiplier,
                releases=cost,
                participations=cost,
            )
        apart = manifest.aggregation.asynchronous
        if apart is not None:
            most = min(apart.participations(releases), manifest.aggregation.max_participations)
            return cls(
                sampling_probability=1.0,
                noise_multiplier=manifest.dp.noise_multiplier,
                releases=most,
                participations=most,
            )
        touching = min(releases, 1) if manifest.is_daily else releases
        return cls(
            sampling_probability=manifest.aggregation.sampling_probability,
            noise_multiplier=manifest.dp.noise_multiplier,
            releases=touching,
            participations=min(touching, manifest.aggregation.max_participations),
        )


def composed_epsilon(spendings: Iterable[Spending], *, delta: float) -> tuple[float, float]:
    """Return what releases of several plans spend together, in whatever order they came.

    Parameters
    ----------
    spendings : iterable of Spending
        At most one per plan.
    delta : float
        At which both epsilons hold.

    Returns
    -------
    tuple of (float, float)
        Against someone who sees the released sums, and someone who sees who took part as well. The
        second bounds the first, because the released sums are all that the weaker observer sees.

    Notes
    -----
    Rényi divergences of one order add up over releases, of different mechanisms too and where what is
    asked depends on what came before (Mironov 2017, arXiv 1702.07476, proposition 1). Where anything
    is sampled all are taken at whole orders, see above.
    """
    counted = [spending for spending in spendings if spending.releases > 0]
    against_back_end = _epsilon(
        tuple(sorted((1.0, s.noise_multiplier, s.participations) for s in counted)), delta
    )
    amplified = _epsilon(
        tuple(sorted((s.sampling_probability, s.noise_multiplier, s.releases) for s in counted)),
        delta,
    )
    return min(amplified, against_back_end), against_back_end


def planned_privacy(manifest: Manifest) -> PrivacyStatement:
    """Return what all ``max_rounds`` releases of a plan spend together.

    The plan's own budget may end a task earlier; see :func:`affords`.
    """
    return spent_privacy(manifest, manifest.aggregation.max_rounds)


def spent_privacy(manifest: Manifest, releases: int) -> PrivacyStatement:
    """Return what a number of releases spends.

    Parameters
    ----------
    manifest : Manifest
        Of the plan.
    releases : int
        At least 0.

    Returns
    -------
    PrivacyStatement
        ``delta`` is the plan's. ``epsilon_against_back_end`` composes ``max_participations`` (or
        ``releases``, where fewer) unsampled Gaussians at the same delta; it bounds ``epsilon`` too,
        because released models are all that the weaker observer sees.
    """
    if releases < 0:
        raise ValueError(f"releases must be 0 or more, not {releases}")
    spec = manifest.aggregation
    if manifest.dp is None:
        return PrivacyStatement(
            privacy="none",
            noise_multiplier=0.0,
            sampling_probability=spec.sampling_probability,
            releases=releases,
            max_rounds=spec.max_rounds,
            max_participations=spec.max_participations,
            neighbouring_relation=NEIGHBOURING_RELATION,
            sampling=_sampling(manifest),
        )
    epsilon, against_back_end = composed_epsilon(
        [Spending.of(manifest, releases)], delta=manifest.dp.delta
    )
    return PrivacyStatement(
        privacy="gaussian",
        epsilon=epsilon,
        epsilon_against_back_end=against_back_end,
        delta=manifest.dp.delta,
        noise_multiplier=manifest.dp.noise_multiplier,
        sampling_probability=spec.sampling_probability,
        releases=releases,
        max_rounds=spec.max_rounds,
        max_participations=spec.max_participations,
        unit="device-day" if manifest.is_daily else "device",
        neighbouring_relation=NEIGHBOURING_RELATION,
        sampling=_sampling(manifest),
    )


def _sampling(manifest: Manifest) -> str:
    """Return in words what is assumed of who takes part."""
    if manifest.aggregation.asynchronous is not None:
        return APART
    if manifest.dp is not None and manifest.dp.tree is not None:
        return TREE
    return NO_SAMPLING if manifest.aggregation.sampling_probability == 1.0 else SAMPLING


def progress(manifest: Manifest, *, releases: int, last_round: int) -> int:
    """Return how far a task has come as the accountant counts it: releases, or the last round."""
    return last_round if manifest.counts_rounds else releases


def budget_statement(releases: Mapping[str, tuple[Manifest, int]]) -> BudgetStatement:
    """Return where an account stands.

    Parameters
    ----------
    releases : mapping of str to (Manifest, int)
        Of every task whose plan names the account: its plan, and its number of releases.
    """
    budget = next(iter(releases.values()))[0].budget
    if budget is None:
        raise ValueError("the plans name no budget")
    epsilon, against_back_end = composed_epsilon(
        [Spending.of(manifest, count) for manifest, count in releases.values()],
        delta=budget.delta,
    )
    return BudgetStatement(
        name=budget.name,
        epsilon=budget.epsilon,
        delta=budget.delta,
        unit=budget.unit,
        spent=epsilon,
        spent_against_back_end=against_back_end,
        releases={task: count for task, (_, count) in sorted(releases.items())},
    )


def affords(manifest: Manifest, releases: int) -> bool:
    """Return whether so many releases in all stay within the plan's rounds and its epsilon."""
    if releases > manifest.aggregation.max_rounds:
        return False
    if manifest.dp is None:
        return True
    epsilon = spent_privacy(manifest, releases).epsilon
    return epsilon is not None and epsilon <= manifest.dp.epsilon


@lru_cache(maxsize=4096)
def _epsilon(events: tuple[tuple[float, float, int], ...], delta: float) -> float:
    """Return the epsilon of events: sampling probability, noise multiplier, and how often each."""
    if not events:
        return 0.0
    unsampled = all(q == 1.0 for q, _, _ in events)
    orders = UNSAMPLED_ORDERS if unsampled else SAMPLED_ORDERS
    composed = [0.0] * len(orders)
    for q, sigma, count in events:
        curve = renyi_curve(q, sigma, orders)
        composed = [total + count * value for total, value in zip(composed, curve, strict=True)]
    epsilon = epsilon_of_curve(orders, composed, delta)
    if not unsampled:
        # Sampling never costs; whole orders alone can hide that where epsilon is large.
        without = tuple(sorted((1.0, sigma, count) for _, sigma, count in events))
        return min(epsilon, _epsilon(without, delta))
    return epsilon


def epsilon_of_curve(orders: Sequence[float], curve: Sequence[float], delta: float) -> float:
    """Return the epsilon at a delta above 0 that Rényi divergences at some orders give.

    The best of the orders, each by Canonne, Kamath and Steinke 2020 (arXiv 2004.00010, proposition 12),
    or 0 where delta is above the bound that the divergence puts on the total variation (Bretagnolle and
    Huber 1979). The same as dp-accounting's ``compute_epsilon``, digit for digit, which a test checks;
    here because a release must not wait for that library's import.
    """
    best = math.inf
    for order, divergence in zip(orders, curve, strict=True):
        if delta**2 + math.expm1(-divergence) > 0:
            return 0.0
        if order > 1.01:  # closer to 1 the bound says nothing and is numerically unstable
            found = divergence + math.log1p(-1 / order) - math.log(delta * order) / (order - 1)
            best = min(best, found)
    return max(0.0, best)
