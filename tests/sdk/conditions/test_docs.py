"""The page about conditions says what the code does."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from pocketfl.conditions import ConditionSpec, UnknownSpec

PAGE = (Path(__file__).parents[3] / "docs" / "conditions.md").read_text()


def test_the_programs_of_the_page_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In their order, as one program that leaves no file behind."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for program in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        exec(program, names)
    conditions = names["conditions"]
    assert isinstance(conditions, ConditionSpec)
    assert conditions.min_battery_level == 0.5
    assert conditions.require_idle and conditions.require_charging
    assert list(tmp_path.iterdir()) == []


def test_the_table_has_every_field_and_its_defaults() -> None:
    """One row per condition, with the word for what unknown means."""
    rows = {
        cells[0].strip("` "): [cell.strip() for cell in cells[1:]]
        for line in PAGE.splitlines()
        if line.startswith("| `") and len(cells := line.strip("|").split("|")) == 4
    }
    assert set(rows) == {item.name for item in fields(ConditionSpec)} - {"when_unknown"}
    signal_of = {
        "min_battery_level": "battery_level",
        "require_charging": "charging",
        "max_thermal": "thermal",
        "require_unmetered": "metered",
        "require_idle": "idle",
        "refuse_power_save": "power_save",
        "min_free_storage_bytes": "free_storage",
        "min_free_memory_bytes": "free_memory",
    }
    for name, signal in signal_of.items():
        word = {"allow": "passes", "refuse": "refuses"}[getattr(UnknownSpec(), signal)]
        assert rows[name][-1] == word, name
        default, shown = getattr(ConditionSpec(), name), rows[name][0]
        if isinstance(default, bool):
            assert shown == ("yes" if default else "no"), name
        elif isinstance(default, int):
            assert shown == f"{default // 2**20} MiB", name
        else:
            text = f"{default:.2f}" if isinstance(default, float) else default
            assert shown.strip('`"') == text, name
