"""Noise that releases share: what one adds, a later one partly takes back (DP-FTRL's tree).

The noise of a node is drawn when the first round at or after its end is released, and is kept in the
ledger as long as it is part of what was released last. It is as secret as a private key: with it, an
exact sum could be computed from two releases.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from pocketfl.tree_noise import nodes_of
from pocketfl_server.trusted.releases import IntegerVector


def advance(
    kept: Mapping[int, IntegerVector], *, number: int, draw: Callable[[], IntegerVector]
) -> tuple[IntegerVector, dict[int, IntegerVector]]:
    """Return the noise of a round's release and the nodes to keep for the next.

    Parameters
    ----------
    kept : mapping of int to ndarray of int64, shape (P,)
        Nodes of the last released round, by the round that they end with; none before the first.
    number : int
        The round that is released; rounds in between were abandoned, and count with a sum of zeros.
    draw : callable
        Returns fresh noise.

    Returns
    -------
    noise : ndarray of int64, shape (P,)
        Of the new nodes, less that of the nodes that they replace.
    nodes : dict of int to ndarray
        Those that make up rounds 1 to ``number``.
    """
    if any(end > number for end in kept):
        raise ValueError(f"round {number} lies before one that was released")
    nodes = {end: kept[end] if end in kept else draw() for end in nodes_of(number)}
    # The round itself ends a node, so there always is a new one.
    noise = np.zeros_like(nodes[number])
    for end in nodes.keys() - kept.keys():
        noise += nodes[end]
    for end in kept.keys() - nodes.keys():
        noise -= kept[end]
    return noise, nodes
