"""What a desktop says, from real sensors where this machine has them and from scripted ones."""

from __future__ import annotations

import sys
from collections import namedtuple
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketfl.conditions import DesktopSignals, Signals, Thermal, default_signals, desktop
from pocketfl.conditions.desktop import thermal_status
from pocketfl.conditions.system_bus import BusSignals
from pocketfl.errors import SignalsUnavailableError

Battery = namedtuple("Battery", "percent secsleft power_plugged")
Sensor = namedtuple("Sensor", "label current high critical")


def read_with(
    monkeypatch: pytest.MonkeyPatch, folder: Path, *, battery=None, sensors=None, bus=None
) -> Signals:
    """Read a machine with these sensors."""

    def answer(value):
        def sensor():
            if isinstance(value, Exception):
                raise value
            return value

        return sensor

    monkeypatch.setattr(psutil, "sensors_battery", answer(battery), raising=False)
    monkeypatch.setattr(psutil, "sensors_temperatures", answer(sensors or {}), raising=False)
    monkeypatch.setattr(desktop, "read_system_bus", lambda: bus or BusSignals())
    return DesktopSignals(path=folder).read()


def test_this_machine_knows_its_storage_and_memory(tmp_path: Path) -> None:
    """The provider for this platform reads the real machine, for a store that does not exist yet."""
    provider = default_signals(tmp_path / "not" / "yet" / "app.db")
    assert isinstance(provider, DesktopSignals)
    signals = provider.read()
    assert signals.free_storage_bytes is not None and signals.free_storage_bytes > 0
    assert signals.free_memory_bytes is not None
    assert 0 < signals.free_memory_bytes <= psutil.virtual_memory().total


@pytest.mark.parametrize(
    ("battery", "level", "charging"),
    [
        (None, None, None),
        (Battery(24.0, 5000, False), 0.24, False),
        (Battery(101.0, -2, True), 1.0, True),
        (Battery(50, -1, None), 0.5, None),
        (FileNotFoundError("no such folder"), None, None),
    ],
)
def test_the_battery_is_what_psutil_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, battery, level, charging
) -> None:
    """A fraction with its charger; without a battery, or with one that fails, both unknown."""
    signals = read_with(monkeypatch, tmp_path, battery=battery)
    assert (signals.battery_level, signals.charging) == (level, charging)


def test_the_hottest_sensor_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One hot disk among cool cores is the machine's status; sensors without limits say nothing."""
    sensors = {
        "coretemp": [Sensor("core 0", 50.0, 100.0, 100.0), Sensor("core 1", 51.0, 100.0, 100.0)],
        "nvme": [Sensor("disk", 82.0, 80.0, 85.0)],
        "acpitz": [Sensor("", 90.0, None, None)],
    }
    assert read_with(monkeypatch, tmp_path, sensors=sensors).thermal is Thermal.SEVERE
    del sensors["nvme"]
    assert read_with(monkeypatch, tmp_path, sensors=sensors).thermal is Thermal.NONE
    del sensors["coretemp"]
    assert read_with(monkeypatch, tmp_path, sensors=sensors).thermal is None
    failing = read_with(monkeypatch, tmp_path, sensors=OSError("gone"))
    assert failing.thermal is None


@pytest.mark.parametrize(
    ("current", "high", "critical", "status"),
    [
        (84.9, 100.0, 105.0, Thermal.NONE),
        (85.0, 100.0, 105.0, Thermal.LIGHT),
        (95.0, 100.0, 105.0, Thermal.MODERATE),
        (100.0, 100.0, 105.0, Thermal.SEVERE),
        (105.0, 100.0, 105.0, Thermal.CRITICAL),
        (96.0, None, 100.0, Thermal.MODERATE),
        (96.0, 65261.85, 100.0, Thermal.MODERATE),
        (96.0, 0.0, -273.15, None),
        (None, 100.0, 105.0, None),
    ],
)
def test_temperatures_follow_the_stated_scale(current, high, critical, status) -> None:
    """By the sensor's own limits; placeholders of drivers are no limits."""
    assert thermal_status([(current, high, critical)]) is status


@given(
    st.lists(st.tuples(st.floats(-50, 150), st.floats(40, 125), st.floats(40, 125)), min_size=1),
    st.floats(0, 50),
)
def test_hotter_is_never_a_lower_status(readings, more: float) -> None:
    """The scale is monotone in every sensor's temperature."""
    hotter = [(current + more, high, critical) for current, high, critical in readings]
    before, after = thermal_status(readings), thermal_status(hotter)
    assert before is not None and after is not None
    assert before <= after


def test_the_bus_fills_in_network_use_and_power(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What only D-Bus knows is passed on, on Linux and nowhere else."""
    bus = BusSignals(metered=True, idle=False, power_save=True)
    monkeypatch.setattr(sys, "platform", "linux")
    signals = read_with(monkeypatch, tmp_path, bus=bus)
    assert (signals.metered, signals.idle, signals.power_save) == (True, False, True)
    monkeypatch.setattr(sys, "platform", "darwin")
    signals = read_with(monkeypatch, tmp_path, bus=bus)
    assert (signals.metered, signals.idle, signals.power_save) == (None, None, None)


def test_without_psutil_the_app_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A missing library is named, with what to do."""
    monkeypatch.setitem(sys.modules, "psutil", None)
    with pytest.raises(SignalsUnavailableError, match="pip install psutil"):
        DesktopSignals(path=tmp_path)
