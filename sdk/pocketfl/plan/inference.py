"""Ways to predict with a plan, and what each was measured to cost when the plan was exported."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal

Precision = Literal["float32", "int8_static", "int8_dynamic"]
PRECISIONS: Final[tuple[Precision, ...]] = ("float32", "int8_static", "int8_dynamic")


@dataclass(frozen=True, kw_only=True)
class InferenceSpec:
    """One way to predict: a line of the table that a runtime chooses from.

    Attributes
    ----------
    precision : {"float32", "int8_static", "int8_dynamic"}
        Of weights and, where the runtime has kernels for it, of the arithmetic. ``static`` has ranges
        of activations from calibration batches, ``dynamic`` finds them at each call.
    part : str
        Name of the part. That of ``float32`` is the runtime's ``predict``, which takes any parameters;
        the others hold the plan's initial parameters and are used only while those are current.
    size : int
        Bytes to predict with: the part, and for ``float32`` the parameters too.
    agreement : float
        Share of rows, 0 to 1, for which all outputs decide as eager torch does.
    error : float
        Largest difference of an output from eager torch's, divided by that output's largest value.
    milliseconds : float
        Of one batch on one thread of the exporting machine; compare it within the table only.
    """

    precision: Precision
    part: str
    size: int
    agreement: float
    error: float
    milliseconds: float

    def __post_init__(self) -> None:
        if self.size <= 0:
            raise ValueError(f"{self.part}: a size of {self.size} bytes is out of bounds")
        if not 0.0 <= self.agreement <= 1.0:
            raise ValueError(f"{self.part}: agreement is {self.agreement}, not 0 to 1")
        for name in ("error", "milliseconds"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{self.part}: {name} is {value}; it must be at least 0")
