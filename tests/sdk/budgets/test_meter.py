"""What a session uses is measured, or estimated by the stated model."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from pocketfl.budgets import (
    AndroidBattery,
    BatteryReading,
    EnergyModel,
    Meter,
    SysfsBattery,
)
from pocketfl.budgets.meter import highest_resident_bytes, resident_bytes


class FakeBattery:
    """A battery whose counter a test sets."""

    def __init__(self, joules: float | None = 1000.0, *, discharging: bool = True) -> None:
        self.joules, self.discharging = joules, discharging

    def read(self) -> BatteryReading | None:
        if self.joules is None:
            return None
        return BatteryReading(joules=self.joules, discharging=self.discharging)


def burn(cpu_seconds: float) -> None:
    end = time.thread_time() + cpu_seconds
    while time.thread_time() < end:
        pass


def test_processor_time_is_what_was_computed():
    """Sleeping costs wall time only."""
    meter = Meter(scope="thread")
    burn(0.05)
    time.sleep(0.05)
    used = meter.read()
    assert 0.05 <= used.cpu_seconds < used.wall_seconds
    assert used.wall_seconds >= 0.1


def test_scope_decides_whose_threads_count():
    """Another thread's work is the process's, not this thread's."""
    process, thread = Meter(scope="process"), Meter(scope="thread")
    worker = threading.Thread(target=burn, args=(0.1,))
    worker.start()
    worker.join()
    assert process.read().cpu_seconds >= 0.1
    assert thread.read().cpu_seconds < 0.1


@pytest.mark.skipif(resident_bytes() is None, reason="the platform has no procfs")
def test_memory_is_the_peak_above_the_beginning():
    """Memory that was given back still counts, that of before the session does not."""
    before = np.ones(2_000_000)
    meter = Meter(memory_every_seconds=0.0)
    assert meter.read().peak_memory_bytes < 8_000_000
    # More than the allocator ever serves from what it has kept: those pages are new.
    block = np.ones(8_000_000)
    meter.read()
    del block
    assert 56_000_000 < meter.read().peak_memory_bytes < 300_000_000
    assert before[0] == 1


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no resource module")
def test_a_new_highest_peak_is_found_without_looking_meanwhile():
    """The system keeps the highest mark, so a peak between two looks is not missed."""
    meter = Meter(memory_every_seconds=1e9)
    room = highest_resident_bytes() - (resident_bytes() or 0)
    block = np.ones((room + 40_000_000) // 8)
    del block
    assert meter.read(thorough=True).peak_memory_bytes >= 30_000_000


@pytest.mark.skipif(resident_bytes() is None, reason="the platform has no procfs")
def test_a_program_is_not_charged_with_who_started_it():
    """The highest mark of a large process is not that of the small one that it starts."""
    block = np.ones(25_000_000)
    script = (
        "from pocketfl.budgets.meter import highest_resident_bytes\n"
        "print(highest_resident_bytes(of_program=True))"
    )
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert 0 < int(told.stdout) < 150_000_000 < block.nbytes


def test_memory_and_battery_are_looked_at_only_so_often():
    """Between two looks neither costs anything."""
    now, looks = [0.0], []

    class Counting(FakeBattery):
        def read(self):
            looks.append(now[0])
            return super().read()

    meter = Meter(battery=Counting(), battery_every_seconds=10.0, clock=lambda: now[0])
    for second in range(25):
        now[0] = float(second)
        meter.read()
    assert looks == [0.0, 10.0, 20.0]


def test_unknown_links_count_as_metered():
    """Where nobody knows what a link costs, it may cost."""
    meter = Meter()
    meter.add_bytes(up=1, down=10, metered=None)
    meter.add_bytes(up=2, down=20, metered=True)
    meter.add_bytes(up=4, down=40, metered=False)
    used = meter.read()
    assert (used.bytes_up, used.bytes_up_metered) == (7, 3)
    assert (used.bytes_down_metered, used.bytes_down_unmetered) == (30, 40)


def test_storage_is_the_most_that_was_kept():
    """A checkpoint that was deleted still took its room."""
    meter = Meter()
    meter.keep_bytes(100)
    meter.keep_bytes(10)
    assert meter.read().storage_bytes == 100


def test_the_battery_measures_where_it_can():
    """What its counter lost is what was used, and replaces the estimate."""
    battery = FakeBattery(1000.0)
    meter = Meter(battery=battery)
    battery.joules = 940.0
    assert meter.read(thorough=True).joules == 60.0
    assert meter.joules_measured


@pytest.mark.parametrize("case", ["charging", "charged later", "unknown", "no step"])
def test_the_model_steps_in_where_the_battery_says_nothing(case):
    """A counter that rises, is missing, or has not moved yet is no measurement."""
    battery = FakeBattery(None if case == "unknown" else 1000.0, discharging=case != "charging")
    meter = Meter(scope="thread", battery=battery, energy=EnergyModel(watts_per_cpu=2.0))
    if case == "charged later":
        battery.joules, battery.discharging = 1010.0, False
    burn(0.02)
    used = meter.read(thorough=True)
    assert not meter.joules_measured
    assert used.joules == pytest.approx(2.0 * used.cpu_seconds)


def test_energy_never_runs_backwards():
    """When a charger is plugged in, what was measured before stays spent."""
    battery = FakeBattery(1000.0)
    meter = Meter(battery=battery)
    battery.joules = 900.0
    assert meter.read(thorough=True).joules == 100.0
    battery.joules, battery.discharging = 950.0, False
    assert meter.read(thorough=True).joules == 100.0
    battery.joules, battery.discharging = 940.0, True
    assert meter.read(thorough=True).joules == 100.0


def test_model_adds_up_its_parts():
    """Processor, bytes of each link, and one tail of the cellular radio."""
    model = EnergyModel(
        watts_per_cpu=2.0,
        metered_joules_per_byte_up=1.0,
        unmetered_joules_per_byte_up=0.1,
        metered_joules_per_byte_down=0.01,
        unmetered_joules_per_byte_down=0.001,
        metered_tail_joules=100.0,
    )
    joules = model.joules(
        cpu_seconds=3.0,
        bytes_up=7,
        bytes_up_metered=2,
        bytes_down_metered=10,
        bytes_down_unmetered=1000,
    )
    assert joules == pytest.approx(6.0 + 2.0 + 0.5 + 0.1 + 1.0 + 100.0)
    assert model.joules(cpu_seconds=3.0, bytes_up=5) == pytest.approx(6.5)
    assert model.joules(cpu_seconds=0.0, bytes_up_metered=1, bytes_up=1, metered_bursts=3) == 301.0


def test_default_model_is_of_a_phones_size():
    """A megabyte over LTE costs joules, over Wi-Fi a few; a minute of one core some hundred."""
    model = EnergyModel()
    assert 100 <= model.joules(cpu_seconds=60.0) <= 200
    assert 4 <= model.joules(cpu_seconds=0, bytes_up=10**6, bytes_up_metered=10**6) - 12.3 <= 7
    assert 1 <= model.joules(cpu_seconds=0, bytes_down_unmetered=10**6) <= 2


def test_impossible_models_are_refused():
    """The message names the coefficient."""
    with pytest.raises(ValueError, match="watts_per_cpu"):
        EnergyModel(watts_per_cpu=-1.0)


def supply(folder, name, **files):
    (folder / name).mkdir()
    for key, value in files.items():
        (folder / name / key).write_text(f"{value}\n")


def test_sysfs_energy_counter(tmp_path):
    """All the device's batteries count; a mouse's battery and a charger do not."""
    supply(tmp_path, "BAT0", type="Battery", status="Discharging", energy_now=10_000_000)
    supply(tmp_path, "BAT1", type="Battery", status="Discharging", energy_now=5_000_000)
    supply(tmp_path, "mouse", type="Battery", scope="Device", status="Full", energy_now=1_000_000)
    supply(tmp_path, "AC", type="Mains", online=0)
    assert SysfsBattery(tmp_path).read() == BatteryReading(joules=15 * 3600.0, discharging=True)


def test_sysfs_charge_counter(tmp_path):
    """Micro-ampere-hours at the voltage of the design; charging is told."""
    supply(
        tmp_path,
        "battery",
        type="Battery",
        status="Charging",
        charge_now=2_000_000,
        voltage_min_design=3_800_000,
        voltage_now=4_200_000,
    )
    reading = SysfsBattery(tmp_path).read()
    assert reading.joules == pytest.approx(2 * 3.8 * 3600)
    assert not reading.discharging


@pytest.mark.parametrize(
    "files", [{}, {"energy_now": "-5"}, {"charge_now": 100}, {"energy_now": "x"}]
)
def test_sysfs_that_tells_nothing_is_unknown(tmp_path, files):
    """Missing or unreadable counters are None, never a zero."""
    supply(tmp_path, "BAT0", type="Battery", status="Discharging", **files)
    assert SysfsBattery(tmp_path).read() is None
    assert SysfsBattery(tmp_path / "nowhere").read() is None


class FakeBatteryManager:
    """Answers as Android's BatteryManager does."""

    def __init__(self, *, energy: int, charge: int, charging: bool) -> None:
        self.energy, self.charge, self.charging = energy, charge, charging

    def getLongProperty(self, number):  # noqa: N802
        return {5: self.energy}[number]

    def getIntProperty(self, number):  # noqa: N802
        return {1: self.charge}[number]

    def isCharging(self):  # noqa: N802
        return self.charging


@pytest.mark.parametrize(
    ("energy", "charge", "joules"),
    [
        (10 * 10**9, 2_000_000, 36_000.0),
        (-(2**63), 2_000_000, 2 * 3.85 * 3600),
        (0, 2_000_000, 2 * 3.85 * 3600),
        (-(2**63), -(2**31), None),
    ],
    ids=["energy counter", "charge counter", "energy counter at zero", "neither"],
)
def test_android_counters(energy, charge, joules):
    """Energy first, else charge at a nominal voltage, else unknown."""
    manager = FakeBatteryManager(energy=energy, charge=charge, charging=False)
    reading = AndroidBattery(manager).read()
    if joules is None:
        assert reading is None
    else:
        assert reading.joules == pytest.approx(joules)
        assert reading.discharging
