"""What a plan says of its model: the flat parameter vector, and what goes in and comes out."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Final, Literal

from pocketfl.checks import require
from pocketfl.plan.storage import Storage, byte_length, part_name

MAX_PARAMETERS: Final = 50_000_000
"""Most parameters of a model: 200 MB of float32, far beyond what a phone should train."""
MAX_BATCH: Final = 4096
Dtype = Literal["float32", "int64", "bool"]
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_.]{0,255}\Z")


def element_count(shape: tuple[int, ...]) -> int:
    """Return the number of elements of a tensor of this shape (1 for a scalar)."""
    return math.prod(shape)


def _check_shape(name: str, shape: tuple[int, ...]) -> None:
    require(len(shape) <= 8, f"{name} has {len(shape)} dimensions; 8 at most")
    require(all(0 < n <= MAX_PARAMETERS for n in shape), f"{name} has an impossible shape {shape}")
    require(element_count(shape) <= MAX_PARAMETERS, f"{name} with shape {shape} is too large")


@dataclass(frozen=True, kw_only=True)
class ParameterSpec:
    """One parameter tensor's place in the flat vector, in ``named_parameters()`` order.

    Attributes
    ----------
    name : str
        The name torch gives it, such as ``0.weight``.
    shape : tuple of int
        Its shape; ``()`` for a scalar.
    offset : int
        Index of its first element in the flat float32 vector.
    """

    name: str
    shape: tuple[int, ...]
    offset: int

    def __post_init__(self) -> None:
        require(0 < len(self.name) <= 256, "a parameter needs a name of 1 to 256 characters")
        _check_shape(f"parameter {self.name!r}", self.shape)


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """A tensor that goes in or out of the model, without its batch axis.

    Attributes
    ----------
    name : str
        For an input, the name of ``forward``'s parameter.
    dtype : {"float32", "int64", "bool"}
        Element type.
    shape : tuple of int
        Shape of one example; ``()`` when an example is one number.
    """

    name: str
    dtype: Dtype
    shape: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        require(bool(_IDENTIFIER.match(self.name)), f"{self.name!r} is not a tensor name")
        _check_shape(f"tensor {self.name!r}", self.shape)


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """The model's interface: its flat parameter vector and its batch.

    Attributes
    ----------
    parameters : tuple of ParameterSpec
        In order, without gaps.
    inputs : tuple of TensorSpec
        What ``forward`` takes.
    target : TensorSpec
        What the loss compares with; always named ``target``.
    outputs : tuple of TensorSpec
        What ``predict`` returns.
    batch_size : int
        Rows of every batch; a short one is padded with rows of weight 0.
    random_numbers : int or None
        Uniform numbers per row that a training step takes for its dropout; None for most models.
    storage : {"float16"} or None
        How parameters are kept and downloaded; None for float32. A runtime's vector is float32 always.
    """

    parameters: tuple[ParameterSpec, ...]
    inputs: tuple[TensorSpec, ...]
    target: TensorSpec
    outputs: tuple[TensorSpec, ...]
    batch_size: int
    random_numbers: int | None = None
    storage: Literal["float16"] | None = None

    def __post_init__(self) -> None:
        require(0 < len(self.parameters) <= 10_000, "a model needs 1 to 10,000 parameter tensors")
        end = 0
        for parameter in self.parameters:
            require(
                parameter.offset == end,
                f"parameter {parameter.name!r} starts at {parameter.offset}, not at {end}",
            )
            end += element_count(parameter.shape)
        require(end <= MAX_PARAMETERS, f"{end} parameters; {MAX_PARAMETERS} at most")
        names = [p.name for p in self.parameters]
        require(len(set(names)) == len(names), "two parameters have the same name")
        require(0 < len(self.inputs) <= 64, "a model needs 1 to 64 inputs")
        require(0 < len(self.outputs) <= 64, "a model needs 1 to 64 outputs")
        tensors = [t.name for t in self.inputs]
        require(len(set(tensors)) == len(tensors), "two inputs have the same name")
        require(
            not {"target", "weight", "random"} & set(tensors),
            "inputs cannot be named 'target', 'weight' or 'random': a batch uses these names itself",
        )
        require(self.target.name == "target", "the target tensor must be named 'target'")
        require(1 <= self.batch_size <= MAX_BATCH, f"batch_size must be 1 to {MAX_BATCH}")
        require(
            self.random_numbers is None
            or 1 <= self.random_numbers <= MAX_PARAMETERS // self.batch_size,
            f"random_numbers must be 1 to {MAX_PARAMETERS // self.batch_size}",
        )

    @property
    def parameter_count(self) -> int:
        """Length of the flat vector."""
        last = self.parameters[-1]
        return last.offset + element_count(last.shape)

    @property
    def stored_as(self) -> Storage:
        """How parameters are kept and downloaded."""
        return self.storage or "float32"

    @property
    def parameters_part(self) -> str:
        """Name of the part that holds the initial parameters, where a plan has them."""
        return part_name(self.stored_as)

    @property
    def parameter_bytes(self) -> int:
        """Bytes of the parameters, kept or downloaded."""
        return byte_length(self.parameter_count, self.stored_as)
