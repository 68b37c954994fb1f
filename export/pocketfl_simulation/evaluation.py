"""How good a model is on devices that take no part."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pocketfl.runtimes.batches import TARGET
from pocketfl.runtimes.interface import FloatVector
from pocketfl_export.problem import TrainingProblem
from pocketfl_export.steps import evaluation
from pocketfl_simulation.data import Arrays

_ROWS = 4096


@dataclass(frozen=True, kw_only=True)
class Quality:
    """What a model is worth.

    Attributes
    ----------
    loss : float
        Mean over the examples, without weights.
    auc : float or None
        Of a model with one logit and targets 0 and 1.
    accuracy : float or None
        Of a model with a logit for each class.
    """

    loss: float
    auc: float | None = None
    accuracy: float | None = None

    @property
    def headline(self) -> float:
        """The figure that is larger for the better model."""
        for value in (self.auc, self.accuracy):
            if value is not None:
                return value
        return -self.loss


def is_held_out(name: str, share: float) -> bool:
    """Return whether a device only judges models; a function of its name alone."""
    digest = sha256(f"held out {name}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


class Evaluator:
    """Judges models on pooled examples, with the evaluation that is exported.

    Parameters
    ----------
    problem : TrainingProblem
        The model and its loss.
    arrays : mapping of str to ndarray
        Inputs and ``target``.
    """

    def __init__(self, problem: TrainingProblem, arrays: Arrays) -> None:
        self._evaluate = evaluation(problem)
        self._model = problem.evaluation_model
        self._names = tuple(problem.inputs)
        self._arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}

    def judge(self, parameters: FloatVector) -> Quality:
        """Return the quality of a model with these parameters, shape (P,)."""
        vector = torch.from_numpy(parameters)
        target = self._arrays[TARGET]
        losses, outputs = 0.0, []
        for start in range(0, len(target), _ROWS):
            part = slice(start, start + _ROWS)
            rows = len(target[part])
            with torch.no_grad():
                loss, *made = self._evaluate(
                    vector,
                    *(torch.from_numpy(self._arrays[name][part]) for name in self._names),
                    torch.from_numpy(target[part]),
                    torch.ones(rows),
                )
            losses += float(loss) * rows
            outputs.append(made[0].numpy())
        scores: NDArray[Any] = np.concatenate(outputs)
        auc = accuracy = None
        if target.dtype == np.int64 and target.ndim == 1 and scores.ndim == 2:
            accuracy = float((scores.argmax(axis=1) == target).mean())
        elif scores.size == target.size and set(np.unique(target).tolist()) == {0.0, 1.0}:
            auc = area_under_curve(scores.reshape(-1), target.reshape(-1).astype(np.float64) > 0)
        return Quality(loss=losses / len(target), auc=auc, accuracy=accuracy)


def area_under_curve(scores: NDArray[Any], positive: NDArray[np.bool_]) -> float:
    """Return the area under the ROC curve: the Mann-Whitney statistic, ties counted half."""
    _, places, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[places]
    positives = int(positive.sum())
    above = float(ranks[positive].sum()) - positives * (positives + 1) / 2
    return above / (positives * (len(scores) - positives))
