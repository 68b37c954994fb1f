"""The card of a plan: what its model is for, and what its graphs were counted to cost at export.

A part of its own, signed like every other, so that a device reads it only when a person asks.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from pocketfl.checks import require
from pocketfl.decoding import decode, encode_json, parse_json
from pocketfl.plan.archive import Plan

CARD_PART: Final = "card.json"
CARD_LIMIT: Final = 256 * 2**10
"""Largest card in bytes."""
_LONGEST: Final = 10_000
_MOST: Final = 1000


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """What the modeller says about a model; after "Model Cards for Model Reporting" (arXiv 1810.03993).

    Attributes
    ----------
    predicts : str
        What comes out and what it is for.
    data : str
        What the model learnt from and what it reads on a device.
    metrics : dict of str to float
        How well it did, such as ``{"AUC, held-out devices": 0.77}``.
    limits : str
        Where it must not be relied on.
    licence : str
        Such as ``Apache-2.0``.
    """

    predicts: str
    data: str = ""
    metrics: dict[str, float] = field(default_factory=dict)
    limits: str = ""
    licence: str = ""

    def __post_init__(self) -> None:
        require(bool(self.predicts.strip()), "a model card has to say what the model predicts")
        texts = (self.predicts, self.data, self.limits, self.licence, *self.metrics)
        require(
            all(len(text) <= _LONGEST for text in texts),
            f"a text of a model card has {_LONGEST:,} characters at most",
        )
        require(len(self.metrics) <= _MOST, f"a model card has {_MOST:,} metrics at most")


@dataclass(frozen=True, kw_only=True)
class BatchCost:
    """What one call of a graph costs with so many rows.

    Attributes
    ----------
    batch_size : int
        Rows.
    flops : int
        Floating-point operations; a multiplication and an addition count as two.
    memory_bytes : int
        Most bytes of tensors that are alive at once, parameters included; the runtime's own memory
        comes on top.
    """

    batch_size: int
    flops: int
    memory_bytes: int

    def __post_init__(self) -> None:
        require(self.batch_size >= 1, "batch_size must be at least 1")
        require(self.flops >= 0 and self.memory_bytes >= 0, "a cost must be at least 0")


@dataclass(frozen=True, kw_only=True)
class PlanCard:
    """The modeller's text and what the exporter found out.

    Attributes
    ----------
    text : ModelCard or None
        Of the modeller.
    costs : dict of str to tuple of BatchCost
        By graph: ``train``, ``evaluate``, ``predict``. The line of the plan's own batch size is
        counted, the others are estimates from two sizes.
    operators : dict of str to dict of str to int
        How often each operator of the runtime stands in a part, by the part's name.
    differences : dict of str to float
        By runtime: largest difference of a parameter from eager torch after a step, at export.
    rounding : float or None
        Largest difference of an initial parameter from the modeller's, where float16 is stored.
    """

    text: ModelCard | None = None
    costs: dict[str, tuple[BatchCost, ...]] = field(default_factory=dict)
    operators: dict[str, dict[str, int]] = field(default_factory=dict)
    differences: dict[str, float] = field(default_factory=dict)
    rounding: float | None = None

    def to_json(self) -> bytes:
        """Return the bytes of the part."""
        return encode_json(self)


def read_card(plan: Plan) -> PlanCard | None:
    """Return a plan's card, or None where it has none.

    Raises
    ------
    DecodeError
        If it says something that this version does not know.
    PlanError
        If it is not what was signed.
    """
    if all(part.name != CARD_PART for part in plan.manifest.parts):
        return None
    return decode(
        PlanCard,
        parse_json(plan.part(CARD_PART), what="model card", limit=CARD_LIMIT),
        what="model card",
    )
