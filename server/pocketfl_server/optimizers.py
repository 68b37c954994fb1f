"""Server optimizers: how the mean update of a round moves the global model.

The mean update is the step that devices would have taken on average, so its negative stands in for a
gradient (Reddi et al. 2021, "Adaptive Federated Optimization", algorithm 1). Arithmetic is in float64,
what is kept is float32.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from pocketfl.decoding import decode_json, encode_json
from pocketfl.errors import DecodeError
from pocketfl.plan.storage import Storage, as_stored
from pocketfl.runtimes.interface import FloatVector

_MAGIC: Final = b"PFO1"
_HEADER_LIMIT: Final = 4096
_MAX_STEP: Final = 10**9


@dataclass(frozen=True, kw_only=True)
class OptimizerSpec:
    """Which optimizer a task uses, and its settings.

    Attributes
    ----------
    kind : {"sgd", "adam"}
        SGD with momentum, or Adam.
    learning_rate : float
        Of the server; 1 with ``sgd`` and momentum 0 is plain federated averaging.
    momentum : float
        For ``sgd``: heavy-ball momentum as in torch, without dampening.
    beta1, beta2 : float
        For ``adam``: decay of the first and second moment.
    epsilon : float
        For ``adam``: degree of adaptivity, added to the root of the second moment (tau in the paper).
    bias_correction : bool
        For ``adam``: False is FedAdam as in Reddi et al. (2021, algorithm 2), whose second moment
        starts at ``epsilon ** 2``; True is Adam as in Kingma and Ba (2015, algorithm 1), which starts
        at 0 and corrects for it.
    """

    kind: Literal["sgd", "adam"] = "adam"
    learning_rate: float
    momentum: float = 0.9
    beta1: float = 0.9
    beta2: float = 0.99
    epsilon: float = 1e-3
    bias_correction: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.learning_rate <= 1000:
            raise ValueError("learning_rate must be above 0 and at most 1000")
        for name in ("momentum", "beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 0 and below 1")
        if not 1e-12 <= self.epsilon <= 1:
            raise ValueError("epsilon must be 1e-12 to 1")

    def to_json(self) -> str:
        """Return the canonical JSON; :meth:`from_json` reads it."""
        return encode_json(self).decode()

    @classmethod
    def from_json(cls, text: str) -> OptimizerSpec:
        """Read what :meth:`to_json` wrote."""
        return decode_json(cls, text.encode(), what="optimizer", limit=_HEADER_LIMIT)


@dataclass(frozen=True, kw_only=True, eq=False)
class OptimizerState:
    """What an optimizer remembers from one round to the next.

    Attributes
    ----------
    step : int
        Number of updates so far.
    moments : dict of str to ndarray of float32, shape (P,)
        ``velocity`` for SGD; ``first`` and ``second`` for Adam; empty before the first update. Where
        the model is stored in fewer bits, ``remainder`` too: what the last rounding left out.
    """

    step: int = 0
    moments: dict[str, FloatVector] = field(default_factory=dict)


def apply_update(
    spec: OptimizerSpec,
    parameters: FloatVector,
    state: OptimizerState,
    update: NDArray[np.float64],
    *,
    storage: Storage = "float32",
) -> tuple[FloatVector, OptimizerState]:
    """Move the model by one round's mean update.

    A model that is stored as float16 is moved in float32: what its rounding leaves out is remembered,
    for many small updates would each be rounded away (as a "master copy" of the weights, Micikevicius
    et al. 2018, "Mixed precision training", section 3.1).

    Parameters
    ----------
    spec : OptimizerSpec
        Which optimizer.
    parameters : ndarray of float32, shape (P,)
        The model as it is.
    state : OptimizerState
        What the previous call returned, or a fresh one.
    update : ndarray of float64, shape (P,)
        Mean change of the parameters, in the model's own units.
    storage : {"float32", "float16"}
        How the plan stores parameters.

    Returns
    -------
    parameters : ndarray of float32, shape (P,)
        The new model; whether it is finite is for the caller to check.
    state : OptimizerState
        To be given to the next call.

    Raises
    ------
    ValueError
        If lengths differ.
    """
    shapes = {"the update": update.shape}
    shapes |= {name: moment.shape for name, moment in state.moments.items()}
    for name, shape in shapes.items():
        if shape != parameters.shape:
            raise ValueError(f"{name} has shape {shape}, the parameters have {parameters.shape}")
    # An overflow becomes an infinity, which the caller finds; it is no reason for a warning.
    with np.errstate(over="ignore", invalid="ignore"):
        move = _sgd if spec.kind == "sgd" else _adam
        change, moments = move(spec, state, update)
        before = parameters.astype(np.float64) + state.moments.get("remainder", 0.0)
        moved = (before + change).astype(np.float32)
        stored = as_stored(moved, storage)
        kept = {name: moment.astype(np.float32) for name, moment in moments.items()}
        if storage != "float32":
            kept["remainder"] = moved - stored
    return stored, OptimizerState(step=state.step + 1, moments=kept)


def _sgd(
    spec: OptimizerSpec, state: OptimizerState, update: NDArray[np.float64]
) -> tuple[NDArray[np.float64], dict[str, NDArray[np.float64]]]:
    velocity = update
    if "velocity" in state.moments:
        velocity = spec.momentum * state.moments["velocity"].astype(np.float64) + update
    return spec.learning_rate * velocity, {"velocity": velocity}


def _adam(
    spec: OptimizerSpec, state: OptimizerState, update: NDArray[np.float64]
) -> tuple[NDArray[np.float64], dict[str, NDArray[np.float64]]]:
    if "first" in state.moments:
        first = state.moments["first"].astype(np.float64)
        second = state.moments["second"].astype(np.float64)
    else:
        first = np.zeros_like(update)
        second = np.full_like(update, 0.0 if spec.bias_correction else spec.epsilon**2)
    first = spec.beta1 * first + (1 - spec.beta1) * update
    second = spec.beta2 * second + (1 - spec.beta2) * np.square(update)
    moments = {"first": first, "second": second}
    if not spec.bias_correction:
        return spec.learning_rate * first / (np.sqrt(second) + spec.epsilon), moments
    step = state.step + 1
    corrected = first / (1 - spec.beta1**step)
    spread = np.sqrt(second / (1 - spec.beta2**step))
    return spec.learning_rate * corrected / (spread + spec.epsilon), moments


@dataclass(frozen=True, kw_only=True)
class _StateHeader:
    step: int
    length: int
    moments: tuple[Literal["velocity", "first", "second", "remainder"], ...]

    def __post_init__(self) -> None:
        if not 0 <= self.step <= _MAX_STEP or self.length < 0:
            raise ValueError("step or length is out of bounds")
        if list(self.moments) != sorted(set(self.moments)):
            raise ValueError("moments are not unique and in order")


def encode_state(state: OptimizerState) -> bytes:
    """Return a state's bytes: magic, length of the header, JSON header, little-endian float32."""
    names = sorted(state.moments)
    lengths = {len(state.moments[name]) for name in names}
    if len(lengths) > 1:
        raise ValueError(f"the moments have different lengths: {sorted(lengths)}")
    header = json.dumps(
        {"step": state.step, "length": max(lengths, default=0), "moments": names},
        separators=(",", ":"),
    ).encode()
    vectors = (state.moments[name].astype("<f4", copy=False).tobytes() for name in names)
    return b"".join([_MAGIC, struct.pack("<I", len(header)), header, *vectors])


def decode_state(data: bytes, *, length: int) -> OptimizerState:
    """Read what :func:`encode_state` made.

    Parameters
    ----------
    data : bytes
        The encoded state.
    length : int
        Number of parameters of the model.

    Raises
    ------
    DecodeError
        If it is truncated, has bytes left over, or is of another model.
    """
    if len(data) < 8 or data[:4] != _MAGIC:
        raise DecodeError("optimizer state: unknown format")
    (size,) = struct.unpack_from("<I", data, 4)
    if size > _HEADER_LIMIT or len(data) < 8 + size:
        raise DecodeError("optimizer state: truncated")
    header = decode_json(
        _StateHeader, data[8 : 8 + size], what="optimizer state", limit=_HEADER_LIMIT
    )
    count = len(header.moments)
    if header.length != (length if count else 0):
        raise DecodeError(f"optimizer state: of {header.length} parameters, not {length}")
    if len(data) != 8 + size + 4 * count * header.length:
        raise DecodeError(f"optimizer state: {len(data)} bytes is not what its header says")
    flat = np.frombuffer(data, dtype="<f4", offset=8 + size).astype(np.float32)
    moments: dict[str, FloatVector] = {
        name: flat[i * header.length : (i + 1) * header.length].copy()
        for i, name in enumerate(header.moments)
    }
    return OptimizerState(step=header.step, moments=moments)
