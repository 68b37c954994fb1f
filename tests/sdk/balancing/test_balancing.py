"""Balancing: what is kept, what it weighs, and that inference takes it back exactly."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketfl.balancing import Balancing, balance_classes
from pocketfl.balancing.correction import correct_outputs
from pocketfl.balancing.selection import apply_balancing, candidates
from pocketfl.decoding import decode_json, encode_json
from pocketfl.errors import FeatureError
from pocketfl.features.transforms import FeatureSpec, FieldSpec, LabelSpec
from pocketfl.plan import TrainingSpec
from pocketfl.runtimes import StepResult
from pocketfl.training import train_locally

SHARES = st.lists(st.floats(0.002, 1), min_size=2, max_size=6)


@given(shares=SHARES, strength=st.floats(0, 1))
def test_full_strength_makes_classes_equally_frequent(shares, strength):
    """At 1 all classes count the same; at any strength the rarest is kept and weights average 1."""
    full = balance_classes(shares, method="keep")
    frequent = [s * f for s, f in zip(full.class_shares, full.factors, strict=True)]
    assert frequent == pytest.approx([frequent[0]] * len(shares))
    kept = balance_classes(shares, method="keep", strength=strength)
    assert max(kept.factors) == pytest.approx(1)
    weighed = balance_classes(shares, method="weight", strength=strength)
    mean = sum(s * f for s, f in zip(weighed.class_shares, weighed.factors, strict=True))
    assert mean == pytest.approx(1)
    assert decode_json(Balancing, encode_json(kept), what="policy", limit=10_000) == kept


def test_shares_that_noise_made_negative_still_make_a_policy():
    """A class that noise hid is taken to be rare, never to be absent."""
    policy = balance_classes([0.9, 0.12, -0.02], method="weight")
    assert min(policy.class_shares) >= 0.9e-3
    assert max(policy.factors) == policy.factors[2]
    with pytest.raises(ValueError, match="more devices or less noise"):
        balance_classes([math.nan, math.nan], method="keep")


@given(
    scores=st.lists(st.floats(0.001, 0.999), min_size=1, max_size=20),
    share=st.floats(0.005, 0.995),
    method=st.sampled_from(["keep", "weight"]),
)
def test_the_correction_undoes_the_shift_of_the_prior(scores, share, method):
    """A score of the balanced population becomes the probability in the fleet, on every scale."""
    policy = balance_classes([1 - share, share], method=method)
    true = np.array(scores)
    odds = true / (1 - true) * policy.factors[1] / policy.factors[0]
    shifted = odds / (1 + odds)
    on_probability = correct_outputs({"output": shifted}, replace(policy, scale="probability"))
    np.testing.assert_allclose(on_probability["output"], true, atol=1e-9)
    logit = correct_outputs({"output": np.log(odds)[:, None]}, policy)["output"]
    np.testing.assert_allclose(1 / (1 + np.exp(-logit[:, 0])), true, atol=1e-9)
    both = np.stack([np.zeros_like(odds), np.log(odds)], axis=1)
    two = correct_outputs({"output": both}, policy)["output"]
    np.testing.assert_allclose(1 / (1 + np.exp(two[:, 0] - two[:, 1])), true, atol=1e-9)


def test_examples_are_kept_at_the_rates_of_their_class():
    """Rates hold within five standard errors (false alarm 1 in a million), the rarest class whole.

    The same seed keeps the same examples, another one others, and rows stay whole.
    """
    target = np.repeat(np.array([0, 1], np.float32), [8000, 2000])
    arrays = {"x": np.arange(10_000.0), "target": target}
    policy = balance_classes([0.8, 0.2], method="keep")
    kept = apply_balancing(arrays, policy, limit=100_000, seed=5)
    count = int((kept["target"] == 0).sum())
    assert abs(count - 2000) < 5 * math.sqrt(8000 * 0.25 * 0.75)
    assert (kept["target"] == 1).sum() == 2000
    assert (kept["target"] == target[kept["x"].astype(int)]).all()
    again = apply_balancing(arrays, policy, limit=100_000, seed=5)
    np.testing.assert_array_equal(kept["x"], again["x"])
    other = apply_balancing(arrays, policy, limit=100_000, seed=6)
    assert len(other["x"]) != len(kept["x"]) or (other["x"] != kept["x"]).any()


def test_the_limit_holds_after_balancing():
    """More examples are looked at so that about the limit is left, and never more than that."""
    policy = balance_classes([0.9, 0.1], method="keep")
    assert candidates(policy, limit=90) == 450
    assert candidates(None, limit=90) == 90
    rng = np.random.default_rng(0)
    arrays = {"target": (rng.random(450) < 0.1).astype(np.float32)}
    assert 50 < len(apply_balancing(arrays, policy, limit=90, seed=1)["target"]) <= 90


def test_an_unknown_class_is_refused():
    """A target beyond the plan's classes is an error that names them."""
    policy = balance_classes([0.9, 0.1], method="keep")
    with pytest.raises(FeatureError, match="0 to 1"):
        apply_balancing({"target": np.array([0.0, 2.0])}, policy, limit=9, seed=0)


class Mean:
    """One parameter, trained towards the mean of the target: the smallest model with a prior."""

    random_numbers = 0

    def __init__(self):
        self.value = 0.0

    def start_training(self):
        pass

    def parameters(self):
        return np.array([self.value], np.float32)

    def train_step(self, batch, *, learning_rate, clip_norm):
        weight = batch.get("weight", np.ones(len(batch["target"])))
        gradient = np.sum(weight * (self.value - batch["target"])) / weight.sum()
        self.value -= learning_rate * float(gradient)
        return StepResult(loss=0.0, gradient_norm=0.0)


def test_weights_count_across_batches_and_not_only_within():
    """Batches of one class each still pull as the weights say: the model settles at equal classes.

    With the weighted mean alone every batch would pull equally hard, and it would settle at 0.2.
    """
    target = np.tile(np.repeat(np.array([0, 1], np.float32), [8, 2]), 50)
    arrays = apply_balancing(
        {"target": target}, balance_classes([0.8, 0.2], method="weight"), limit=10_000, seed=0
    )
    model = Mean()
    spec = TrainingSpec(epochs=40, learning_rate=0.005, max_gradient_norm=100.0)
    train_locally(model, arrays, spec, batch_size=1, seed=0)
    assert model.value == pytest.approx(0.5, abs=0.05)


def test_a_policy_has_to_fit_the_label():
    """Classes of policy and label agree, and a label that is a measurement has none."""
    policy = balance_classes([0.5, 0.3, 0.2], method="keep")
    with pytest.raises(ValueError, match="2 classes"):
        LabelSpec(field="delay", above=30, balancing=policy)
    with pytest.raises(ValueError, match="'above' or a vocabulary"):
        FeatureSpec(
            collection="c",
            fields=(FieldSpec(name="delay", type="float"),),
            label=LabelSpec(field="delay", balancing=policy),
        )
