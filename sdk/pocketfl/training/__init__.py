"""Training on the device: the loop over batches, its checkpoints, and personalisation."""

from pocketfl.training.acceptance import AcceptGate, Verdict
from pocketfl.training.checkpoints import Checkpoint, Checkpointer, CheckpointPolicy, fingerprint
from pocketfl.training.loop import LocalResult, TrainingState, train_locally
from pocketfl.training.personal import LocalEvaluation, LocalTrainer, TrainingResult

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
