"""The accept gate: newly trained parameters are used only if examples set aside speak for them.

Personal training on a few examples may make a model worse for its own user, and so may a global model
that learnt from others. Either is judged on examples that this user made and that no training saw.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from pocketfl.plan.acceptance import AcceptanceSpec
from pocketfl.training.personal import LocalEvaluation

Reason: TypeAlias = Literal["better", "no_worse", "worse", "too_few"]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the gate found.

    Attributes
    ----------
    accepted : bool
        Whether the new parameters shall be used.
    examples : int
        Examples set aside that both were measured on.
    correct_before, correct_after : int or None
        How many of them each got right; None where the model is no classifier.
    loss_before, loss_after : float
        Mean loss of each.
    reason : str
        Why.
    """

    accepted: bool
    examples: int
    correct_before: int | None
    correct_after: int | None
    loss_before: float
    loss_after: float
    reason: Reason


@dataclass(frozen=True, kw_only=True)
class AcceptGate:
    """Decides whether new parameters replace those in use.

    A classifier is judged by how many examples it gets right, with the loss to break a tie; any other
    model by its loss.

    Attributes
    ----------
    min_examples : int
        With fewer examples set aside nothing can be said, and the parameters in use stay.
    loss_slack : float
        By what part the loss may rise where as many examples are right as before.
    margin : float
        Share of the examples, 0 to 1, by which fewer may be right.
    """

    min_examples: int = 3
    loss_slack: float = 0.05
    margin: float = 0.0

    def __post_init__(self) -> None:
        if self.min_examples < 1 or not 0 <= self.loss_slack < 1 or not 0 <= self.margin < 1:
            raise ValueError("min_examples must be at least 1, loss_slack and margin 0 to 1")

    @classmethod
    def of(cls, spec: AcceptanceSpec) -> AcceptGate:
        """Return the gate that a plan asks for."""
        return cls(min_examples=spec.min_examples, loss_slack=spec.loss_slack, margin=spec.margin)

    def judge(self, before: LocalEvaluation, after: LocalEvaluation) -> Verdict:
        """Compare the parameters in use with new ones, on the same examples.

        Parameters
        ----------
        before, after : LocalEvaluation
            Of :meth:`LocalTrainer.evaluate` with the parameters in use, and with the new ones.

        Raises
        ------
        ValueError
            If they are not of the same number of examples.
        """
        if before.examples != after.examples:
            raise ValueError(
                f"{before.examples} examples before and {after.examples} after: judge on the same ones"
            )
        right_before, right_after = correct(before), correct(after)
        reason = self._reason(before, after, right_before, right_after)
        return Verdict(
            accepted=reason in ("better", "no_worse"),
            examples=before.examples,
            correct_before=right_before,
            correct_after=right_after,
            loss_before=before.loss,
            loss_after=after.loss,
            reason=reason,
        )

    def _reason(
        self,
        before: LocalEvaluation,
        after: LocalEvaluation,
        right_before: int | None,
        right_after: int | None,
    ) -> Reason:
        if before.examples < self.min_examples:
            return "too_few"
        if right_before is not None and right_after is not None and right_before != right_after:
            if right_after > right_before:
                return "better"
            lost = right_before - right_after
            return "no_worse" if lost <= self.margin * before.examples else "worse"
        if after.loss < before.loss:
            return "better"
        return "no_worse" if after.loss <= before.loss * (1 + self.loss_slack) else "worse"


def correct(evaluation: LocalEvaluation) -> int | None:
    """Return how many examples were classified right; None if the model is no classifier.

    A classifier has one output of shape (n, classes), and integer targets.
    """
    outputs = list(evaluation.outputs.values())
    target = evaluation.target
    if len(outputs) != 1 or outputs[0].ndim != 2 or not np.issubdtype(target.dtype, np.integer):
        return None
    return int((outputs[0].argmax(axis=1) == target).sum())
