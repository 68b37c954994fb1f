"""Which versions of the plan's format this package writes and reads: the one place that says so.

A version is never changed once plans of it may be in the field. What is added since is ``None`` in the
records of an older version, so that the manifest of an older plan keeps its bytes, and with them its
identity and its policy. One plan of every version stays in ``tests/golden`` and must load and train.
"""

from __future__ import annotations

from typing import Any, Final

from pocketfl.errors import PlanUnsupportedError

SCHEMA_VERSION: Final = 2
"""Version of the format that plans are written in."""
READABLE_SCHEMAS: Final = (1, 2)
"""Versions that are read: this one and the one before."""


def check_schema(manifest: Any) -> None:
    """Refuse a parsed manifest of a version that is not read, before anything else in it is judged.

    A plan from the future has fields that this version does not know; "unknown field" would be a poor
    reason for what an update of the app cures.

    Raises
    ------
    PlanUnsupportedError
        Saying which versions are read and what to do.
    """
    version = manifest.get("schema") if isinstance(manifest, dict) else None
    if not isinstance(version, int) or isinstance(version, bool) or version in READABLE_SCHEMAS:
        return  # Other mistakes are for the decoder, which names them.
    readable = f"plan schema {version}; this pocketfl reads schemas " + ", ".join(
        map(str, READABLE_SCHEMAS)
    )
    if version > SCHEMA_VERSION:
        raise PlanUnsupportedError(
            f"{readable}: update the app's pocketfl, or export with an older"
        )
    raise PlanUnsupportedError(f"{readable}: export the plan again with a newer pocketfl")
