"""Why an export was refused: always the operator, and a rewrite that works."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pocketfl.errors import PocketFLError


class ExportError(PocketFLError):
    """What was handed to the exporter cannot be used: wrong types, shapes or names."""


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """One reason why a model cannot be trained on a runtime.

    Attributes
    ----------
    operator : str
        The operator or module at fault, such as ``aten.cumsum.default`` or ``BatchNorm2d 'norm'``.
    rewrite : str
        How to write the model so that it passes.
    reason : str
        What went wrong.
    runtime : str or None
        The runtime concerned; ``None`` when no runtime could take it.
    """

    operator: str
    rewrite: str
    reason: str
    runtime: str | None = None

    def __str__(self) -> str:
        where = f" ({self.runtime})" if self.runtime else ""
        return f"{self.operator}{where}: {self.reason}. Rewrite: {self.rewrite}"


class ParityError(ExportError):
    """The gate refused a model: a device could not train it exactly as torch does.

    Attributes
    ----------
    refusals : tuple of Refusal
        Every reason found.
    """

    def __init__(self, refusals: Iterable[Refusal]) -> None:
        self.refusals = tuple(refusals)
        super().__init__("; ".join(map(str, self.refusals)))


class UnsupportedModelError(ParityError):
    """Something in the model has no exact counterpart on a device; found before anything was run."""

    def __init__(
        self, *, operator: str, rewrite: str, reason: str, runtime: str | None = None
    ) -> None:
        super().__init__(
            [Refusal(operator=operator, rewrite=rewrite, reason=reason, runtime=runtime)]
        )
