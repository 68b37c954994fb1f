"""Checkpoints: training that was killed goes on from the last one, and ends with the same bits.

A checkpoint belongs to one training exactly: same runtime, settings, seed, start and examples; its
fingerprint stands for them. If an example has been deleted meanwhile, it no longer fits and the
checkpoint, which has learnt from that example, is of no use any more.

The bytes are a magic line, the SHA-256 of the rest, the length of a JSON header in four little-endian
bytes, the header, the losses as float64, the parameters and what the optimizer remembers as float32;
little-endian throughout.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final

import numpy as np

from pocketfl.decoding import decode_json, encode_json
from pocketfl.errors import DecodeError
from pocketfl.plan.training import TrainingSpec
from pocketfl.runtimes.interface import FloatVector
from pocketfl.training.loop import Arrays, TrainingState

_MAGIC: Final = b"PFL checkpoint 1\n"
_BODY: Final = len(_MAGIC) + 32
_HEADER_LIMIT: Final = 64 * 2**10


@dataclass(frozen=True, kw_only=True)
class CheckpointPolicy:
    """How often training is written down: what a kill may cost, against the wear of flash memory.

    Attributes
    ----------
    every_seconds : float
        Least time between two checkpoints; a shorter training writes none.
    bytes_per_second : float
        Most that checkpoints write on average: those of a large model are further apart.
    """

    every_seconds: float = 1.0
    bytes_per_second: float = 1e6

    def __post_init__(self) -> None:
        if self.every_seconds < 0 or not self.bytes_per_second > 0:
            raise ValueError("every_seconds cannot be negative; bytes_per_second is above 0")

    def wait(self, size: int) -> float:
        """Return the seconds between two checkpoints of so many bytes."""
        return max(self.every_seconds, size / self.bytes_per_second)


@dataclass(frozen=True, kw_only=True)
class _Header:
    fingerprint: str
    steps: int
    step_seconds: float
    parameters: int
    optimizer: int = 0
    spent: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.steps < 0 or self.parameters < 0 or self.optimizer < 0:
            raise ValueError("counts cannot be negative")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Training between two batches, as it is written down.

    Attributes
    ----------
    fingerprint : str
        What it belongs to; see :func:`fingerprint`.
    state : TrainingState
        Where training stands.
    parameters : ndarray of float32, shape (P,)
        The parameters there; finite.
    optimizer : ndarray of float32
        What the optimizer remembers there; finite, empty for plain SGD.
    spent : dict of str to float
        What the session has used of its budgets so far, by the names of whoever counts.
    """

    fingerprint: str
    state: TrainingState
    parameters: FloatVector
    optimizer: FloatVector = field(default_factory=lambda: np.zeros(0, np.float32))
    spent: dict[str, float] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """Encode it; see the module's text."""
        header = encode_json(
            _Header(
                fingerprint=self.fingerprint,
                steps=self.state.steps,
                step_seconds=self.state.step_seconds,
                parameters=self.parameters.size,
                optimizer=self.optimizer.size,
                spent=self.spent,
            )
        )
        body = b"".join(
            (
                len(header).to_bytes(4, "little"),
                header,
                np.array(self.state.losses, dtype="<f8").tobytes(),
                self.parameters.astype("<f4", copy=False).tobytes(),
                self.optimizer.astype("<f4", copy=False).tobytes(),
            )
        )
        return _MAGIC + sha256(body).digest() + body

    @classmethod
    def from_bytes(cls, data: bytes) -> Checkpoint:
        """Decode what :meth:`to_bytes` made.

        Raises
        ------
        DecodeError
            If it is damaged.
        """
        body = data[_BODY:]
        if not data.startswith(_MAGIC) or sha256(body).digest() != data[len(_MAGIC) : _BODY]:
            raise DecodeError("checkpoint: damaged")
        end = 4 + int.from_bytes(body[:4], "little")
        header = decode_json(_Header, body[4:end], what="checkpoint", limit=_HEADER_LIMIT)
        floats = header.parameters + header.optimizer
        if len(body) != end + 8 * header.steps + 4 * floats:
            raise DecodeError("checkpoint: its length is not what its header says")
        losses = np.frombuffer(body, "<f8", header.steps, end)
        vector = np.frombuffer(body, "<f4", floats, end + 8 * header.steps)
        if not np.isfinite(vector).all():
            raise DecodeError("checkpoint: a parameter or the optimizer's state is not finite")
        return cls(
            fingerprint=header.fingerprint,
            state=TrainingState(losses=tuple(losses.tolist()), step_seconds=header.step_seconds),
            parameters=vector[: header.parameters].astype(np.float32),
            optimizer=vector[header.parameters :].astype(np.float32),
            spent=header.spent,
        )


def fingerprint(
    arrays: Arrays,
    spec: TrainingSpec,
    *,
    batch_size: int,
    seed: int,
    runtime: str,
    start: FloatVector,
) -> str:
    """Return what decides the outcome of a training, as one SHA-256 in hex.

    Parameters
    ----------
    arrays : mapping of str to ndarray
        What is trained on.
    spec : TrainingSpec
        Its settings.
    batch_size, seed
        As for :func:`~pocketfl.training.train_locally`.
    runtime : str
        Name of the runtime: another one rounds otherwise.
    start : ndarray of float32, shape (P,)
        Parameters that training starts from.
    """
    digest = sha256(b"PFL training 1\n")
    parts = [runtime.encode(), encode_json(spec), str(batch_size).encode(), str(seed).encode()]
    parts.append(start.astype("<f4", copy=False).tobytes())
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        parts.append(f"{name} {array.dtype.str} {array.shape}".encode())
        parts.append(array.tobytes())
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()


class Checkpointer:
    """Writes a checkpoint now and then; its :meth:`after_batch` goes into the training loop.

    Parameters
    ----------
    keep : callable
        Writes a checkpoint instead of the one before; raises what ends the training.
    fingerprint : callable
        Returns :func:`fingerprint`; called once, with the first checkpoint.
    parameters, optimizer : callable
        Return the current parameters and what the optimizer remembers.
    spent : callable
        Returns what the session has used of its budgets so far.
    policy : CheckpointPolicy
        How often.
    clock : callable, optional
        Seconds that only grow.
    """

    def __init__(
        self,
        keep: Callable[[Checkpoint], None],
        *,
        fingerprint: Callable[[], str],
        parameters: Callable[[], FloatVector],
        optimizer: Callable[[], FloatVector],
        spent: Callable[[], Mapping[str, float]],
        policy: CheckpointPolicy,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._keep = keep
        self._make_fingerprint = fingerprint
        self._fingerprint: str | None = None
        self._parameters = parameters
        self._optimizer = optimizer
        self._spent = spent
        self._policy = policy
        self._clock = clock
        self._due = clock() + policy.every_seconds
        self._kept_steps = -1

    def after_batch(self, state: Callable[[], TrainingState]) -> None:
        """Write a checkpoint if it is time for one."""
        if self._clock() >= self._due:
            self.save(state())

    def save(self, state: TrainingState) -> None:
        """Write a checkpoint now, unless this very state is written or could not be gone on from."""
        if state.steps == self._kept_steps:
            return
        parameters, optimizer = self._parameters(), self._optimizer()
        # Training that diverged is known only at its end; until then it can be repeated from earlier.
        usable = math.isfinite(state.step_seconds) and all(
            bool(np.isfinite(vector).all()) for vector in (parameters, optimizer)
        )
        size = 4 * (parameters.size + optimizer.size) + 8 * state.steps
        if usable:
            if self._fingerprint is None:
                self._fingerprint = self._make_fingerprint()
            self._keep(
                Checkpoint(
                    fingerprint=self._fingerprint,
                    state=state,
                    parameters=parameters,
                    optimizer=optimizer,
                    spent=dict(self._spent()),
                )
            )
            self._kept_steps = state.steps
        self._due = self._clock() + self._policy.wait(size)
