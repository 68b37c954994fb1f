"""What to write instead of what a device cannot run: as advice, and as changes made to a model.

:func:`fix` applies every rewrite that keeps a model trainable, as Opacus' module validator does for
DP-SGD; :func:`rewrite_for` is the sentence that a refusal ends with.
"""

from pocketfl_export.rewrites.advice import GENERAL_REWRITE, rewrite_for
from pocketfl_export.rewrites.fixing import Change, Fixed, fix
from pocketfl_export.rewrites.losses import class_weighted_cross_entropy, ignoring_cross_entropy
from pocketfl_export.rewrites.normalization import (
    freeze_batch_norm,
    group_norm_for,
    instance_norm_without_statistics,
)

__all__ = [
    "GENERAL_REWRITE",
    "Change",
    "Fixed",
    "class_weighted_cross_entropy",
    "fix",
    "freeze_batch_norm",
    "group_norm_for",
    "ignoring_cross_entropy",
    "instance_norm_without_statistics",
    "rewrite_for",
]
