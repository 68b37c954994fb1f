"""The Android provider against a framework whose answers the test decides, through pyjnius's calls."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest

from pocketfl.conditions import AndroidSignals, Signals, Thermal, default_signals
from pocketfl.errors import SignalsUnavailableError


class JavaException(Exception):  # noqa: N818 - pyjnius names it so
    """What pyjnius raises for every exception of Java."""


@dataclass
class Phone:
    """What the framework of one phone answers; an exception is thrown instead of returned."""

    extras: dict[str, int] | None = field(
        default_factory=lambda: {"level": 77, "scale": 100, "plugged": 2}
    )
    present: bool = True
    api_level: int = 36
    thermal: object = 0
    metered: object = False
    interactive: object = False
    resting: object = False
    power_save: object = False
    free_storage: object = 10**9
    memory: tuple[int, int] = (3 * 10**9, 10**9)
    running: bool = True

    def answer(self, name: str) -> object:
        value = getattr(self, name)
        if isinstance(value, Exception):
            raise value
        return value

    # pyjnius's three names that the provider uses.

    def autoclass(self, name: str) -> object:
        names = SimpleNamespace
        classes = {
            "android.content.Context": names(
                POWER_SERVICE="power", CONNECTIVITY_SERVICE="network", ACTIVITY_SERVICE="activity"
            ),
            "android.content.Intent": names(ACTION_BATTERY_CHANGED="battery changed"),
            "android.content.IntentFilter": lambda action: ("filter", action),
            "android.os.BatteryManager": names(
                EXTRA_LEVEL="level",
                EXTRA_SCALE="scale",
                EXTRA_PLUGGED="plugged",
                EXTRA_PRESENT="present",
            ),
            "android.os.StatFs": self._stat_fs,
            "android.app.ActivityManager$MemoryInfo": lambda: names(availMem=0, threshold=0),
            "android.os.Build$VERSION": names(SDK_INT=self.api_level),
            "org.kivy.android.PythonActivity": names(mActivity=self if self.running else None),
            "org.kivy.android.PythonService": names(mService=self),
        }
        if name not in classes:
            raise JavaException(f"Class not found {name}")
        return classes[name]

    def cast(self, name: str, service: object) -> object:
        assert service == {
            "android.os.PowerManager": "power",
            "android.net.ConnectivityManager": "network",
            "android.app.ActivityManager": "activity",
        }.get(name)
        return SimpleNamespace(
            getCurrentThermalStatus=lambda: self.answer("thermal"),
            isInteractive=lambda: self.answer("interactive"),
            isDeviceIdleMode=lambda: self.answer("resting"),
            isPowerSaveMode=lambda: self.answer("power_save"),
            isActiveNetworkMetered=lambda: self.answer("metered"),
            getMemoryInfo=self._memory_info,
        )

    # The context.

    def getSystemService(self, name: str) -> str:  # noqa: N802
        return name

    def getFilesDir(self) -> object:  # noqa: N802
        return SimpleNamespace(getAbsolutePath=lambda: "/data/app/files")

    def registerReceiver(self, receiver: object, filter_: object) -> object:  # noqa: N802
        assert (receiver, filter_) == (None, ("filter", "battery changed"))
        if self.extras is None:
            return None
        return SimpleNamespace(
            getIntExtra=self.extras.get, getBooleanExtra=lambda name, default: self.present
        )

    def _stat_fs(self, path: str) -> object:
        assert path == "/data/app/files"
        return SimpleNamespace(getAvailableBytes=lambda: self.answer("free_storage"))

    def _memory_info(self, info: SimpleNamespace) -> None:
        info.availMem, info.threshold = self.memory


def install(phone: Phone, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make ``import jnius`` reach this phone."""
    library = SimpleNamespace(
        JavaException=JavaException, autoclass=phone.autoclass, cast=phone.cast
    )
    monkeypatch.setitem(sys.modules, "jnius", library)


def read(monkeypatch: pytest.MonkeyPatch, **answers: object) -> Signals:
    install(Phone(**answers), monkeypatch)
    return AndroidSignals().read()


def test_every_signal_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A resting phone on its charger."""
    assert read(monkeypatch) == Signals(
        battery_level=0.77,
        charging=True,
        thermal=Thermal.NONE,
        metered=False,
        idle=True,
        power_save=False,
        free_storage_bytes=10**9,
        free_memory_bytes=2 * 10**9,
    )


@pytest.mark.parametrize(
    ("answers", "level", "charging"),
    [
        ({"extras": {"level": 24, "scale": 100, "plugged": 0}}, 0.24, False),
        ({"extras": {"level": 100, "scale": 200, "plugged": 1}}, 0.5, True),
        ({"extras": {"plugged": 1}}, None, True),
        ({"extras": {"level": 5, "scale": 0, "plugged": 0}}, None, False),
        ({"extras": {"level": 150, "scale": 100}}, None, None),
        ({"extras": {"level": 0, "scale": 100, "plugged": 1}, "present": False}, None, True),
        ({"extras": None}, None, None),
    ],
)
def test_a_battery_that_makes_no_sense_is_unknown(
    monkeypatch: pytest.MonkeyPatch, answers: dict[str, object], level, charging
) -> None:
    """Missing extras and impossible numbers are unknown; a television has no battery but power."""
    signals = read(monkeypatch, **answers)
    assert (signals.battery_level, signals.charging) == (level, charging)


@pytest.mark.parametrize(
    ("api_level", "status", "expected"),
    [(36, 3, Thermal.SEVERE), (29, 6, Thermal.SHUTDOWN), (28, 3, None), (36, 9, None)],
)
def test_thermal_status_needs_api_29(
    monkeypatch: pytest.MonkeyPatch, api_level: int, status: int, expected: Thermal | None
) -> None:
    """Older phones do not say, and a status of the future is not guessed."""
    assert read(monkeypatch, api_level=api_level, thermal=status).thermal is expected


@pytest.mark.parametrize(
    ("interactive", "resting", "idle"),
    [(True, False, False), (False, False, True), (True, True, True), (False, True, True)],
)
def test_idle_is_screen_off_or_rest(
    monkeypatch: pytest.MonkeyPatch, interactive: bool, resting: bool, idle: bool
) -> None:
    """In use means that the screen is on and the system awake."""
    assert read(monkeypatch, interactive=interactive, resting=resting).idle is idle


def test_memory_below_the_threshold_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Android begins to kill processes nothing is free."""
    assert read(monkeypatch, memory=(10**8, 2 * 10**8)).free_memory_bytes == 0


@pytest.mark.parametrize(
    ("name", "signal"),
    [
        ("thermal", "thermal"),
        ("metered", "metered"),
        ("interactive", "idle"),
        ("power_save", "power_save"),
        ("free_storage", "free_storage_bytes"),
    ],
)
def test_a_question_that_android_refuses_is_unknown(
    monkeypatch: pytest.MonkeyPatch, name: str, signal: str
) -> None:
    """A missing permission takes one signal away and leaves the others."""
    complete = read(monkeypatch)
    signals = read(monkeypatch, **{name: JavaException("SecurityException")})
    assert getattr(signals, signal) is None
    others = [n for n in vars(complete) if n != signal]
    assert {n: getattr(signals, n) for n in others} == {n: getattr(complete, n) for n in others}


def test_a_service_process_uses_its_service(monkeypatch: pytest.MonkeyPatch) -> None:
    """A background service has no activity, and needs none."""
    phone = Phone(running=False)
    install(phone, monkeypatch)
    with pytest.raises(SignalsUnavailableError, match="no activity or service"):
        AndroidSignals()
    monkeypatch.setenv("PYTHON_SERVICE_ARGUMENT", "")
    assert AndroidSignals().read().battery_level == 0.77


def test_an_app_may_bring_its_context(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other bootstraps than Kivy's have other activities."""
    install(Phone(running=False), monkeypatch)
    assert AndroidSignals(context=Phone()).read().charging is True


def test_the_default_on_android_is_the_android_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recognised by the interpreter, whichever platform name it reports."""
    install(Phone(), monkeypatch)
    monkeypatch.setattr(sys, "getandroidapilevel", lambda: 36, raising=False)
    assert isinstance(default_signals("app.db"), AndroidSignals)


def test_without_pyjnius_the_app_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing library is named, with what to do."""
    monkeypatch.setitem(sys.modules, "jnius", None)
    with pytest.raises(SignalsUnavailableError, match="add pyjnius to the requirements"):
        AndroidSignals()


def test_a_framework_without_a_class_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a Java machine that is no Android, the message says so."""
    phone = Phone()
    install(phone, monkeypatch)
    monkeypatch.setattr(
        sys.modules["jnius"], "autoclass", lambda name: phone.autoclass(f"missing.{name}")
    )
    with pytest.raises(SignalsUnavailableError, match="cannot be reached"):
        AndroidSignals(context=phone)
