"""What Linux desktops say over D-Bus: metered network, idle session, power profile.

Properties are read on the system bus, without starting a service that does not run. What does not
answer is ``None``.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

_Read: TypeAlias = Callable[[str, str, str, str], Any]

TIMEOUT: Final = 0.5
"""Seconds per question; a service that hangs must not hold up training."""

_SOCKET: Final = Path("/var/run/dbus/system_bus_socket")
"""Where the D-Bus specification has the system bus, unless the environment names another address."""

_NETWORK_MANAGER: Final = "org.freedesktop.NetworkManager"
# NMMetered: 1 yes, 2 no, 3 and 4 the same as a guess, 0 unknown.
# https://networkmanager.dev/docs/api/latest/nm-dbus-types.html#NMMetered
_METERED: Final = {1: True, 2: False, 3: True, 4: False}

_LOGIN: Final = "org.freedesktop.login1"

# power-profiles-daemon and tuned-ppd; older versions have the second name.
# https://upower.pages.freedesktop.org/power-profiles-daemon/
_POWER_PROFILES: Final = (
    ("org.freedesktop.UPower.PowerProfiles", "/org/freedesktop/UPower/PowerProfiles"),
    ("net.hadess.PowerProfiles", "/net/hadess/PowerProfiles"),
)


@dataclass(frozen=True, kw_only=True)
class BusSignals:
    """What the system bus says.

    Attributes
    ----------
    metered : bool or None
        NetworkManager's ``Metered``, its guesses included.
    idle : bool or None
        logind's ``IdleHint``, which desktop sessions set.
    power_save : bool or None
        Whether the active power profile is ``power-saver``.
    """

    metered: bool | None = None
    idle: bool | None = None
    power_save: bool | None = None


def read_system_bus() -> BusSignals:
    """Ask the services of the system bus, over a connection that is closed again.

    Returns
    -------
    BusSignals
        All ``None`` without a bus, as in containers.
    """
    if "DBUS_SYSTEM_BUS_ADDRESS" not in os.environ and not _SOCKET.exists():
        return BusSignals()  # The library need not be loaded to find nobody.
    from jeepney.io.blocking import open_dbus_connection

    values: dict[str, bool | None] = {}
    # Whatever a bus does wrong, the device knows no more than without one; jeepney raises errors of
    # sockets, of values and of struct. What was read before one stands.
    with suppress(Exception), open_dbus_connection(bus="SYSTEM", auth_timeout=TIMEOUT) as bus:
        for name, ask in (("metered", _metered), ("idle", _idle), ("power_save", _power_save)):
            values[name] = ask(_reader(bus))
    return BusSignals(**values)


def _reader(connection: Any) -> _Read:
    from jeepney import DBusAddress, MessageFlag, Properties
    from jeepney.wrappers import DBusErrorResponse, unwrap_msg

    def read(service: str, path: str, interface: str, name: str) -> Any:
        question = Properties(DBusAddress(path, bus_name=service, interface=interface)).get(name)
        question.header.flags |= MessageFlag.no_auto_start
        try:
            ((_, value),) = unwrap_msg(connection.send_and_get_reply(question, timeout=TIMEOUT))
        except DBusErrorResponse:  # The service does not run, or has no such property.
            return None
        return value

    return read


def _metered(read: _Read) -> bool | None:
    value = read(_NETWORK_MANAGER, "/org/freedesktop/NetworkManager", _NETWORK_MANAGER, "Metered")
    return _METERED.get(value)


def _idle(read: _Read) -> bool | None:
    value = read(_LOGIN, "/org/freedesktop/login1", f"{_LOGIN}.Manager", "IdleHint")
    return value if isinstance(value, bool) else None


def _power_save(read: _Read) -> bool | None:
    for name, path in _POWER_PROFILES:
        profile = read(name, path, name, "ActiveProfile")
        if isinstance(profile, str):
            return profile == "power-saver"
    return None
