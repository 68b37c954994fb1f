"""The page of the plan's manifest, from its types and what they say of their fields."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Iterator
from typing import Any, Final, Literal

import docstrings

from pocketfl.plan.manifest import Manifest

_HEAD: Final = """\
# Plan schema

A plan is a signed archive: `manifest.json`, its signature, and the files that it names, each with its SHA-256. This is what the
manifest may say, made from the types that read it. A field without a default is required. A device that meets a field that it does not
know refuses the plan and says which.

"""


def page() -> str:
    """Return the page as markdown."""
    return _HEAD + "\n".join(_section(kind) for kind in _reachable(Manifest))


def _reachable(first: type) -> Iterator[type]:
    """Yield every dataclass that a manifest is made of, in the order of their first mention."""
    waiting, seen = [first], {first}
    while waiting:
        kind = waiting.pop(0)
        yield kind
        hints = typing.get_type_hints(kind)
        for field in dataclasses.fields(kind):
            for found in _classes(hints[field.name]):
                if found not in seen:
                    seen.add(found)
                    waiting.append(found)


def _classes(hint: Any) -> Iterator[type]:
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        yield hint
    for part in typing.get_args(hint):
        yield from _classes(part)


def _section(kind: type) -> str:
    opening, said = docstrings.read(kind.__doc__ or "")
    lines = [f"## {kind.__name__}", "", opening, ""]
    lines += ["| field | type | default | |", "| --- | --- | --- | --- |"]
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        cells = (
            f"`{field.name}`",
            _shown(hints[field.name]),
            _default(field),
            said.get(field.name, ""),
        )
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _shown(hint: Any) -> str:
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return f"[{hint.__name__}](#{hint.__name__.lower()})"
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return " or ".join(f"`{part!r}`" for part in parts)
    if origin in (typing.Union, types.UnionType):
        return " or ".join("nothing" if p is type(None) else _shown(p) for p in parts)
    if origin is tuple:
        return f"list of {_shown(parts[0])}"
    if origin is not None and len(parts) == 2:
        return f"map of {_shown(parts[0])} to {_shown(parts[1])}"
    return str(getattr(hint, "__name__", hint))


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default is not dataclasses.MISSING:
        value = field.default
        if dataclasses.is_dataclass(value):
            return "its own defaults"
        return "nothing" if value is None or value == () else f"`{value!r}`"
    if field.default_factory is not dataclasses.MISSING:
        return "its own defaults"
    return "required"
