"""A copy of a model in which everything that has a rewrite is rewritten."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from pocketfl_export.rewrites.normalization import (
    freeze_batch_norm,
    group_norm_for,
    instance_norm_without_statistics,
)

BatchNormRewrite = Literal["group_norm", "freeze"]


@dataclass(frozen=True, kw_only=True)
class Change:
    """One module that was rewritten.

    Attributes
    ----------
    module : str
        Its name in the model, such as ``features.1``; the empty string is the model itself.
    before, after : str
        What it was and what it is, as torch prints them.
    reason : str
        Why, in one sentence.
    """

    module: str
    before: str
    after: str
    reason: str

    def __str__(self) -> str:
        return f"{self.module or 'the model'}: {self.before} -> {self.after} ({self.reason})"


@dataclass(frozen=True)
class Fixed:
    """A rewritten model.

    Attributes
    ----------
    model : torch.nn.Module
        A copy; the modeller's own is unchanged.
    changes : tuple of Change
        What differs; empty if nothing had to.
    """

    model: nn.Module
    changes: tuple[Change, ...]


def fix(model: nn.Module, *, batch_norm: BatchNormRewrite = "group_norm") -> Fixed:
    """Apply the stated rewrites to a copy of a model.

    Parameters
    ----------
    model : torch.nn.Module
        In the mode in which it is to be trained; modules in eval mode are left alone.
    batch_norm : {"group_norm", "freeze"}
        Whether batch normalisation is replaced by :func:`group_norm_for` or keeps its stored statistics
        by :func:`freeze_batch_norm`. A trained model loses nothing by the second.

    Returns
    -------
    Fixed
        The model and what was changed. Whether devices can train it, the gate says
        (:func:`pocketfl_export.check_model`).
    """
    if batch_norm not in ("group_norm", "freeze"):
        raise ValueError(f"batch_norm is {batch_norm!r}; choose 'group_norm' or 'freeze'")
    changes: list[Change] = []
    fixed = copy.deepcopy(model)
    replaced: dict[int, nn.Module] = {}
    for name, module in list(fixed.named_modules(remove_duplicate=False)):
        rewrite = _rewrite(module, batch_norm)
        if rewrite is None:
            continue
        function, reason = rewrite
        known = id(module) in replaced
        if not known:
            before = str(module)
            replaced[id(module)] = function(module)
            after = str(replaced[id(module)])
            if not replaced[id(module)].training:
                after += " in eval mode"
            changes.append(Change(module=name, before=before, after=after, reason=reason))
        if name == "":
            fixed = replaced[id(module)]
        else:
            parent, _, child = name.rpartition(".")
            setattr(fixed.get_submodule(parent), child, replaced[id(module)])
    return Fixed(fixed, tuple(changes))


def _rewrite(
    module: nn.Module, batch_norm: BatchNormRewrite
) -> tuple[Callable[[Any], nn.Module], str] | None:
    if not module.training:
        return None
    if isinstance(module, _BatchNorm):
        has_statistics = module.running_mean is not None
        freezes = batch_norm == "freeze" and has_statistics
        return (
            freeze_batch_norm if freezes else group_norm_for,
            "statistics of a batch mix its examples and its padding",
        )
    if isinstance(module, _InstanceNorm) and module.track_running_stats:
        return (
            instance_norm_without_statistics,
            "running statistics are state outside the parameters",
        )
    return None
