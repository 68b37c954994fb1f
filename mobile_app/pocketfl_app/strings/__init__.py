"""Every sentence of the app, by key: a translation is one more file beside ``en.json``."""

from __future__ import annotations

import json
import locale
from functools import lru_cache
from pathlib import Path
from typing import Final

_FOLDER: Final = Path(__file__).parent
FALLBACK: Final = "en"


def tr(key: str, /, **values: object) -> str:
    """Return a sentence in the person's language, with values put in.

    Parameters
    ----------
    key : str
        As in ``en.json``.
    **values
        For the placeholders of the sentence.

    Raises
    ------
    KeyError
        If not even English has it.
    """
    text = _sentences(_language()).get(key)
    if text is None:
        text = _sentences(FALLBACK)[key]
    return text.format(**values) if values else text


def has(key: str) -> bool:
    """Return whether there is such a sentence."""
    return key in _sentences(FALLBACK)


@lru_cache
def _sentences(language: str) -> dict[str, str]:
    path = _FOLDER / f"{language}.json"
    if not path.is_file():
        return {}
    found: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
    return found


@lru_cache
def _language() -> str:
    return (locale.getlocale()[0] or FALLBACK).split("_")[0].lower()
