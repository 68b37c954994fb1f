"""Server optimizers do what their papers and torch do, and their state survives storage exactly."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pocketfl.errors import DecodeError
from pocketfl_server.optimizers import (
    OptimizerSpec,
    OptimizerState,
    apply_update,
    decode_state,
    encode_state,
)

ROUNDS = 20


def walk(spec: OptimizerSpec, updates: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Apply updates one after the other, with the state going through its stored form each time."""
    parameters, state = start.astype(np.float32), OptimizerState()
    for update in updates:
        parameters, state = apply_update(spec, parameters, state, update)
        state = decode_state(encode_state(state), length=parameters.size)
    return parameters


def walk_with_torch(optimizer: type, updates: np.ndarray, start: np.ndarray, **settings: object):
    parameter = torch.nn.Parameter(torch.tensor(start, dtype=torch.float64))
    stepper = optimizer([parameter], **settings)
    for update in updates:
        parameter.grad = torch.tensor(-update)  # the mean update stands in for a negative gradient
        stepper.step()
    return parameter.detach().numpy()


@pytest.fixture
def updates() -> np.ndarray:
    return np.random.default_rng(7).normal(size=(ROUNDS, 31)) * 0.05


@pytest.fixture
def start() -> np.ndarray:
    return np.random.default_rng(8).normal(size=31)


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_sgd_moves_as_in_torch(updates, start, momentum) -> None:
    """SGD with heavy-ball momentum equals torch.optim.SGD over many steps."""
    spec = OptimizerSpec(kind="sgd", learning_rate=0.7, momentum=momentum)
    expected = walk_with_torch(torch.optim.SGD, updates, start, lr=0.7, momentum=momentum)
    np.testing.assert_allclose(walk(spec, updates, start), expected, atol=3e-6)


@pytest.mark.parametrize("epsilon", [1e-8, 1e-3])
def test_adam_with_bias_correction_moves_as_in_torch(updates, start, epsilon) -> None:
    """Adam as in Kingma and Ba equals torch.optim.Adam over many steps."""
    spec = OptimizerSpec(
        kind="adam", learning_rate=0.05, beta2=0.999, epsilon=epsilon, bias_correction=True
    )
    expected = walk_with_torch(
        torch.optim.Adam, updates, start, lr=0.05, betas=(0.9, 0.999), eps=epsilon
    )
    np.testing.assert_allclose(walk(spec, updates, start), expected, atol=3e-6)


def test_adam_without_bias_correction_follows_the_paper(updates, start) -> None:
    """FedAdam, written down step by step from algorithm 2 of Reddi et al. (2021), in float64."""
    spec = OptimizerSpec(kind="adam", learning_rate=0.05, beta1=0.9, beta2=0.99, epsilon=1e-3)
    first, second, expected = np.zeros(31), np.full(31, 1e-6), start.copy()
    for update in updates:
        first = 0.9 * first + 0.1 * update
        second = 0.99 * second + 0.01 * update**2
        expected = expected + 0.05 * first / (np.sqrt(second) + 1e-3)
    np.testing.assert_allclose(walk(spec, updates, start), expected, atol=3e-6)


def test_plain_averaging_adds_the_mean_update() -> None:
    """Learning rate 1 and no momentum is federated averaging."""
    spec = OptimizerSpec(kind="sgd", learning_rate=1.0, momentum=0.0)
    moved, _ = apply_update(spec, np.ones(3, np.float32), OptimizerState(), np.full(3, 0.25))
    np.testing.assert_array_equal(moved, np.full(3, 1.25, np.float32))


def test_lengths_that_differ_are_refused() -> None:
    """An update or a state of another model does not broadcast by accident."""
    spec = OptimizerSpec(kind="sgd", learning_rate=1.0)
    with pytest.raises(ValueError, match="the update has shape"):
        apply_update(spec, np.ones(3, np.float32), OptimizerState(), np.ones(1))
    state = OptimizerState(step=1, moments={"velocity": np.ones(1, np.float32)})
    with pytest.raises(ValueError, match="velocity has shape"):
        apply_update(spec, np.ones(3, np.float32), state, np.ones(3))


@pytest.mark.parametrize(
    "settings",
    [
        {"learning_rate": 0.0},
        {"learning_rate": float("nan")},
        {"learning_rate": 1.0, "momentum": 1.0},
        {"learning_rate": 1.0, "beta2": -0.1},
        {"learning_rate": 1.0, "epsilon": 0.0},
    ],
)
def test_settings_out_of_bounds_are_refused(settings) -> None:
    """A setting that could not work never becomes a task's."""
    with pytest.raises(ValueError, match=r"must be"):
        OptimizerSpec(**settings)


def test_a_spec_survives_its_json() -> None:
    """What a task stores is what it reads back."""
    spec = OptimizerSpec(kind="adam", learning_rate=0.06, epsilon=1e-4, bias_correction=True)
    assert OptimizerSpec.from_json(spec.to_json()) == spec


def vectors(length: int) -> st.SearchStrategy[np.ndarray]:
    return hnp.arrays(np.float32, length, elements=st.floats(width=32))


@st.composite
def states(draw: st.DrawFn) -> tuple[OptimizerState, int]:
    length = draw(st.integers(1, 40))
    names = draw(st.sets(st.sampled_from(["velocity", "first", "second"])))
    moments = {name: draw(vectors(length)) for name in names}
    return OptimizerState(step=draw(st.integers(0, 10**9)), moments=moments), length


@given(states())
def test_a_state_survives_storage_bit_for_bit(case) -> None:
    """Every float32, infinities and NaNs with their payloads too, comes back as it was."""
    state, length = case
    again = decode_state(encode_state(state), length=length)
    assert again.step == state.step
    assert {name: m.tobytes() for name, m in again.moments.items()} == {
        name: m.tobytes() for name, m in state.moments.items()
    }


@given(states(), st.data())
def test_a_damaged_state_is_refused_or_at_least_well_formed(case, data) -> None:
    """Truncated, extended or changed bytes raise DecodeError, or decode to the right length."""
    state, length = case
    encoded = bytearray(encode_state(state))
    change = data.draw(st.sampled_from(["cut", "extend", "flip"]))
    if change == "cut":
        del encoded[data.draw(st.integers(0, len(encoded) - 1)) :]
    elif change == "extend":
        encoded += data.draw(st.binary(min_size=1, max_size=9))
    else:
        position = data.draw(st.integers(0, len(encoded) - 1))
        encoded[position] ^= data.draw(st.integers(1, 255))
    try:
        again = decode_state(bytes(encoded), length=length)
    except DecodeError:
        return
    assert change == "flip"
    assert all(moment.shape == (length,) for moment in again.moments.values())


def test_a_state_of_another_model_is_refused() -> None:
    """The length is checked against the model's, not believed."""
    state = OptimizerState(step=1, moments={"velocity": np.ones(4, np.float32)})
    with pytest.raises(DecodeError, match="4 parameters, not 5"):
        decode_state(encode_state(state), length=5)


@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_a_model_in_float16_keeps_what_rounding_leaves_out(kind: str) -> None:
    """Updates far below float16's resolution add up as in float32, through the stored state each time.

    The spacing of float16 at 1 is 1e-3: each of these updates alone would be rounded away.
    """
    spec = OptimizerSpec(kind=kind, learning_rate=1e-4, momentum=0.0, epsilon=1.0)
    updates = np.full((300, 3), 0.3)
    start = np.array([1.0, -1.0, 0.0], np.float32)
    parameters, state = start, OptimizerState()
    for update in updates:
        parameters, state = apply_update(spec, parameters, state, update, storage="float16")
        np.testing.assert_array_equal(parameters, parameters.astype(np.float16))
        state = decode_state(encode_state(state), length=parameters.size)
    exact = walk(spec, updates, start)
    assert np.abs(exact - start).min() > 3e-3
    np.testing.assert_allclose(parameters + state.moments["remainder"], exact, atol=1e-6)
    np.testing.assert_array_equal(parameters, exact.astype(np.float16))
