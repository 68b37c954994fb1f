"""The accept gate: what a person's own drawings set aside decide about new parameters."""

import numpy as np
import pytest

from pocketfl.training import AcceptGate, LocalEvaluation


def evaluation(right: int, *, of: int = 10, loss: float = 1.0) -> LocalEvaluation:
    outputs = np.zeros((of, 3), np.float32)
    outputs[np.arange(of), np.where(np.arange(of) < right, 1, 2)] = 1
    return LocalEvaluation(
        loss=loss, examples=of, outputs={"logits": outputs}, target=np.ones(of, np.int64)
    )


@pytest.mark.parametrize(
    ("before", "after", "reason", "accepted"),
    [
        (evaluation(5), evaluation(7, loss=2.0), "better", True),
        (evaluation(5), evaluation(4, loss=0.5), "worse", False),
        (evaluation(5), evaluation(5, loss=0.9), "better", True),
        (evaluation(5), evaluation(5, loss=1.04), "no_worse", True),
        (evaluation(5), evaluation(5, loss=1.2), "worse", False),
        (evaluation(1, of=2), evaluation(2, of=2), "too_few", False),
        (evaluation(5), evaluation(5, loss=float("nan")), "worse", False),
    ],
)
def test_the_count_decides_and_the_loss_breaks_a_tie(before, after, reason, accepted):
    """More right is better whatever the loss; a loss that is no number never passes."""
    verdict = AcceptGate().judge(before, after)
    assert (verdict.reason, verdict.accepted) == (reason, accepted)


def test_what_is_no_classifier_is_judged_by_its_loss():
    """A regression has no right answers to count."""
    one = LocalEvaluation(
        loss=1.0,
        examples=4,
        outputs={"value": np.ones((4, 1), np.float32)},
        target=np.ones(4, np.float32),
    )
    better = LocalEvaluation(loss=0.5, examples=4, outputs=one.outputs, target=one.target)
    verdict = AcceptGate().judge(one, better)
    assert (verdict.accepted, verdict.correct_before) == (True, None)
    assert not AcceptGate().judge(better, one).accepted


def test_different_examples_cannot_be_compared():
    """Numbers of two different sets say nothing about parameters."""
    with pytest.raises(ValueError, match="same ones"):
        AcceptGate().judge(evaluation(5), evaluation(5, of=11))
