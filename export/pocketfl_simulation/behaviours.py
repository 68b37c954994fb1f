"""What ``pocketfl simulate --fleet`` reads: how phones behave, and what rounds wait for."""

from __future__ import annotations

import dataclasses
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

from pocketfl.decoding import decode
from pocketfl.errors import DecodeError
from pocketfl.plan.asynchronous import AsynchronousSpec
from pocketfl_simulation.errors import SimulationError
from pocketfl_simulation.fleet import FleetBehaviour


@dataclass(frozen=True, kw_only=True)
class Buffer:
    """Asynchronous rounds, for a plan that has none.

    Attributes
    ----------
    reports_per_release : int
        That make a release.
    at_once : int
        Devices that train at a time, at most.
    max_staleness, min_separation : int
        As in the plan's :class:`~pocketfl.plan.asynchronous.AsynchronousSpec`.
    """

    reports_per_release: int
    at_once: int
    max_staleness: int = 4
    min_separation: int = 5

    def __post_init__(self) -> None:
        if self.reports_per_release < 1 or self.at_once < 1:
            raise SimulationError("reports_per_release and at_once are at least 1")

    @property
    def spec(self) -> AsynchronousSpec:
        """What the plan would say."""
        return AsynchronousSpec(
            max_staleness=self.max_staleness, min_separation=self.min_separation
        )


@dataclass(frozen=True, kw_only=True)
class FleetSettings:
    """A fleet on a virtual clock.

    Attributes
    ----------
    behaviour : FleetBehaviour
        Of its devices.
    versions : dict of str to float or None
        Shares of the app's versions, such as ``{"2.1": 0.7, "2.0": 0.3}``; with ``least_version`` they
        say what ``old_share`` says otherwise.
    least_version : str or None
        The oldest that the plan runs on.
    start_hour : float
        Of the day at which training starts.
    deadline_hours : float
        How long a round is open.
    asynchronous : Buffer or None
        Rounds that wait for nobody.
    """

    behaviour: FleetBehaviour = field(default_factory=FleetBehaviour)
    versions: dict[str, float] | None = None
    least_version: str | None = None
    start_hour: float = 12.0
    deadline_hours: float = 12.0
    asynchronous: Buffer | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.start_hour < 24 or not self.deadline_hours > 0:
            raise SimulationError("start_hour is 0 to 24, and deadline_hours above 0")
        if (self.versions is None) != (self.least_version is None):
            raise SimulationError("versions and least_version go together")
        if self.versions is None or self.least_version is None:
            return
        if min(self.versions.values(), default=-1.0) < 0 or not sum(self.versions.values()) > 0:
            raise SimulationError("versions has shares from 0 on, and one above 0")
        least = _parts(self.least_version)
        old = sum(share for name, share in self.versions.items() if _parts(name) < least)
        share = old / sum(self.versions.values())
        behaviour = dataclasses.replace(self.behaviour, old_share=share)
        object.__setattr__(self, "behaviour", behaviour)


def _parts(version: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in version.split("."))
    except ValueError:
        raise SimulationError(f"{version!r} is no version such as 2.1") from None


def read_fleet(path: Path) -> FleetSettings:
    """Read a fleet's file.

    Parameters
    ----------
    path : Path
        TOML with the fields of :class:`FleetSettings`; ``behaviour``, ``versions`` and
        ``asynchronous`` are tables.

    Raises
    ------
    SimulationError
        Naming the file and the field.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
        settings = decode(FleetSettings, values, what=str(path))
        if settings.asynchronous is not None:
            _ = settings.asynchronous.spec
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SimulationError(f"cannot read {path}: {error}") from None
    except (DecodeError, ValueError) as error:
        raise SimulationError(str(error)) from None
    except SimulationError as error:
        raise SimulationError(f"{path}: {error}") from None
    return settings
