"""Privacy events as text: dp-accounting's event trees, so that anybody can price a history again.

A tree is JSON: ``type`` is the name of dp-accounting's class, the rest are its attributes. It is
written without dp-accounting, whose import takes a second and 100 MB; a test rebuilds the events.
"""

from __future__ import annotations

from typing import Any

from pocketfl.decoding import encode_json
from pocketfl.plan.manifest import Manifest
from pocketfl_server.trusted.accounting import Spending


def spent_event(manifest: Manifest, releases: int) -> str:
    """Return the event tree of a plan's releases so far, against someone who sees what is released.

    Parameters
    ----------
    manifest : Manifest
        Of the plan.
    releases : int
        As :func:`~.accounting.progress` counts them.

    Returns
    -------
    str
        JSON; ``NonPrivateDpEvent`` for a plan without differential privacy.
    """
    if manifest.dp is None:
        return encode_json({"type": "NonPrivateDpEvent"}).decode()
    spending = Spending.of(manifest, releases)
    event: dict[str, Any] = {
        "type": "GaussianDpEvent",
        "noise_multiplier": spending.noise_multiplier,
    }
    if spending.sampling_probability != 1.0:
        event = {
            "type": "PoissonSampledDpEvent",
            "sampling_probability": spending.sampling_probability,
            "event": event,
        }
    tree = {"type": "SelfComposedDpEvent", "count": spending.releases, "event": event}
    return encode_json(tree).decode()
