"""Training on the device: the loop over batches, its checkpoints, and personalisation.

What personalises is imported when it is first used: a federated round does without it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from pocketfl.training.checkpoints import Checkpoint, Checkpointer, CheckpointPolicy, fingerprint
from pocketfl.training.loop import LocalResult, TrainingState, train_locally

if TYPE_CHECKING:
    from pocketfl.training.acceptance import AcceptGate, Verdict
    from pocketfl.training.personal import LocalEvaluation, LocalTrainer, TrainingResult

_HOMES = {
    "AcceptGate": "pocketfl.training.acceptance",
    "LocalEvaluation": "pocketfl.training.personal",
    "LocalTrainer": "pocketfl.training.personal",
    "TrainingResult": "pocketfl.training.personal",
    "Verdict": "pocketfl.training.acceptance",
}

__all__ = [
    "AcceptGate",
    "Checkpoint",
    "CheckpointPolicy",
    "Checkpointer",
    "LocalEvaluation",
    "LocalResult",
    "LocalTrainer",
    "TrainingResult",
    "TrainingState",
    "Verdict",
    "fingerprint",
    "train_locally",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'pocketfl.training' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
