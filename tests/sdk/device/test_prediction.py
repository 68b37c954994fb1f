"""Prediction with the latest model, with and without a network."""

from __future__ import annotations

import numpy as np
import pytest

from pocketfl.balancing import balance_classes
from pocketfl.device import PlanCache
from pocketfl.errors import FeatureError, PlanError, StoreError, TransportError
from pocketfl.features.transforms import LabelSpec
from pocketfl.plan import generate_signing_key, public_key_hex
from pocketfl.training import LocalTrainer

from .conftest import NOW, make_plan, rain, unreachable

SOLUTION = np.array([1.0, -2.0, 0.5], dtype="<f4")
EXAMPLE = {"x": np.array([3.0, 1.0], np.float32), "place": "JFK"}


@pytest.fixture
def trained(back_end):
    back_end.model_version = 4
    back_end.parameters_data = SOLUTION.tobytes()
    return back_end


def test_prediction_uses_the_newest_model(make_device, trained) -> None:
    """x . (1, -2) + 0.5, for one example and for many, beyond the batch size."""
    device = make_device()
    assert device.predict(EXAMPLE)["output"] == pytest.approx(1.5)
    many = [{"x": np.array([i, 0.0], np.float32), "place": "JFK"} for i in range(11)]
    assert device.predict(many)["output"] == pytest.approx(np.arange(11) + 0.5)
    (model,) = device.models
    assert (model.task, model.model_version) == ("trips", 4)
    assert trained.calls == ["notices", "plan", "parameters"]


def test_balancing_is_trained_with_and_taken_back(make_device, trained, signing_key, store) -> None:
    """A round leaves out what the policy leaves out, and both ways to predict correct the scores."""
    policy = balance_classes([0.9, 0.1], method="keep")
    label = LabelSpec(field="y", above=0.0, balancing=policy)
    plan = make_plan(signing_key, version="2", label=label)
    trained.announce(plan)
    trained.parameters_data = SOLUTION.tobytes()
    device = make_device()
    shift = np.log(policy.factors[1] / policy.factors[0])
    assert device.predict(EXAMPLE)["output"] == pytest.approx(1.5 - shift)
    with LocalTrainer(plan, store, parameters=SOLUTION) as trainer:
        assert trainer.predict(EXAMPLE)["output"] == pytest.approx(1.5 - shift)
    everything = store.select("trips", limit=1000, seed=0).columns["y"]
    outcome = device.run_once()
    assert outcome.status == "completed"
    positive = sum(value > 0 for value in everything)
    assert positive <= outcome.examples < len(everything)


def test_a_model_survives_a_restart_without_a_network(make_device, trained) -> None:
    """The plan and its parameters are kept with the device, verified when they are read."""
    make_device().refresh_model()
    for call in ("notices", "plan", "parameters"):
        trained.failures[call] = unreachable()
    offline = make_device()
    assert offline.predict(EXAMPLE)["output"] == pytest.approx(1.5)
    assert offline.models[0].model_version == 4


def test_a_round_brings_the_latest_model_along(make_device, trained) -> None:
    """After a round, prediction has that round's model without another download."""
    device = make_device()
    assert device.run_once().status == "completed"
    calls = list(trained.calls)
    assert device.predict(EXAMPLE)["output"] == pytest.approx(1.5)
    assert trained.calls == calls


def test_refreshing_replaces_the_model(make_device, trained, store) -> None:
    """The newer version counts from then on, and the older one is not kept."""
    device = make_device()
    device.refresh_model()
    trained.model_version = 5
    trained.parameters_data = (2 * SOLUTION).tobytes()
    assert device.predict(EXAMPLE)["output"] == pytest.approx(1.5)  # until asked to refresh
    model = device.refresh_model()
    assert model is not None
    assert model.model_version == 5
    assert device.predict(EXAMPLE)["output"] == pytest.approx(3.0)
    kept = [
        name
        for (name,) in store.database.query("SELECT name FROM device_state ORDER BY name")
        if name.startswith(("plan/", "parameters/"))
    ]
    assert kept == [f"parameters/{model.parameters_sha256}", f"plan/{model.plan_sha256}"]


def test_models_of_several_tasks_are_told_apart(make_device, trained, signing_key) -> None:
    """Each task has its own; without a name, several are ambiguous."""
    device = make_device()
    device.refresh_model()
    trained.task = "other"
    trained.parameters_data = (-SOLUTION).tobytes()
    device.refresh_model(task="other")
    assert device.predict(EXAMPLE, task="trips")["output"] == pytest.approx(1.5)
    assert make_device().predict(EXAMPLE, task="other")["output"] == pytest.approx(-1.5)
    with pytest.raises(ValueError, match="say which task"):
        device.predict(EXAMPLE)


def test_without_any_model_the_reason_is_said(make_device, trained) -> None:
    """No round announces one, or the server cannot be reached."""
    trained.has_rounds = False
    device = make_device()
    assert device.refresh_model() is None
    with pytest.raises(PlanError, match="no model yet"):
        device.predict(EXAMPLE)
    trained.failures["notices"] = unreachable()
    with pytest.raises(TransportError, match="no route"):
        device.predict(EXAMPLE)


def test_only_trusted_plans_predict(make_device, trained) -> None:
    """A model of an unknown modeller is not run, downloaded or kept."""
    make_device().refresh_model()
    stranger = make_device(plan_keys=[public_key_hex(generate_signing_key())])
    with pytest.raises(PlanError, match="trusted keys"):
        stranger.predict(EXAMPLE)


@pytest.mark.parametrize("part", ["plan", "parameters"])
def test_a_damaged_copy_is_downloaded_again_and_repaired(make_device, trained, store, part) -> None:
    """What does not verify is never used; the next start has a sound copy."""
    make_device().refresh_model()
    ((name, value),) = store.database.query(
        "SELECT name, value FROM device_state WHERE name LIKE ?", (f"{part}/%",)
    )
    store.database.write_state(name, value[:-1] + bytes([value[-1] ^ 1]))
    assert make_device().predict(EXAMPLE)["output"] == pytest.approx(1.5)
    trained.calls.clear()
    assert make_device().predict(EXAMPLE)["output"] == pytest.approx(1.5)
    assert trained.calls == []


def test_a_damaged_record_of_models_is_an_error(make_device, trained, store) -> None:
    """It is said, rather than guessed around."""
    store.database.write_state("models", b"{")
    with pytest.raises(StoreError, match="record of models is damaged"):
        make_device().predict(EXAMPLE)


def test_predictions_join_server_features_as_of_their_time(
    make_device, back_end, store, signing_key
) -> None:
    """The row valid at the example's time is used, never a later one."""
    back_end.announce(make_plan(signing_key, joins=True))
    back_end.parameters_data = np.array([0, 0, 1, 0], "<f4").tobytes()  # the scaled rain alone
    store.put_server_features("weather", [rain("JFK", NOW - 100, 2.5), rain("JFK", NOW - 10, 7.5)])
    device = make_device()
    assert device.predict(EXAMPLE, times=[NOW - 50])["output"] == pytest.approx(-0.5)
    assert device.predict(EXAMPLE)["output"] == pytest.approx(0.5)
    with pytest.raises(FeatureError, match="no row of server table 'weather'"):
        device.predict({**EXAMPLE, "place": "nowhere"})


def test_examples_and_times_go_together(make_device, trained) -> None:
    """A wrong number of times is a mistake of the app."""
    with pytest.raises(ValueError, match="1 examples, but 2 times"):
        make_device().predict(EXAMPLE, times=[NOW, NOW])


def test_devices_that_share_plans_keep_no_models(make_device, trained, store) -> None:
    """In a fleet the process has the model; a device's file stays small."""
    plans = PlanCache()
    device = make_device(plans=plans)
    assert device.predict(EXAMPLE)["output"] == pytest.approx(1.5)
    assert device.run_once().status == "completed"
    names = [name for (name,) in store.database.query("SELECT name FROM device_state")]
    assert not [name for name in names if name.startswith(("plan/", "parameters/", "models"))]
    plans.close()
