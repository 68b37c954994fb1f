"""How several distribution queries of one plan share its noise."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from pocketfl.queries import Quantiles
from pocketfl_server.analytics.estimators.quantiles import worst_share_noise


def share_evenly(queries: Sequence[Quantiles]) -> tuple[Quantiles, ...]:
    """Give each query the share with which all distribution functions come out equally exact.

    With equal shares a feature of sixty bins is three times as noisy as one of four. The share of each
    query is in proportion to its bound and to what the shape of its hierarchy makes of the noise, and
    depends on nothing that a device holds; the squares of the shares sum to 1.

    Parameters
    ----------
    queries : sequence of Quantiles
        The queries of a plan that asks nothing else; their shares are replaced.

    Returns
    -------
    tuple of Quantiles
        In the same order.
    """
    noises = [
        worst_share_noise(branching=query.branching, levels=query.levels) * query.norm
        for query in queries
    ]
    whole = math.sqrt(math.fsum(noise**2 for noise in noises))
    return tuple(
        dataclasses.replace(query, share=noise / whole)
        for query, noise in zip(queries, noises, strict=True)
    )
