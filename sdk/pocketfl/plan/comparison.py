"""What differs between two plans."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

from pocketfl.decoding import encode
from pocketfl.plan.archive import Plan

_LONGEST: Final = 60


@dataclass(frozen=True, kw_only=True)
class PlanChange:
    """One difference.

    Attributes
    ----------
    what : str
        A field of the manifest such as ``training.learning_rate``, a part, or ``initial parameters``.
    before, after : object
        JSON values; None where there is no such field.
    """

    what: str
    before: Any
    after: Any

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return asdict(self)

    @staticmethod
    def shown(value: Any) -> str:
        """Return a value as one short text."""
        if value is None:
            return "-"
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."


def compare_plans(before: Plan, after: Plan) -> list[PlanChange]:
    """Return every difference, in the order of the manifest; none for two plans that say the same.

    Parts are compared by content, and parameters by how far they are apart.
    """
    changes = (
        []
        if before.signed_by == after.signed_by
        else [PlanChange(what="signed by", before=before.signed_by, after=after.signed_by)]
    )
    old, new = (dict(_fields(encode(plan.manifest))) for plan in (before, after))
    changes += [
        PlanChange(what=name, before=old.get(name), after=new.get(name))
        for name in dict.fromkeys([*old, *new])
        if old.get(name) != new.get(name)
    ]
    old_parts, new_parts = ({p.name: p for p in plan.manifest.parts} for plan in (before, after))
    for name in sorted({*old_parts, *new_parts}):
        first, second = old_parts.get(name), new_parts.get(name)
        if first != second:
            changes.append(
                PlanChange(
                    what=f"part {name}",
                    before=first and f"{first.size:,} bytes, {first.sha256[:12]}",
                    after=second and f"{second.size:,} bytes, {second.sha256[:12]}",
                )
            )
    return changes + _parameters(before, after)


def _fields(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for name, item in value.items():
            if not path and name == "parts":
                continue
            yield from _fields(item, f"{path}.{name}" if path else name)
    else:
        yield path, value


def _parameters(before: Plan, after: Plan) -> list[PlanChange]:
    if not (before.manifest.has_parameters and after.manifest.has_parameters):
        return []
    old, new = before.initial_parameters(), after.initial_parameters()
    if old.shape != new.shape or np.array_equal(old, new):
        return []
    distance = float(np.linalg.norm(new.astype(np.float64) - old))
    return [
        PlanChange(
            what="initial parameters",
            before=f"norm {np.linalg.norm(old):.6g}",
            after=f"norm {np.linalg.norm(new):.6g}, {distance:.6g} apart",
        )
    ]
