"""From a torch model to a signed plan that phones can train.

:func:`export_plan` writes a plan, :func:`check_model` tells whether it could.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pocketfl_export.errors import ExportError as ExportError
    from pocketfl_export.errors import ParityError as ParityError
    from pocketfl_export.errors import Refusal as Refusal
    from pocketfl_export.gate import check_model as check_model
    from pocketfl_export.parity import ParityReport as ParityReport
    from pocketfl_export.parity import ParitySettings as ParitySettings
    from pocketfl_export.plans import export_plan as export_plan

_HOMES = {
    "ExportError": "pocketfl_export.errors",
    "ParityError": "pocketfl_export.errors",
    "ParityReport": "pocketfl_export.parity",
    "ParitySettings": "pocketfl_export.parity",
    "Refusal": "pocketfl_export.errors",
    "check_model": "pocketfl_export.gate",
    "export_plan": "pocketfl_export.plans",
}

__all__ = sorted(_HOMES)  # noqa: PLE0605 - names come from the table above


def __getattr__(name: str) -> object:
    # Imported when first used: torch takes seconds to load.
    if name not in _HOMES:
        raise AttributeError(f"module 'pocketfl_export' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
