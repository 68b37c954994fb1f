"""How a plan balances the classes of its label, as data.

Balancing changes how often the model sees a class, not what the class looks like; so the odds that a
balanced model states are off by a known factor, and :mod:`pocketfl.balancing.correction` takes it out
again (Elkan 2001, The Foundations of Cost-Sensitive Learning, theorem 2).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from pocketfl.checks import require

Method: TypeAlias = Literal["keep", "weight"]
OutputScale: TypeAlias = Literal["logit", "probability"]

MAX_CLASSES: Final = 1000
MAX_WEIGHT: Final = 1000.0
SMALLEST_KEEP_RATE: Final = 1e-3


@dataclass(frozen=True, kw_only=True)
class Balancing:
    """What each class counts in training, and which output of the model that shifts.

    Attributes
    ----------
    method : {"keep", "weight"}
        ``keep``: an example of class ``c`` is used with probability ``factors[c]``, by the device's own
        seed. ``weight``: its loss is multiplied by ``factors[c]``.
    class_shares : tuple of float
        Share of each class in the fleet, as a private count found it; they sum to 1.
    factors : tuple of float
        One per class, in the order of the target's values.
    output : str
        Output of the model that is corrected at inference.
    scale : {"logit", "probability"}
        What that output holds. One number per example is about class 1 of two; otherwise there is one
        number per class along the last axis.
    """

    method: Method
    class_shares: tuple[float, ...]
    factors: tuple[float, ...]
    output: str = "output"
    scale: OutputScale = "logit"

    def __post_init__(self) -> None:
        classes = len(self.class_shares)
        require(2 <= classes <= MAX_CLASSES, f"balancing is among 2 to {MAX_CLASSES} classes")
        require(
            len(self.factors) == classes, f"{classes} class shares, but {len(self.factors)} factors"
        )
        require(
            all(0 <= share <= 1 for share in self.class_shares)
            and math.isclose(sum(self.class_shares), 1.0, abs_tol=1e-6),
            "class shares lie between 0 and 1 and sum to 1",
        )
        if self.method == "keep":
            require(
                all(SMALLEST_KEEP_RATE <= factor <= 1 for factor in self.factors),
                f"keep rates must be {SMALLEST_KEEP_RATE:g} to 1",
            )
        else:
            require(
                all(1 / MAX_WEIGHT <= factor <= MAX_WEIGHT for factor in self.factors),
                f"loss weights must be {1 / MAX_WEIGHT:g} to {MAX_WEIGHT:g}",
            )
        require(0 < len(self.output) <= 256, "balancing needs the name of the model's output")

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.factors)

    @property
    def kept_share(self) -> float:
        """Share of the fleet's examples that are used."""
        if self.method == "weight":
            return 1.0
        return math.fsum(
            share * rate for share, rate in zip(self.class_shares, self.factors, strict=True)
        )


def balance_classes(
    class_shares: Sequence[float],
    *,
    method: Method,
    strength: float = 1.0,
    output: str = "output",
    scale: OutputScale = "logit",
) -> Balancing:
    """Make a policy from the shares that a private count found.

    Parameters
    ----------
    class_shares : sequence of float
        One per class; noise may have made some zero or negative, and the sum may be off. A class is
        taken to have at least a thousandth of the whole.
    method : {"keep", "weight"}
        Keep fewer examples of common classes, or weigh rare ones more.
    strength : float
        0 changes nothing, 1 makes all classes equally frequent, 0.5 goes half the way (in logarithms).
    output, scale : str
        See :class:`Balancing`.

    Returns
    -------
    Balancing
        Factors in proportion to ``share ** -strength``. Keep rates are scaled so that the rarest class
        is kept whole; loss weights so that their mean over the fleet is 1, which leaves the learning
        rate's meaning as it was.

    Raises
    ------
    ValueError
        If there are no two classes, or the strength is not between 0 and 1.
    """
    require(0 <= strength <= 1, f"strength must be 0 to 1, not {strength}")
    require(len(class_shares) >= 2, "balancing needs two classes at least")
    require(
        all(map(math.isfinite, class_shares)) and sum(class_shares) > 0,
        "the class shares are unknown: count the classes again with more devices or less noise",
    )
    total = sum(class_shares)
    floored = [max(share / total, SMALLEST_KEEP_RATE) for share in class_shares]
    shares = [share / sum(floored) for share in floored]
    raw = [share**-strength for share in shares]
    if method == "keep":
        factors = [max(factor / max(raw), SMALLEST_KEEP_RATE) for factor in raw]
    else:
        mean = sum(share * factor for share, factor in zip(shares, raw, strict=True))
        factors = [factor / mean for factor in raw]
    return Balancing(
        method=method,
        class_shares=tuple(shares),
        factors=tuple(factors),
        output=output,
        scale=scale,
    )
