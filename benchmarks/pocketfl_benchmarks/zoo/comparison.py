"""What changed between two runs of ``pocketfl bench zoo --json``."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from pocketfl.errors import PocketFLError

COMPARED: Final = (
    "ratio",
    "ms",
    "p95_ms",
    "peak_rss_mb",
    "session_ms",
    "step_bytes",
    "inference_bytes",
    "inference_int8_bytes",
    "int8_agreement",
    "joules",
)
"""The keys that are a contract, the ratio to torch first: it is the one that another machine shares."""
HIGHER_IS_BETTER: Final = frozenset({"int8_agreement"})
_LARGEST_FILE: Final = 64 * 2**20


class ComparisonError(PocketFLError):
    """A file is not one of ``pocketfl bench zoo --json``."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """One figure, before and after.

    Attributes
    ----------
    model, runtime, figure : str
        Which.
    before, after : float or None
        None where it was not measured, or the runtime refused the model.
    factor : float or None
        After over before; None where that says nothing.
    """

    model: str
    runtime: str
    figure: str
    before: float | None
    after: float | None
    factor: float | None

    @property
    def is_better(self) -> bool | None:
        """Whether the change is for the better; None if nothing changed or nobody knows."""
        if self.before is None or self.after is None or self.before == self.after:
            return None
        return (self.after > self.before) == (self.figure in HIGHER_IS_BETTER)

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return asdict(self)


def read_figures(path: Path) -> dict[str, Any]:
    """Read a file of figures.

    Raises
    ------
    ComparisonError
        Naming the file and what is wrong with it.
    """
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise ComparisonError(f"{path} is larger than any file of figures")
        figures = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ComparisonError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise ComparisonError(f"{path} is not JSON: {error}") from None
    models = figures.get("models") if isinstance(figures, dict) else None
    if not isinstance(models, dict) or not all(isinstance(m, dict) for m in models.values()):
        raise ComparisonError(f"{path} has no figures of models: write it with 'bench zoo --json'")
    return dict(figures)


def compare_figures(before: dict[str, Any], after: dict[str, Any]) -> list[Change]:
    """Return every contract figure of every model and runtime that one of the two has."""
    changes = []
    for model in dict.fromkeys([*before["models"], *after["models"]]):
        old, new = before["models"].get(model, {}), after["models"].get(model, {})
        runtimes = [name for name in dict.fromkeys([*old, *new]) if _is_runtime(old, new, name)]
        for runtime in runtimes:
            for figure in COMPARED:
                first = _number(old.get(runtime), figure)
                second = _number(new.get(runtime), figure)
                changes.append(
                    Change(
                        model=model,
                        runtime=runtime,
                        figure=figure,
                        before=first,
                        after=second,
                        factor=second / first if first and second is not None else None,
                    )
                )
    return changes


def _is_runtime(old: dict[str, Any], new: dict[str, Any], name: str) -> bool:
    return isinstance(old.get(name, new.get(name)), dict)


def _number(figures: Any, name: str) -> float | None:
    value = figures.get(name) if isinstance(figures, dict) else None
    return float(value) if isinstance(value, (int, float)) else None
