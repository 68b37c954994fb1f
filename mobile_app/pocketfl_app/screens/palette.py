"""The colours; every text on its ground has a contrast of 4.5 to 1 or more (WCAG 2.1, AA)."""

from __future__ import annotations

from typing import Final

from kivy.utils import get_color_from_hex

_HEX: Final = {
    "paper": "#F5F2EA",
    "card": "#FFFFFF",
    "line": "#E2DDD1",
    "ink": "#1C2333",
    "muted": "#575F70",
    "primary": "#3A49C4",
    "primary_dark": "#2A369B",
    "primary_soft": "#E7E9FA",
    "on_primary": "#FFFFFF",
    "good": "#17694C",
    "good_soft": "#DCF2E8",
    "wait": "#8A4B00",
    "wait_soft": "#FCEBD2",
    "bad": "#A92218",
    "bad_soft": "#FBE4E1",
    "track": "#E9E5DB",
    "shade": "#1C233399",
}


def contrast(one: str, other: str) -> float:
    """Return the contrast ratio of two colours by name (WCAG 2.1, relative luminance)."""
    lighter, darker = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(name: str) -> float:
    linear = [
        value / 12.92 if value <= 0.03928 else ((value + 0.055) / 1.055) ** 2.4
        for value in COLORS[name][:3]
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


COLORS: Final[dict[str, list[float]]] = {
    name: get_color_from_hex(value) for name, value in _HEX.items()
}
