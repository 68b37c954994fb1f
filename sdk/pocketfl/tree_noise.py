"""How much one device can change all releases of a task whose noise is a tree's (DP-FTRL).

With the plan's :class:`~pocketfl.plan.aggregation.TreeNoiseSpec` the noise of a task's releases is
correlated: every round ends exactly one node, which covers the last ``2**v`` rounds, ``v`` being how
often two divides the round's number, and has noise of its own. What is released up to a round is the
exact sum up to it, plus the noise of the few nodes that make up its rounds. Nothing about who takes
part when has to be assumed: no sampling, only a least separation between two participations of a
device, which it keeps itself.

The binary tree is that of Dwork et al. 2010 and Chan, Shi and Song 2011; Kairouz et al. 2021 (arXiv
2103.00039) train with it, Choquette-Choo et al. 2023 (arXiv 2306.08153) bound several participations.
"""

from __future__ import annotations

from functools import lru_cache


def nodes_of(number: int) -> tuple[int, ...]:
    """Return the nodes that make up rounds 1 to ``number``, each by the round that it ends with.

    Examples
    --------
    >>> nodes_of(6)
    (4, 6)
    >>> nodes_of(8)
    (8,)
    """
    found = []
    while number > 0:
        found.append(number)
        number -= number & -number
    return tuple(reversed(found))


@lru_cache(maxsize=1024)
def squared_sensitivity(*, rounds: int, participations: int, separation: int) -> int:
    """Return a bound on the squared L2 distance that one device makes over all nodes, in norm bounds.

    Nodes of one level cover rounds that do not overlap. Of participations at least ``separation``
    rounds apart, a node of ``2**v`` rounds holds at most ``ceil(2**v / separation)``. The sum of the
    squares of what the nodes of a level hold is largest when as many as can be are full. For one
    participation it is exactly the number of levels, ``floor(log2(rounds)) + 1``.

    Parameters
    ----------
    rounds : int
        Rounds so far; 0 has no nodes.
    participations : int
        Most rounds that one device takes part in.
    separation : int
        Fewest rounds from one participation to the next; 1 is every round.

    Returns
    -------
    int
        With noise of ``noise_multiplier`` norm bounds in every node, all releases together are
        ``this / (2 noise_multiplier**2)``-zCDP under the zero-out relation.
    """
    if rounds < 0 or participations < 0 or separation < 1:
        raise ValueError("rounds and participations count from 0, separation from 1")
    total = 0
    for height in range(rounds.bit_length()):
        span = 2**height
        nodes = (rounds // span + 1) // 2
        most = min(participations, -(-span // separation))
        held = min(participations, nodes * most)
        if most:
            full, rest = divmod(held, most)
            total += full * most**2 + rest**2
    return total
