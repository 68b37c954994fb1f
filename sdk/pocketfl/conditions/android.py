"""Signals of Android, through pyjnius and the framework's own services.

Types are those of the framework at API 36 (``chaquopy-stubs-android``), so that mypy checks every call
against it. pyjnius detaches its threads from Java by itself on Android.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar

from pocketfl.conditions.signals import Signals, Thermal
from pocketfl.errors import SignalsUnavailableError
from pocketfl.java import ClassFinder, load_java, running_context

if TYPE_CHECKING:
    from android.app import ActivityManager
    from android.content import Context, Intent, IntentFilter
    from android.net import ConnectivityManager
    from android.os import BatteryManager, Build, PowerManager, StatFs

T = TypeVar("T")

_THERMAL_SINCE: Final = 29


class AndroidSignals:
    """Reads battery, temperature, network, use, storage and memory of an Android device.

    Needs no permission but ``ACCESS_NETWORK_STATE``, which is granted at installation; without it the
    network is unknown. Make it on the main thread: other threads do not find the app's own classes.

    Parameters
    ----------
    context : android.content.Context, optional
        A pyjnius object; by default the running activity of Kivy's bootstrap, or its service.

    Raises
    ------
    SignalsUnavailableError
        If pyjnius or the Java machine is missing, or there is no activity or service.
    """

    def __init__(self, *, context: Any = None) -> None:
        try:
            java = load_java()
        except (
            Exception
        ) as error:  # Without a Java machine, its import raises errors of many kinds.
            raise SignalsUnavailableError(
                f"pyjnius cannot be used ({error}): add pyjnius to the requirements of the app, or "
                "give the device a signal provider of your own"
            ) from error
        self._java_exception = java.exception
        try:
            self._find(java.autoclass, java.cast, context)
        except java.exception as error:
            raise SignalsUnavailableError(
                f"Android's services cannot be reached: {error}"
            ) from error

    def _find(self, autoclass: ClassFinder, cast: Callable[[str, Any], Any], given: Any) -> None:
        self._context: Context = given if given is not None else _running_context(autoclass)
        context: type[Context] = autoclass("android.content.Context")
        self._intent: type[Intent] = autoclass("android.content.Intent")
        self._intent_filter: type[IntentFilter] = autoclass("android.content.IntentFilter")
        self._battery_manager: type[BatteryManager] = autoclass("android.os.BatteryManager")
        self._stat_fs: type[StatFs] = autoclass("android.os.StatFs")
        self._memory_info: type[ActivityManager.MemoryInfo] = autoclass(
            "android.app.ActivityManager$MemoryInfo"
        )
        version: type[Build.VERSION] = autoclass("android.os.Build$VERSION")
        self._api_level = version.SDK_INT

        def service(kind: str, name: str) -> Any:
            return cast(kind, self._context.getSystemService(name))

        self._power: PowerManager = service("android.os.PowerManager", context.POWER_SERVICE)
        self._network: ConnectivityManager = service(
            "android.net.ConnectivityManager", context.CONNECTIVITY_SERVICE
        )
        self._activities: ActivityManager = service(
            "android.app.ActivityManager", context.ACTIVITY_SERVICE
        )

    def read(self) -> Signals:
        """Look at the device now."""
        level, charging = self._ask(self._battery) or (None, None)
        return Signals(
            battery_level=level,
            charging=charging,
            thermal=self._ask(self._thermal),
            metered=self._ask(self._network.isActiveNetworkMetered),
            idle=self._ask(self._idle),
            power_save=self._ask(self._power.isPowerSaveMode),
            free_storage_bytes=self._ask(self._free_storage),
            free_memory_bytes=self._ask(self._free_memory),
        )

    def _ask(self, question: Callable[[], T]) -> T | None:
        """Return the answer; None where the framework throws, as for a permission that is missing."""
        try:
            return question()
        except self._java_exception:
            return None

    def _battery(self) -> tuple[float | None, bool | None]:
        # A sticky broadcast: without a receiver, registering returns the latest one at once. The stubs
        # do not know that the receiver may be null.
        nobody: Any = None
        filter_ = self._intent_filter(self._intent.ACTION_BATTERY_CHANGED)
        status: Intent | None = self._context.registerReceiver(nobody, filter_)
        if status is None:
            return None, None
        manager = self._battery_manager
        plugged = status.getIntExtra(manager.EXTRA_PLUGGED, -1)
        charging = plugged != 0 if plugged >= 0 else None
        if not status.getBooleanExtra(manager.EXTRA_PRESENT, True):
            return None, charging
        level = status.getIntExtra(manager.EXTRA_LEVEL, -1)
        scale = status.getIntExtra(manager.EXTRA_SCALE, -1)
        return (level / scale if 0 <= level <= scale and scale > 0 else None), charging

    def _thermal(self) -> Thermal | None:
        if self._api_level < _THERMAL_SINCE:
            return None
        status = self._power.getCurrentThermalStatus()
        return Thermal(status) if status in Thermal._value2member_map_ else None

    def _idle(self) -> bool:
        # The screen is off, or the system itself has gone to rest (Doze).
        return not self._power.isInteractive() or self._power.isDeviceIdleMode()

    def _free_storage(self) -> int | None:
        # The app's private files, where the store is.
        folder = self._context.getFilesDir()
        return self._stat_fs(str(folder.getAbsolutePath())).getAvailableBytes()

    def _free_memory(self) -> int | None:
        info = self._memory_info()
        self._activities.getMemoryInfo(info)
        # Below the threshold Android kills background processes: that part is not ours.
        return max(0, info.availMem - info.threshold)


def _running_context(autoclass: ClassFinder) -> Any:
    context = running_context(autoclass)
    if context is None:
        raise SignalsUnavailableError(
            "no activity or service of the app is running: make AndroidSignals after it has started, "
            "or pass its context"
        )
    return context
