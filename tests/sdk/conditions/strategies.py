"""Any signals, any conditions, any time."""

from __future__ import annotations

from typing import get_args

from hypothesis import strategies as st

from pocketfl.conditions import ConditionSpec, HourWindow, Signals, Thermal, UnknownSpec
from pocketfl.conditions.spec import MAX_BYTES, ThermalName

_FLAG = st.sampled_from([None, True, False])
_BYTES = st.integers(0, 2**30)
_UNKNOWN = st.sampled_from(["allow", "refuse"])

hours = st.one_of(st.integers(0, 23).map(float), st.floats(0, 24, exclude_max=True))
windows = (
    st.tuples(hours, hours)
    .filter(lambda pair: pair[0] != pair[1])
    .map(lambda pair: HourWindow(start=pair[0], end=pair[1] or 24.0))
    .filter(lambda window: window.hours > 0)
)
signals = st.builds(
    Signals,
    battery_level=st.none() | st.floats(0, 1),
    charging=_FLAG,
    thermal=st.none() | st.sampled_from(Thermal),
    metered=_FLAG,
    idle=_FLAG,
    power_save=_FLAG,
    free_storage_bytes=st.none() | _BYTES,
    free_memory_bytes=st.none() | _BYTES,
)
specs = st.builds(
    ConditionSpec,
    min_battery_level=st.just(0.0) | st.floats(0, 1),
    require_charging=st.booleans(),
    max_thermal=st.sampled_from(get_args(ThermalName)),
    require_unmetered=st.booleans(),
    require_idle=st.booleans(),
    refuse_power_save=st.booleans(),
    min_free_storage_bytes=_BYTES | st.just(MAX_BYTES),
    min_free_memory_bytes=_BYTES,
    windows=st.lists(windows, max_size=3).map(tuple),
    when_unknown=st.builds(
        UnknownSpec,
        battery_level=_UNKNOWN,
        charging=_UNKNOWN,
        thermal=_UNKNOWN,
        metered=_UNKNOWN,
        idle=_UNKNOWN,
        power_save=_UNKNOWN,
        free_storage=_UNKNOWN,
        free_memory=_UNKNOWN,
    ),
)
times = st.floats(0, 2e9)
