"""Rényi divergence of one event, by dp-accounting: here, or in a child that lets its memory go.

dp-accounting and what it imports cost 50 to 100 MB and a second. A tier that runs for months prices
a few events, each once, so its process has a child compute them that ends right after.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from functools import lru_cache
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from dp_accounting import DpEvent

CHILD_VARIABLE: Final = "POCKETFL_PRICE_IN_CHILD"
"""Set in the environment of a process that shall not load dp-accounting itself."""
CHILD_SECONDS: Final = 120.0

_one_child: Final = threading.Lock()
"""A release that needs a price which is being computed waits for it, and computes no second one."""
_answers: Final[dict[str, tuple[float, ...]]] = {}


def release_event(sampling_probability: float, noise_multiplier: float) -> DpEvent:
    """Return one release as an event.

    Parameters
    ----------
    sampling_probability : float
        Of the device's coin; 1 for someone who knows who took part.
    noise_multiplier : float
        Standard deviation of the noise over the bound of one report's norm.
    """
    import dp_accounting

    gaussian = dp_accounting.GaussianDpEvent(noise_multiplier)
    if sampling_probability == 1.0:
        return gaussian
    return dp_accounting.PoissonSampledDpEvent(sampling_probability, gaussian)


class PricingError(RuntimeError):
    """The child that prices ended without an answer."""


@lru_cache(maxsize=256)
def renyi_curve(
    sampling_probability: float, noise_multiplier: float, orders: tuple[float, ...]
) -> tuple[float, ...]:
    """Return the Rényi divergence of one release at some orders; releases compose by adding these.

    Parameters
    ----------
    sampling_probability : float
        Of the device's coin; 1 for someone who knows who took part.
    noise_multiplier : float
        Standard deviation of the noise over the bound of one report's norm.
    orders : tuple of float
        Above 1.

    Raises
    ------
    PricingError
        If the child fails.
    """
    if not os.environ.get(CHILD_VARIABLE):
        return _compute(sampling_probability, noise_multiplier, orders)
    question = json.dumps([sampling_probability, noise_multiplier, orders])
    with _one_child:
        if question not in _answers:
            _answers[question] = _ask_child(question)
        return _answers[question]


def _ask_child(question: str) -> tuple[float, ...]:
    environment = {name: text for name, text in os.environ.items() if name != CHILD_VARIABLE}
    child = subprocess.run(  # noqa: S603 - this module
        [sys.executable, "-m", __name__],
        input=question,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=CHILD_SECONDS,
    )
    if child.returncode != 0:
        raise PricingError(f"pricing ended with status {child.returncode}: {child.stderr[-500:]}")
    return tuple(json.loads(child.stdout))


def _compute(
    sampling_probability: float, noise_multiplier: float, orders: tuple[float, ...]
) -> tuple[float, ...]:
    import dp_accounting
    from dp_accounting import rdp

    accountant = rdp.RdpAccountant(orders, dp_accounting.NeighboringRelation.REPLACE_SPECIAL)
    accountant.compose(release_event(sampling_probability, noise_multiplier))
    return tuple(float(value) for value in accountant.rdp)


if __name__ == "__main__":
    _q, _sigma, _orders = json.load(sys.stdin)
    # JSON keeps every digit of a float.
    sys.stdout.write(json.dumps(_compute(_q, _sigma, tuple(_orders))))
