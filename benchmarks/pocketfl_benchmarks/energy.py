"""Joules that something was measured to take, where this machine counts them at all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pocketfl.budgets.battery import BatteryCounter, default_battery

POWERCAP = Path("/sys/class/powercap")


@dataclass(frozen=True, kw_only=True)
class EnergyCounter:
    """A counter of joules.

    Attributes
    ----------
    name : str
        What it counts.
    used : callable
        ``used(call)`` runs the call and returns the joules in between, or None where the counter told
        nothing: it wrapped around, or the battery was being charged.
    """

    name: str
    used: Callable[[Callable[[], object]], float | None]


def find_energy_counter(root: Path = POWERCAP) -> EnergyCounter | None:
    """Return the machine's best counter, or None where it has none.

    Intel's and AMD's running average power limit counts a processor package; a battery counts the whole
    device. Both include what else the machine does meanwhile.
    """
    packages = _packages(root)
    if packages:
        return EnergyCounter(name="RAPL, all packages", used=lambda call: _rapl(packages, call))
    battery = default_battery()
    if battery is not None:
        return EnergyCounter(name="battery", used=lambda call: _battery(battery, call))
    return None


def _packages(root: Path) -> list[Path]:
    """Return readable counters of whole packages: ``intel-rapl:0``, not ``intel-rapl:0:0``."""
    found = []
    for folder in sorted(root.glob("*rapl:*")):
        counter = folder / "energy_uj"
        if folder.name.count(":") == 1 and _microjoules(counter) is not None:
            found.append(counter)
    return found


def _microjoules(counter: Path) -> int | None:
    try:  # Since 2020 only root may read it (CVE-2020-8694).
        return int(counter.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def _rapl(packages: list[Path], call: Callable[[], object]) -> float | None:
    before = [_microjoules(counter) for counter in packages]
    call()
    joules = 0.0
    for counter, began in zip(packages, before, strict=True):
        ended = _microjoules(counter)
        if began is None or ended is None or ended < began:
            return None
        joules += (ended - began) / 1e6
    return joules


def _battery(battery: BatteryCounter, call: Callable[[], object]) -> float | None:
    before = battery.read()
    call()
    after = battery.read()
    if before is None or after is None or not (before.discharging and after.discharging):
        return None
    used = before.joules - after.joules
    return used if used > 0 else None
