"""What every runtime does alike: one suite, run over each of them and over two models."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pocketfl.runtimes import Runtime, open_runtime

from .conftest import BATCH, Arrays, Case

TOLERANCE = 1e-5


def without_target(arrays: Arrays) -> Arrays:
    return {name: value for name, value in arrays.items() if name != "target"}


def eager_outputs(case: Case, parameters: np.ndarray, arrays: Arrays) -> dict[str, np.ndarray]:
    with torch.no_grad():
        outputs = case.forward(parameters, arrays)
    if isinstance(outputs, dict):
        return {name: value.numpy() for name, value in outputs.items()}
    return {"output": outputs.numpy()}


def assert_outputs(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert found[name].shape == value.shape
        assert found[name].dtype == value.dtype
        np.testing.assert_allclose(found[name], value, atol=TOLERANCE)


def test_it_starts_with_the_plans_parameters(case: Case, runtime: Runtime) -> None:
    """A freshly opened runtime holds what the modeller shipped."""
    np.testing.assert_array_equal(runtime.parameters(), case.plan.initial_parameters())


def test_parameters_survive_the_round_trip_and_are_copies(runtime: Runtime) -> None:
    """What was set comes back, whatever the caller does to either array afterwards."""
    vector = np.linspace(-2, 2, len(runtime.parameters()), dtype=np.float32)
    given = vector.copy()
    runtime.set_parameters(given)
    given[:] = 7
    returned = runtime.parameters()
    np.testing.assert_array_equal(returned, vector)
    returned[:] = 7
    np.testing.assert_array_equal(runtime.parameters(), vector)


def test_each_step_is_torchs_step(case: Case, runtime: Runtime) -> None:
    """Parameters, loss and gradient norm after a step equal eager torch's, step after step."""
    parameters = case.plan.initial_parameters()
    for seed in range(8):
        batch = case.draw(BATCH, seed)
        runtime.set_parameters(parameters)
        result = runtime.train_step(batch, learning_rate=0.1, clip_norm=100.0)
        parameters, loss, norm = case.step(parameters, batch, learning_rate=0.1, clip_norm=100.0)
        np.testing.assert_allclose(runtime.parameters(), parameters, atol=TOLERANCE)
        assert result.loss == pytest.approx(loss, abs=TOLERANCE)
        assert result.gradient_norm == pytest.approx(norm, rel=TOLERANCE)


def test_steps_build_on_each_other(case: Case, runtime: Runtime) -> None:
    """A runtime keeps the new parameters: five steps in a row are torch's five steps."""
    parameters = case.plan.initial_parameters()
    for seed in range(5):
        batch = case.draw(BATCH, seed)
        runtime.train_step(batch, learning_rate=0.05, clip_norm=10.0)
        parameters, _, _ = case.step(parameters, batch, learning_rate=0.05, clip_norm=10.0)
    np.testing.assert_allclose(runtime.parameters(), parameters, atol=TOLERANCE)


@pytest.mark.parametrize("rows", range(1, BATCH))
def test_a_short_batch_is_a_batch_of_that_size(case: Case, runtime: Runtime, rows: int) -> None:
    """Padding changes nothing, even after a full batch has left its rows in the buffers."""
    before = runtime.parameters()
    runtime.train_step(case.draw(BATCH, 99), learning_rate=0.1, clip_norm=1.0)
    runtime.set_parameters(before)
    batch = case.draw(rows, rows)
    result = runtime.train_step(batch, learning_rate=0.1, clip_norm=100.0)
    expected, loss, norm = case.step(before, batch, learning_rate=0.1, clip_norm=100.0)
    np.testing.assert_allclose(runtime.parameters(), expected, atol=TOLERANCE)
    assert result.loss == pytest.approx(loss, abs=TOLERANCE)
    assert result.gradient_norm == pytest.approx(norm, rel=TOLERANCE)


def test_weights_are_those_of_a_weighted_mean(case: Case, runtime: Runtime) -> None:
    """Each example counts by its weight, relative to the others."""
    before = runtime.parameters()
    batch = case.draw(4, 3)
    batch["weight"] = np.array([0.5, 2.0, 0.0, 1.0], np.float32)
    result = runtime.train_step(batch, learning_rate=0.1, clip_norm=100.0)
    expected, loss, norm = case.step(before, batch, learning_rate=0.1, clip_norm=100.0)
    np.testing.assert_allclose(runtime.parameters(), expected, atol=TOLERANCE)
    assert result.loss == pytest.approx(loss, abs=TOLERANCE)
    assert result.gradient_norm == pytest.approx(norm, rel=TOLERANCE)


def test_an_example_of_weight_0_might_as_well_not_be_there(case: Case, runtime: Runtime) -> None:
    """Its contents have no influence at all: the results are the same bits."""
    before = runtime.parameters()
    results = []
    for seed in (5, 6):
        batch = case.draw(4, 4)
        for name, value in case.draw(4, seed).items():
            batch[name][2] = value[2]
        batch["weight"] = np.array([1, 1, 0, 1], np.float32)
        runtime.set_parameters(before)
        result = runtime.train_step(batch, learning_rate=0.1, clip_norm=100.0)
        results.append((result, runtime.parameters()))
    assert results[0][0] == results[1][0]
    np.testing.assert_array_equal(results[0][1], results[1][1])


def test_the_gradient_is_clipped_to_the_bound(case: Case, runtime: Runtime) -> None:
    """The step's length is bounded; the reported norm is the one before clipping."""
    before = runtime.parameters()
    batch = case.draw(BATCH, 1)
    expected, _, norm = case.step(before, batch, learning_rate=1.0, clip_norm=0.01)
    result = runtime.train_step(batch, learning_rate=1.0, clip_norm=0.01)
    after = runtime.parameters()
    assert norm > 0.01
    assert result.gradient_norm == pytest.approx(norm, rel=TOLERANCE)
    assert np.linalg.norm(after - before) == pytest.approx(0.01, rel=1e-3)
    np.testing.assert_allclose(after, expected, atol=1e-7)


def test_a_learning_rate_of_0_changes_nothing(case: Case, runtime: Runtime) -> None:
    """The loss is reported and the parameters stay, bit for bit."""
    before = runtime.parameters()
    runtime.train_step(case.draw(BATCH, 1), learning_rate=0.0, clip_norm=1.0)
    np.testing.assert_array_equal(runtime.parameters(), before)


@pytest.mark.parametrize("rows", [1, BATCH - 1, BATCH])
def test_evaluation_is_torchs(case: Case, runtime: Runtime, rows: int) -> None:
    """Loss and outputs equal eager torch's, one output row per example, and parameters stay."""
    before = runtime.parameters()
    batch = case.draw(rows, 11)
    result = runtime.evaluate(batch)
    assert result.loss == pytest.approx(case.mean_loss(before, batch).item(), abs=TOLERANCE)
    assert_outputs(result.outputs, eager_outputs(case, before, batch))
    np.testing.assert_array_equal(runtime.parameters(), before)


def test_evaluation_takes_weights(case: Case, runtime: Runtime) -> None:
    """The loss of an evaluation is the weighted mean too."""
    batch = case.draw(3, 12)
    batch["weight"] = np.array([1.0, 3.0, 0.25], np.float32)
    expected = case.mean_loss(runtime.parameters(), batch).item()
    assert runtime.evaluate(batch).loss == pytest.approx(expected, abs=TOLERANCE)


@pytest.mark.parametrize("rows", [0, 1, BATCH - 1, BATCH, BATCH + 1, 3 * BATCH + 2])
def test_prediction_takes_any_number_of_rows(case: Case, runtime: Runtime, rows: int) -> None:
    """Outputs equal eager torch's over as many batches as it takes, and parameters stay."""
    before = runtime.parameters()
    inputs = without_target(case.draw(rows, 13))
    assert_outputs(runtime.predict(inputs), eager_outputs(case, before, inputs))
    np.testing.assert_array_equal(runtime.parameters(), before)


def test_results_belong_to_the_caller(case: Case, runtime: Runtime) -> None:
    """No later call changes what an earlier one returned."""
    batch = case.draw(BATCH, 14)
    evaluated = runtime.evaluate(batch).outputs
    predicted = runtime.predict(without_target(batch))
    copies = [{k: v.copy() for k, v in outputs.items()} for outputs in (evaluated, predicted)]
    other = case.draw(BATCH, 15)
    runtime.train_step(other, learning_rate=0.5, clip_norm=1.0)
    runtime.evaluate(other)
    runtime.predict(without_target(other))
    for outputs, copy in zip((evaluated, predicted), copies, strict=True):
        for name, value in outputs.items():
            np.testing.assert_array_equal(value, copy[name])


def test_nothing_is_remembered_but_the_parameters(case: Case, runtime: Runtime) -> None:
    """The same parameters and batch give the same bits, whatever happened in between."""
    before = runtime.parameters()
    batch = case.draw(BATCH, 16)

    def step() -> tuple[object, np.ndarray]:
        runtime.set_parameters(before)
        return runtime.train_step(batch, learning_rate=0.1, clip_norm=1.0), runtime.parameters()

    first_result, first = step()
    for seed in range(3):
        other = case.draw(1 + seed, seed)
        runtime.train_step(other, learning_rate=0.3, clip_norm=0.5)
        runtime.evaluate(other)
        runtime.predict(without_target(other))
    second_result, second = step()
    assert first_result == second_result
    np.testing.assert_array_equal(first, second)


def test_inputs_are_only_read(case: Case, runtime: Runtime) -> None:
    """The app's arrays may be read-only and without order in memory, and stay as they are."""
    batch = {}
    for name, value in case.draw(BATCH, 17).items():
        spread = np.repeat(value, 2, axis=0)[::2]
        spread.flags.writeable = False
        batch[name] = spread
    before = runtime.parameters()
    runtime.train_step(batch, learning_rate=0.1, clip_norm=100.0)
    expected, _, _ = case.step(before, case.draw(BATCH, 17), learning_rate=0.1, clip_norm=100.0)
    np.testing.assert_allclose(runtime.parameters(), expected, atol=TOLERANCE)


def test_two_runtimes_of_one_plan_are_independent(case: Case, runtime_name: str) -> None:
    """Training in one does not show in the other, and closing one leaves the other at work."""
    first, second = open_runtime(case.plan, runtime_name), open_runtime(case.plan, runtime_name)
    batch = case.draw(BATCH, 18)
    first.evaluate(batch)
    before = second.evaluate(batch)
    first.train_step(batch, learning_rate=0.5, clip_norm=1.0)
    np.testing.assert_array_equal(second.parameters(), case.plan.initial_parameters())
    assert second.evaluate(batch).loss == before.loss
    first.close()
    assert second.evaluate(batch).loss == before.loss
    second.close()


def test_a_closed_runtime_says_so(case: Case, runtime_name: str) -> None:
    """Every method of a closed runtime raises; closing twice is fine."""
    runtime = open_runtime(case.plan, runtime_name)
    batch = case.draw(BATCH, 19)
    vector = runtime.parameters()
    runtime.train_step(batch, learning_rate=0.1, clip_norm=1.0)
    runtime.close()
    runtime.close()
    calls = [
        runtime.parameters,
        lambda: runtime.set_parameters(vector),
        lambda: runtime.train_step(batch, learning_rate=0.1, clip_norm=1.0),
        lambda: runtime.evaluate(batch),
        lambda: runtime.predict(without_target(batch)),
    ]
    for call in calls:
        with pytest.raises(RuntimeError, match="closed"):
            call()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v[:-1], "shape"),
        (lambda v: np.concatenate([v, v[:1]]), "shape"),
        (lambda v: v.reshape(1, -1), "shape"),
        (lambda v: v.astype(np.float64), "float64"),
        (lambda v: np.where(np.arange(len(v)) == 1, np.nan, v).astype(np.float32), "finite"),
        (lambda v: np.where(np.arange(len(v)) == 2, np.inf, v).astype(np.float32), "finite"),
        (list, "list"),
    ],
    ids=["short", "long", "matrix", "double", "nan", "infinite", "list"],
)
def test_unusable_parameters_are_refused(runtime: Runtime, change, message: str) -> None:
    """The message names the fault and the parameters stay."""
    before = runtime.parameters()
    with pytest.raises(ValueError, match=message):
        runtime.set_parameters(change(before.copy()))
    np.testing.assert_array_equal(runtime.parameters(), before)


def replaced(name: str, value: object):
    return lambda batch: {**batch, name: value}


BAD_BATCHES = {
    "target missing": (without_target, "'target' is missing"),
    "unknown name": (replaced("colour", np.zeros(BATCH, np.float32)), "unknown array 'colour'"),
    "target in double": (lambda b: {**b, "target": b["target"].astype(np.float16)}, "float16"),
    "target as list": (lambda b: {**b, "target": b["target"].tolist()}, "list"),
    "target one row short": (lambda b: {**b, "target": b["target"][:-1]}, "rows"),
    "target as column": (lambda b: {**b, "target": b["target"][:, None]}, "shape"),
    "target as scalar": (lambda b: {**b, "target": b["target"][0].reshape(())}, "shape"),
    "weight in double": (replaced("weight", np.ones(BATCH)), "weight.*float64"),
    "weight of other length": (replaced("weight", np.ones(2, np.float32)), "weight.*shape"),
    "weight negative": (
        replaced("weight", np.array([1, 1, -1, 1, 1, 1], np.float32)),
        "weight.*at least 0",
    ),
    "weights all 0": (replaced("weight", np.zeros(BATCH, np.float32)), "weight.*above 0"),
    "weight NaN": (replaced("weight", np.full(BATCH, np.nan, np.float32)), "weight.*finite"),
    "no rows": (lambda b: {k: v[:0] for k, v in b.items()}, "not 0"),
    "too many rows": (lambda b: {k: np.concatenate([v, v[:1]]) for k, v in b.items()}, "split"),
}


@pytest.mark.parametrize(("change", "message"), BAD_BATCHES.values(), ids=BAD_BATCHES)
def test_an_unusable_batch_is_refused(case: Case, runtime: Runtime, change, message: str) -> None:
    """The message names the array and its fault; parameters and later results are untouched."""
    before = runtime.parameters()
    good = case.draw(BATCH, 20)
    bad = change(case.draw(BATCH, 21))
    expected = runtime.evaluate(good)
    with pytest.raises(ValueError, match=message):
        runtime.train_step(bad, learning_rate=0.1, clip_norm=1.0)
    with pytest.raises(ValueError, match=message):
        runtime.evaluate(bad)
    np.testing.assert_array_equal(runtime.parameters(), before)
    assert runtime.evaluate(good).loss == expected.loss


@pytest.mark.parametrize(
    ("learning_rate", "clip_norm", "message"),
    [
        (-0.1, 1.0, "learning_rate"),
        (float("nan"), 1.0, "learning_rate"),
        (float("inf"), 1.0, "learning_rate"),
        (0.1, 0.0, "clip_norm"),
        (0.1, -1.0, "clip_norm"),
        (0.1, float("nan"), "clip_norm"),
    ],
)
def test_rates_out_of_bounds_are_refused(
    case: Case, runtime: Runtime, learning_rate: float, clip_norm: float, message: str
) -> None:
    """A step with an impossible rate or bound does not happen."""
    before = runtime.parameters()
    with pytest.raises(ValueError, match=message):
        runtime.train_step(case.draw(2, 0), learning_rate=learning_rate, clip_norm=clip_norm)
    np.testing.assert_array_equal(runtime.parameters(), before)


def test_prediction_refuses_what_does_not_fit(case: Case, runtime: Runtime) -> None:
    """Prediction takes the inputs and nothing else."""
    batch = case.draw(BATCH, 22)
    with pytest.raises(ValueError, match="unknown array 'target'"):
        runtime.predict(batch)
    inputs = without_target(batch)
    name, value = next(iter(inputs.items()))
    with pytest.raises(ValueError, match=name):
        runtime.predict({**inputs, name: value[..., None]})
    with pytest.raises(ValueError, match=name):
        runtime.predict({k: v for k, v in inputs.items() if k != name})


def test_a_diverged_step_reports_what_is_not_finite(case: Case, runtime: Runtime) -> None:
    """Nothing is hidden: a loss that overflowed is returned as it is."""
    vector = np.full(len(runtime.parameters()), 3e38, np.float32)
    runtime.set_parameters(vector)
    result = runtime.train_step(case.draw(BATCH, 23), learning_rate=0.1, clip_norm=1.0)
    assert not np.isfinite(result.gradient_norm)
