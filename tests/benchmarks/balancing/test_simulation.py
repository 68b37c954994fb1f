"""The vectorised rounds step as torch does, and the ablation's measures are what they say."""

import numpy as np
import pytest
import torch

from pocketfl.balancing import balance_classes
from pocketfl_benchmarks.balancing.ablation import calibration_error
from pocketfl_benchmarks.balancing.simulation import (
    DeviceFlights,
    Network,
    Rounds,
    train_privately,
)
from pocketfl_benchmarks.flights.task import TRAINING, LatenessModel


def test_a_step_of_many_devices_is_that_of_torch_for_each():
    """Weighted, padded batches of three devices against autograd, one after another."""
    width, rng = 7, np.random.default_rng(0)
    network = Network(width)
    flat = torch.from_numpy(np.stack([network.initial(seed=s, bias=-1.0) for s in range(3)]))
    features = torch.from_numpy(rng.normal(size=(3, 5, width)).astype(np.float32))
    target = torch.from_numpy((rng.random((3, 5)) < 0.4).astype(np.float32))
    weight = torch.from_numpy(rng.uniform(0.5, 2, (3, 5)).astype(np.float32))
    weight[1, 3:] = 0.0
    weight[2] = 0.0
    made = network.step(flat, features, target, weight)
    for place, rows in ((0, 5), (1, 3)):
        model = LatenessModel(width)
        torch.nn.utils.vector_to_parameters(flat[place], model.parameters())
        losses = torch.nn.functional.binary_cross_entropy_with_logits(
            model(features[place, :rows]), target[place, :rows], reduction="none"
        )
        torch.autograd.backward((losses * weight[place, :rows]).mean())
        expected = torch.cat(
            [(p - TRAINING.learning_rate * p.grad).ravel() for p in model.parameters()]
        )
        torch.testing.assert_close(made[place], expected.detach(), atol=1e-5, rtol=1e-5)
    assert torch.equal(made[2], flat[2])


def fleet(count, seed=0):
    rng = np.random.default_rng(seed)
    devices = []
    for _ in range(count):
        features = rng.normal(size=(int(rng.integers(1, 60)), 4)).astype(np.float32)
        odds = 1 / (1 + np.exp(2.5 - 2 * features[:, 0]))
        devices.append(DeviceFlights(features, (rng.random(len(odds)) < odds).astype(np.float32)))
    return devices


@pytest.mark.parametrize("method", [None, "keep", "weight"])
def test_rounds_learn_with_every_policy(method):
    """The feature that decides the label ends up ranking it, however classes are balanced."""
    devices = fleet(150)
    policy = None if method is None else balance_classes([0.85, 0.15], method=method)
    rounds = Rounds(count=6, sampling_probability=0.4, noise_multiplier=0.1)
    parameters = train_privately(devices, rounds=rounds, balancing=policy, bias=0.0, seed=1)
    x = np.zeros((2, 4), np.float32)
    x[:, 0] = [-1.5, 1.5]
    low, high = Network(4).logits(parameters, x)
    assert high > low + 0.5


def test_calibration_error_is_zero_for_true_probabilities_and_the_shift_otherwise():
    """Scores that are the chances themselves are off by sampling alone, here below 0.01."""
    rng = np.random.default_rng(3)
    chance = rng.uniform(0.05, 0.6, 50_000)
    happened = (rng.random(50_000) < chance).astype(np.float32)
    assert calibration_error(chance, happened) < 0.01
    assert calibration_error(chance + 0.2, happened) == pytest.approx(0.2, abs=0.01)
