"""Energy where nothing measures it: a stated model of processor time and bytes.

The figures are of phones of their time and are meant to be on the high side; an app that has
measured its own devices gives its own. Sources:

- Processor: a big core of a phone at full clock, above idle and with the interconnect that one busy
  core wakes, took 1.3 to 2.4 W in the measurements of seven chips (M. Humrick, "HiSilicon Kirin
  960: A Closer Look at Performance and Power", AnandTech 2017, table "System Active Power"). The
  model takes 2.4 W for every processor second, although further cores took 0.6 to 1.4 W each on
  most of these chips.
- Radio: Huang et al. 2012, "A Close Examination of Performance and Power Characteristics of 4G LTE
  Networks" (MobiSys), section 5: power is ``alpha_up up + alpha_down down + beta`` in mW at
  throughputs in Mbps, with (438.39, 51.97, 1288.04) for LTE and (283.17, 137.01, 132.86) for Wi-Fi.
  Dividing beta by the median throughput that they observed (LTE 5.64 up and 12.74 down, Wi-Fi 0.94
  up and 4.12 down) gives the energy of a byte. After a transfer LTE stays in a high-power tail of
  11.6 s at 1.06 W: 12.3 J.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields


def _joules_per_byte(alpha: float, beta: float, megabits_per_second: float) -> float:
    # mW per Mbps is nJ per bit.
    return 8e-9 * (alpha + beta / megabits_per_second)


@dataclass(frozen=True, kw_only=True)
class EnergyModel:
    """Energy as a sum of what was computed and what was transferred.

    Attributes
    ----------
    watts_per_cpu : float
        Joules per second of processor time.
    metered_joules_per_byte_up, metered_joules_per_byte_down : float
        On a metered link, taken to be LTE.
    unmetered_joules_per_byte_up, unmetered_joules_per_byte_down : float
        On another link, taken to be Wi-Fi.
    metered_tail_joules : float
        What a cellular radio takes after a burst of transfers before it sleeps again.
    """

    watts_per_cpu: float = 2.4
    metered_joules_per_byte_up: float = _joules_per_byte(438.39, 1288.04, 5.64)
    metered_joules_per_byte_down: float = _joules_per_byte(51.97, 1288.04, 12.74)
    unmetered_joules_per_byte_up: float = _joules_per_byte(283.17, 132.86, 0.94)
    unmetered_joules_per_byte_down: float = _joules_per_byte(137.01, 132.86, 4.12)
    metered_tail_joules: float = 12.3

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{each.name} must be a number of at least 0, not {value!r}")

    def joules(
        self,
        *,
        cpu_seconds: float,
        bytes_up: int = 0,
        bytes_up_metered: int = 0,
        bytes_down_metered: int = 0,
        bytes_down_unmetered: int = 0,
        metered_bursts: int | None = None,
    ) -> float:
        """Return the estimate in joules.

        Parameters
        ----------
        cpu_seconds : float
            Processor time of all threads.
        bytes_up : int
            Bytes sent, metered links included.
        bytes_up_metered, bytes_down_metered, bytes_down_unmetered : int
            As in :class:`pocketfl.budgets.Amounts`.
        metered_bursts : int, optional
            Groups of metered transfers more than a tail apart; without it one, or none where
            nothing went over a metered link.
        """
        if metered_bursts is None:
            metered_bursts = int(bytes_up_metered + bytes_down_metered > 0)
        return (
            self.watts_per_cpu * cpu_seconds
            + self.metered_joules_per_byte_up * bytes_up_metered
            + self.unmetered_joules_per_byte_up * max(0, bytes_up - bytes_up_metered)
            + self.metered_joules_per_byte_down * bytes_down_metered
            + self.unmetered_joules_per_byte_down * bytes_down_unmetered
            + self.metered_tail_joules * metered_bursts
        )
