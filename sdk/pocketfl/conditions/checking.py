"""Holds a device's signals against conditions, and says what is missing and when to look again."""

from __future__ import annotations

from datetime import datetime, tzinfo
from typing import Final

from pocketfl.conditions.signals import SignalProvider, Signals, Thermal
from pocketfl.conditions.spec import MEBIBYTE, ConditionSpec, HourWindow, WhenUnknown
from pocketfl.reasons import Reason

_MINUTE: Final = 60.0
_HOUR: Final = 3600.0

# How long a state of a device usually lasts, so that looking again sooner is mostly in vain. They are
# judgements: a wrong one costs a look or some hours, never a contribution that should not have been.
_RETRY_DISCHARGING: Final = (5 * _HOUR, 7 * _HOUR)  # Until the next night on the charger.
_RETRY_CHARGER: Final = (1 * _HOUR, 3 * _HOUR)
_RETRY_HOT: Final = (15 * _MINUTE, 30 * _MINUTE)
_RETRY_VERY_HOT: Final = (30 * _MINUTE, 60 * _MINUTE)
_RETRY_METERED: Final = (1 * _HOUR, 2 * _HOUR)
_RETRY_IN_USE: Final = (15 * _MINUTE, 30 * _MINUTE)
_RETRY_POWER_SAVE: Final = (1 * _HOUR, 2 * _HOUR)
_RETRY_STORAGE: Final = (4 * _HOUR, 8 * _HOUR)
_RETRY_MEMORY: Final = (10 * _MINUTE, 30 * _MINUTE)
_RETRY_UNKNOWN: Final = (1 * _HOUR, 2 * _HOUR)
_RETRY_FAILED: Final = (15 * _MINUTE, 30 * _MINUTE)

# Batteries of phones fill by a quarter to a whole of their capacity per hour.
_SLOW_CHARGE: Final = 0.25
_FAST_CHARGE: Final = 1.0
_SOONEST: Final = 5 * _MINUTE


def unmet(
    spec: ConditionSpec, signals: Signals, *, now: float, timezone: tzinfo | None = None
) -> tuple[Reason, ...]:
    """Return which conditions a device does not meet.

    Parameters
    ----------
    spec : ConditionSpec
        The plan's conditions, tightened by the app's.
    signals : Signals
        What the device knows about itself.
    now : float
        Unix time in seconds, for the windows.
    timezone : tzinfo, optional
        Of the windows' hours; the system's local time by default.

    Returns
    -------
    tuple of Reason
        In the order of the spec's fields; empty when nothing speaks against training.
    """
    unknown = spec.when_unknown
    found = (
        _battery(spec, signals),
        _flag(
            "charging",
            signals.charging if spec.require_charging else True,
            wanted=True,
            words=("on external power", "on battery"),
            unknown=unknown.charging,
            retry=_RETRY_CHARGER,
        ),
        _thermal(spec, signals),
        _flag(
            "network",
            signals.metered if spec.require_unmetered else False,
            wanted=False,
            words=("metered", "unmetered"),
            unknown=unknown.metered,
            retry=_RETRY_METERED,
        ),
        _flag(
            "device",
            signals.idle if spec.require_idle else True,
            wanted=True,
            words=("idle", "in use"),
            unknown=unknown.idle,
            retry=_RETRY_IN_USE,
        ),
        _flag(
            "power save",
            signals.power_save if spec.refuse_power_save else False,
            wanted=False,
            words=("on", "off"),
            unknown=unknown.power_save,
            retry=_RETRY_POWER_SAVE,
        ),
        _bytes(
            "free storage",
            signals.free_storage_bytes,
            spec.min_free_storage_bytes,
            unknown=unknown.free_storage,
            retry=_RETRY_STORAGE,
        ),
        _bytes(
            "free memory",
            signals.free_memory_bytes,
            spec.min_free_memory_bytes,
            unknown=unknown.free_memory,
            retry=_RETRY_MEMORY,
        ),
        _windows(spec.windows, now=now, timezone=timezone),
    )
    return tuple(reason for reason in found if reason is not None)


def check_conditions(
    provider: SignalProvider, spec: ConditionSpec, *, now: float, timezone: tzinfo | None = None
) -> tuple[Reason, ...]:
    """Ask a provider and return which conditions are not met.

    A provider that raises is itself a reason not to train: nothing is known about the device then.

    Parameters
    ----------
    provider : SignalProvider
        Asked once.
    spec, now, timezone
        As for :func:`unmet`.
    """
    try:
        signals = provider.read()
    except Exception as error:  # An app's own provider may raise anything; a round must not.
        reason = Reason(
            condition="signals",
            observed=f"{type(error).__name__}: {error}",
            required="a provider that can be read",
            retry_seconds=_RETRY_FAILED,
        )
        return (reason,)
    return unmet(spec, signals, now=now, timezone=timezone)


def _not_known(condition: str, required: str, unknown: WhenUnknown) -> Reason | None:
    if unknown == "allow":
        return None
    return Reason(
        condition=condition, observed="unknown", required=required, retry_seconds=_RETRY_UNKNOWN
    )


def _battery(spec: ConditionSpec, signals: Signals) -> Reason | None:
    level, least = signals.battery_level, spec.min_battery_level
    if least == 0:
        return None
    required = f">= {100 * least:.3g} %"
    if level is None:
        return _not_known("battery", required, spec.when_unknown.battery_level)
    if level >= least:
        return None
    retry = _RETRY_DISCHARGING
    if signals.charging:
        missing = least - level
        retry = (
            max(_SOONEST, missing / _FAST_CHARGE * _HOUR),
            max(2 * _SOONEST, missing / _SLOW_CHARGE * _HOUR),
        )
    return Reason(
        condition="battery",
        observed=f"{100 * level:.3g} %",
        required=required,
        retry_seconds=retry,
    )


def _thermal(spec: ConditionSpec, signals: Signals) -> Reason | None:
    highest = spec.highest_thermal
    if highest is Thermal.SHUTDOWN:
        return None
    required = f"at most {spec.max_thermal}"
    if signals.thermal is None:
        return _not_known("thermal status", required, spec.when_unknown.thermal)
    if signals.thermal <= highest:
        return None
    return Reason(
        condition="thermal status",
        observed=signals.thermal.name.lower(),
        required=required,
        retry_seconds=_RETRY_HOT if signals.thermal < Thermal.SEVERE else _RETRY_VERY_HOT,
    )


def _flag(
    condition: str,
    value: bool | None,
    *,
    wanted: bool,
    words: tuple[str, str],
    unknown: WhenUnknown,
    retry: tuple[float, float],
) -> Reason | None:
    if_true, if_false = words
    required = if_true if wanted else if_false
    if value is None:
        return _not_known(condition, required, unknown)
    if value == wanted:
        return None
    return Reason(
        condition=condition,
        observed=if_true if value else if_false,
        required=required,
        retry_seconds=retry,
    )


def _bytes(
    condition: str,
    value: int | None,
    least: int,
    *,
    unknown: WhenUnknown,
    retry: tuple[float, float],
) -> Reason | None:
    if least == 0:
        return None
    required = f">= {least / MEBIBYTE:.4g} MiB"
    if value is None:
        return _not_known(condition, required, unknown)
    if value >= least:
        return None
    return Reason(
        condition=condition,
        observed=f"{value / MEBIBYTE:.4g} MiB",
        required=required,
        retry_seconds=retry,
    )


def _windows(
    windows: tuple[HourWindow, ...], *, now: float, timezone: tzinfo | None
) -> Reason | None:
    if not windows:
        return None
    local = datetime.fromtimestamp(now, timezone)
    hour = local.hour + local.minute / 60 + (local.second + local.microsecond / 1e6) / 3600
    if all(window.contains(hour) for window in windows):
        return None
    return Reason(
        condition="local time",
        observed=f"{local.hour:02d}:{local.minute:02d}",
        required="within " + " and ".join(map(str, windows)),
        retry_seconds=_next_opening(windows, hour),
    )


def _next_opening(windows: tuple[HourWindow, ...], hour: float) -> tuple[float, float] | None:
    """Return when all windows are open next, in seconds; None if they have no hour in common.

    The set in which all are open begins where one of them does. A change to or from summer time on the
    way moves it by an hour; the device looks again and waits the rest.
    """
    starts = [w.start for w in windows if all(other.contains(w.start) for other in windows)]
    if not starts:
        return None
    start = min(starts, key=lambda candidate: (candidate - hour) % 24)
    open_hours = min((w.end - start) % 24 or 24.0 for w in windows)
    wait = (start - hour) % 24 * _HOUR
    # Spread over the opening's first half, an hour at most: a whole fleet waits for the same minute.
    return wait, wait + min(open_hours * _HOUR / 2, _HOUR)
