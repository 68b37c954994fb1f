"""What one round of a model comes to, and whether that fits a stated budget."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Final

from pocketfl.benchmark.device import MESSAGE_BYTES
from pocketfl.budgets import EnergyModel
from pocketfl.reports import sealed_size

ROUND_EXAMPLES: Final = 256
ROUND_EPOCHS: Final = 5
BUDGET_SECONDS: Final = 240.0
BUDGET_BYTES: Final = 50_000_000
BATTERY_JOULES: Final = 55_000.0
"""A phone's battery of 4,000 mAh at 3.85 V."""
BUDGET_JOULES: Final = 0.01 * BATTERY_JOULES


@dataclass(frozen=True, kw_only=True)
class RoundCost:
    """A device's first round of a task: the plan comes with it.

    Attributes
    ----------
    steps : int
        Training steps: 256 examples, five epochs.
    seconds : float
        Of those steps, on the machine that was measured.
    bytes_down, bytes_up : int
        Plan, parameters and messages; the sealed report and messages.
    joules_estimate : float
        By :class:`pocketfl.budgets.EnergyModel` on Wi-Fi: an estimate, whatever was measured.
    fits_time, fits_bytes, fits_battery, fits : bool
        Against 4 minutes, 50 MB and 1 % of a battery of 55 kJ, and all of them.
    """

    steps: int
    seconds: float
    bytes_down: int
    bytes_up: int
    joules_estimate: float
    fits_time: bool
    fits_bytes: bool
    fits_battery: bool
    fits: bool

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return asdict(self)


def round_cost(
    *, step_seconds: float, cpu_seconds: float, batch_size: int, parameters: int, plan_bytes: int
) -> RoundCost:
    """Add up a round.

    Parameters
    ----------
    step_seconds, cpu_seconds : float
        Wall and processor time of one step.
    batch_size, parameters : int
        Of the model.
    plan_bytes : int
        Of the signed plan for one runtime.
    """
    steps = ROUND_EPOCHS * math.ceil(ROUND_EXAMPLES / batch_size)
    down = plan_bytes + 4 * parameters + MESSAGE_BYTES
    up = sealed_size(parameters) + MESSAGE_BYTES
    seconds = steps * step_seconds
    joules = EnergyModel().joules(
        cpu_seconds=steps * cpu_seconds, bytes_up=up, bytes_down_unmetered=down
    )
    fits = (seconds <= BUDGET_SECONDS, down + up <= BUDGET_BYTES, joules <= BUDGET_JOULES)
    return RoundCost(
        steps=steps,
        seconds=seconds,
        bytes_down=down,
        bytes_up=up,
        joules_estimate=joules,
        fits_time=fits[0],
        fits_bytes=fits[1],
        fits_battery=fits[2],
        fits=all(fits),
    )
