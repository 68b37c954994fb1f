"""Local training: the loop by itself, and personalisation of an exported plan on a real store."""

import math
import time

import numpy as np
import pytest

from pocketfl.errors import FeatureError, RuntimeUnavailableError, StoreError, TrainingError
from pocketfl.features.transforms import (
    FeatureSpec,
    FieldSpec,
    InputSpec,
    LabelSpec,
    OneHot,
    Scale,
    ServerTable,
)
from pocketfl.plan import AggregationSpec, TrainingSpec, generate_signing_key
from pocketfl.protocol import FeatureRow
from pocketfl.runtimes import StepResult
from pocketfl.store import Collection, ExampleStore, Field
from pocketfl.store.revocation import derived_state
from pocketfl.training import LocalTrainer, train_locally

SPEC = TrainingSpec(epochs=3, learning_rate=0.5, max_gradient_norm=100.0)


class LogisticRegression:
    """Logistic regression in NumPy, with what train_locally uses of a runtime; it notes each batch."""

    name = "numpy"
    random_numbers = 0

    def __init__(self, features):
        self._weights = np.zeros(features + 1)
        self.batches = []

    def parameters(self):
        return self._weights.astype(np.float32)

    def start_training(self):
        pass

    def train_step(self, batch, *, learning_rate, clip_norm):
        self.batches.append({name: array.copy() for name, array in batch.items()})
        x = np.column_stack([batch["x"], np.ones(len(batch["x"]))])
        y = batch["target"]
        chance = 1 / (1 + np.exp(-x @ self._weights))
        loss = -np.mean(y * np.log(chance + 1e-12) + (1 - y) * np.log(1 - chance + 1e-12))
        gradient = x.T @ (chance - y) / len(y)
        norm = np.linalg.norm(gradient)
        self._weights -= learning_rate * gradient * min(1, clip_norm / (norm + 1e-6))
        return StepResult(loss=float(loss), gradient_norm=float(norm))


def separable(rows, seed=0):
    x = np.random.default_rng(seed).normal(size=(rows, 2)).astype(np.float32)
    return {"x": x, "target": (x[:, 0] > x[:, 1]).astype(np.float32)}


def numbered(rows):
    return {"x": np.arange(rows, dtype=np.float32)[:, None], "target": np.zeros(rows, np.float32)}


def seen(runtime):
    return [batch["x"][:, 0].astype(int).tolist() for batch in runtime.batches]


def test_loop_learns():
    """Training lowers the loss of examples that can be told apart, far below where it began."""
    runtime = LogisticRegression(2)
    result = train_locally(runtime, separable(200), SPEC, batch_size=10, seed=1)
    assert result.losses[0] == pytest.approx(math.log(2))
    assert np.mean(result.losses[-20:]) < 0.3
    assert result.completed


def test_every_epoch_uses_every_example_once_in_its_own_order():
    """Whole batches and a last short one; orders differ, and inputs stay with their targets."""
    runtime = LogisticRegression(1)
    arrays = numbered(23) | {"target": np.arange(23, dtype=np.float32) / 23}
    result = train_locally(runtime, arrays, SPEC, batch_size=5, seed=4)
    batches = seen(runtime)
    assert [len(batch) for batch in batches] == [5, 5, 5, 5, 3] * 3
    epochs = [[n for batch in batches[i : i + 5] for n in batch] for i in (0, 5, 10)]
    assert all(sorted(epoch) == list(range(23)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    for batch in runtime.batches:
        np.testing.assert_array_equal(batch["target"], batch["x"][:, 0] / np.float32(23))
    assert (result.steps, result.examples, len(result.losses)) == (15, 23, 15)


def test_training_is_decided_by_its_seed():
    """The same seed gives the same bits; another seed another order."""
    parameters, orders = [], []
    for seed in (7, 7, 8):
        runtime = LogisticRegression(2)
        train_locally(runtime, separable(50), SPEC, batch_size=8, seed=seed)
        parameters.append(runtime.parameters().tobytes())
        orders.append(seen(runtime))
    assert parameters[0] == parameters[1] != parameters[2]
    assert orders[0] == orders[1] != orders[2]


def test_mean_loss_weighs_batches_by_their_examples():
    """A short batch counts by its rows."""
    runtime = LogisticRegression(2)
    result = train_locally(
        runtime, separable(13), TrainingSpec(epochs=1, learning_rate=0.5), batch_size=10, seed=0
    )
    expected = (10 * result.losses[0] + 3 * result.losses[1]) / 13
    assert result.mean_loss == pytest.approx(expected)


def test_stops_between_batches():
    """Asked before every batch, training ends exactly there and keeps what it learnt so far."""
    answers = iter([False, False, True])
    runtime = LogisticRegression(2)
    result = train_locally(
        runtime, separable(50), SPEC, batch_size=10, seed=0, should_stop=lambda: next(answers)
    )
    assert (result.steps, result.examples, result.completed) == (2, 20, False)
    other = LogisticRegression(2)
    train_locally(other, separable(50), SPEC, batch_size=10, seed=0)
    assert [b["x"].tobytes() for b in runtime.batches] == [
        b["x"].tobytes() for b in other.batches[:2]
    ]


def test_stopped_before_the_first_batch():
    """Nothing is trained, and the result says so."""
    runtime = LogisticRegression(2)
    before = runtime.parameters()
    result = train_locally(
        runtime, separable(5), SPEC, batch_size=5, seed=0, should_stop=lambda: True
    )
    assert (result.steps, result.examples, result.completed) == (0, 0, False)
    assert math.isnan(result.mean_loss)
    np.testing.assert_array_equal(runtime.parameters(), before)


def test_step_seconds_leave_out_everything_else():
    """Time that the caller's own check takes is not counted as training."""

    class Slow(LogisticRegression):
        def train_step(self, batch, *, learning_rate, clip_norm):
            time.sleep(0.01)
            return super().train_step(batch, learning_rate=learning_rate, clip_norm=clip_norm)

    def dawdle():
        time.sleep(0.05)
        return False

    spec = TrainingSpec(epochs=1, learning_rate=0.1)
    began = time.perf_counter()
    result = train_locally(Slow(2), separable(4), spec, batch_size=1, seed=0, should_stop=dawdle)
    assert 0.04 <= result.step_seconds <= time.perf_counter() - began - 0.2


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (numbered(0), "no examples"),
        ({"x": np.zeros((2, 1)), "target": np.zeros(3)}, "differ in their number of rows"),
    ],
)
def test_arrays_that_cannot_be_trained_on_are_refused(arrays, message):
    """No rows, or rows that do not match, are an error and not a silent success."""
    with pytest.raises(ValueError, match=message):
        train_locally(LogisticRegression(1), arrays, SPEC, batch_size=2, seed=0)


TRIPS = Collection(
    "trips",
    {
        "distance": Field("float"),
        "mode": Field("str", optional=True),
        "place": Field("str"),
        "late": Field("bool", optional=True),
    },
)


def features(*, server):
    columns = [
        Scale(field="distance", low=0, high=10),
        OneHot(field="mode", vocabulary=("bus", "bike")),
    ]
    table = None
    if server:
        columns.append(Scale(field="rain", source="server", low=0, high=1))
        table = ServerTable(
            name="weather", key_field="place", fields=(FieldSpec(name="rain", type="float"),)
        )
    return FeatureSpec(
        collection="trips",
        fields=(
            FieldSpec(name="distance", type="float"),
            FieldSpec(name="mode", type="str", optional=True),
            FieldSpec(name="place", type="str"),
            FieldSpec(name="late", type="bool", optional=True),
        ),
        inputs=(InputSpec(tensor="x", columns=tuple(columns)),),
        label=LabelSpec(field="late"),
        server_table=table,
    )


def export(folder, *, server):
    import torch

    from pocketfl_export import export_plan

    torch.set_num_threads(1)
    torch.manual_seed(0)

    class Net(torch.nn.Module):
        def __init__(self, width):
            super().__init__()
            self.layers = torch.nn.Sequential(
                torch.nn.Linear(width, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1)
            )

        def forward(self, x):
            return self.layers(x).squeeze(-1)

    width = 5 if server else 4
    return export_plan(
        Net(width),
        torch.nn.functional.binary_cross_entropy_with_logits,
        torch.randn(8, width),
        torch.randint(0, 2, (8,)).float(),
        folder / "trips.plan",
        name="trips",
        version="1",
        signing_key=generate_signing_key(),
        privacy="none",
        aggregation=AggregationSpec(
            clip_norm=1.0, population=10, cohort_floor=1, max_rounds=5, max_participations=5
        ),
        training=TrainingSpec(epochs=2, learning_rate=0.5, max_examples=64),
        features=features(server=server),
        runtimes=("onnxruntime",),
    )


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    """A small network exported for ONNX Runtime, with device features alone."""
    return export(tmp_path_factory.mktemp("plan"), server=False)


@pytest.fixture(scope="module")
def joined_plan(tmp_path_factory):
    """The same with a server-side feature."""
    return export(tmp_path_factory.mktemp("plan"), server=True)


def trips(rows, seed=0):
    rng = np.random.default_rng(seed)
    return [
        {"distance": d, "mode": m, "place": "home", "late": bool(d > 5) != (m == "bike")}
        for d, m in zip(rng.uniform(0, 10, rows), rng.choice(["bus", "bike"], rows), strict=True)
    ]


@pytest.fixture
def store(tmp_path):
    with ExampleStore(tmp_path / "store.db") as opened:
        opened.create_collection(TRIPS)
        opened.append("trips", trips(60))
        yield opened


def test_personalisation_without_a_server(plan, store):
    """Training on the device's own examples lowers the loss of examples that were set aside."""
    with LocalTrainer(plan, store) as trainer:
        result = trainer.train(epochs=60, holdout=0.2)
        assert result.holdout_examples == 12
        assert result.training.examples == 48
        assert result.training.steps == 60 * 6
        assert result.holdout_loss_after < 0.5 * result.holdout_loss_before
        evaluation = trainer.evaluate()
        assert evaluation.examples == 60
        right = (evaluation.outputs["output"] > 0) == (evaluation.target > 0.5)
        assert right.mean() > 0.9


def test_plan_settings_are_the_default(plan, store):
    """Without arguments the plan's epochs and limit of examples hold."""
    store.append("trips", trips(100))
    with LocalTrainer(plan, store) as trainer:
        result = trainer.train()
    assert result.training.examples == 64
    assert result.training.steps == 2 * 8
    assert result.holdout_loss_before is None
    assert result.holdout_loss_after is None


def test_training_twice_alike_gives_the_same_bits(plan, store):
    """Everything random in local training hangs on the seed."""
    vectors = []
    for seed in (3, 3, 4):
        with LocalTrainer(plan, store) as trainer:
            trainer.train(holdout=0.1, seed=seed)
            vectors.append(trainer.parameters.tobytes())
    assert vectors[0] == vectors[1] != vectors[2]


def test_prediction_agrees_with_evaluation(plan, store):
    """An example as the app writes it, without label, gives the output that evaluation saw."""
    with LocalTrainer(plan, store) as trainer:
        trainer.train()
        evaluation = trainer.evaluate()
        stored = store.select("trips", limit=60, seed=0).columns
        rows = [
            {"distance": d, "mode": m, "place": "home"}
            for d, m in zip(stored["distance"], stored["mode"], strict=True)
        ]
        together = trainer.predict(rows)["output"]
        np.testing.assert_allclose(together, evaluation.outputs["output"], rtol=1e-6, atol=1e-6)
        alone = trainer.predict(rows[7])["output"]
        assert alone.shape == ()
        np.testing.assert_allclose(alone, together[7], rtol=1e-6, atol=1e-6)
        assert trainer.predict([])["output"].shape == (0,)


def test_bad_example_for_prediction_is_named(plan, store):
    """A wrong or missing field of a prediction is an error, not a guess."""
    with LocalTrainer(plan, store) as trainer:
        with pytest.raises(FeatureError, match="field 'distance', row 1: expected a value"):
            trainer.predict([{"distance": 1.0}, {"mode": "bus"}])
        with pytest.raises(FeatureError, match="field 'mode', row 0: expected text, got int"):
            trainer.predict({"distance": 1.0, "mode": 3})
        with pytest.raises(FeatureError, match="row 0: expected a mapping"):
            trainer.predict([1.0])
        with pytest.raises(ValueError, match="1 examples, but 2 times"):
            trainer.predict({"distance": 1.0}, times=[1, 2])


def test_server_features_are_joined_as_of_each_example(joined_plan, store):
    """Training and prediction see the row that was valid then; examples without one are left out."""
    store.delete("trips")
    store.append("trips", trips(20), times=[50.0] * 10 + [150.0] * 10)
    with LocalTrainer(joined_plan, store) as trainer:
        with pytest.raises(TrainingError, match="'late' and a row of server table 'weather'"):
            trainer.train()
        with pytest.raises(FeatureError, match="no row of server table 'weather' matches"):
            trainer.predict({"distance": 1.0, "place": "home"})
        rows = [
            FeatureRow(key="home", valid_from=100.0, values={"rain": 0.0}),
            FeatureRow(key="home", valid_from=200.0, values={"rain": 1.0}),
        ]
        store.put_server_features("weather", rows)
        assert trainer.train().training.examples == 10
        example = {"distance": 1.0, "place": "home"}
        dry, wet, now = (
            trainer.predict(example, times=times)["output"] for times in ([120], [220], None)
        )
        assert dry != wet
        assert now == wet


def test_missing_empty_and_unlabelled_collections_are_told_apart(plan, tmp_path):
    """Each reason why there is nothing to train on has its own message."""
    with ExampleStore(tmp_path / "a.db") as store, LocalTrainer(plan, store) as trainer:
        for call in (trainer.train, trainer.evaluate):
            with pytest.raises(StoreError, match="no collection 'trips'"):
                call()
        store.create_collection(TRIPS)
        for call in (trainer.train, trainer.evaluate):
            with pytest.raises(TrainingError, match="collection 'trips' is empty: append"):
                call()
        store.append("trips", [{"distance": 1.0, "place": "home"}] * 3)
        for call in (trainer.train, trainer.evaluate):
            with pytest.raises(
                TrainingError, match=r"none of the 3 examples .* has the label 'late'"
            ):
                call()


def test_collection_that_does_not_fit_the_plan_is_refused(plan, tmp_path):
    """The field that differs is named before anything is trained."""
    fields = {**TRIPS.fields, "distance": Field("int")}
    with ExampleStore(tmp_path / "a.db") as store, LocalTrainer(plan, store) as trainer:
        store.create_collection(Collection("trips", fields))
        with pytest.raises(FeatureError, match="field 'distance': the plan expects float"):
            trainer.train()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"holdout": 1.0}, "holdout must be"),
        ({"holdout": -0.1}, "holdout must be"),
        ({"epochs": 0}, "epochs must be"),
        ({"learning_rate": -1.0}, "learning_rate must be"),
        ({"max_examples": 0}, "max_examples must be"),
    ],
)
def test_settings_out_of_bounds_are_refused(plan, store, arguments, message):
    """A setting that makes no sense is named, and nothing is trained."""
    with LocalTrainer(plan, store) as trainer:
        before = trainer.parameters.tobytes()
        with pytest.raises(ValueError, match=message):
            trainer.train(**arguments)
        assert trainer.parameters.tobytes() == before


def test_one_example_cannot_be_held_out(plan, tmp_path):
    """Holding out the only example would leave none to train on."""
    with ExampleStore(tmp_path / "a.db") as store, LocalTrainer(plan, store) as trainer:
        store.create_collection(TRIPS)
        store.append("trips", trips(1))
        with pytest.raises(TrainingError, match="one example cannot be split"):
            trainer.train(holdout=0.5)
        assert trainer.train().training.examples == 1


def test_diverged_training_leaves_the_parameters_as_they_were(plan, store):
    """A learning rate that blows up is an error; what had been learnt before is still there."""
    with LocalTrainer(plan, store) as trainer:
        trainer.train()
        # Parameters so large that one step overflows float32.
        trainer.parameters = np.full_like(trainer.parameters, 1e30)
        before = trainer.parameters.tobytes()
        with pytest.raises(TrainingError, match="diverged"):
            trainer.train(epochs=5, learning_rate=1000.0)
        assert trainer.parameters.tobytes() == before


def test_parameters_go_in_and_out(plan, store):
    """The start may be any vector of the right length; what comes out is a copy."""
    start = np.linspace(-1, 1, plan.manifest.model.parameter_count, dtype=np.float32)
    with LocalTrainer(plan, store, parameters=start) as trainer:
        out = trainer.parameters
        np.testing.assert_array_equal(out, start)
        out[:] = 0
        np.testing.assert_array_equal(trainer.parameters, start)
    with pytest.raises(ValueError, match="shape"):
        LocalTrainer(plan, store, parameters=start[1:])


def test_personal_parameters_survive(plan, joined_plan, store):
    """What was saved is restored bit for bit, for the same plan only."""
    with LocalTrainer(plan, store) as trainer:
        assert trainer.restore() is False
        trainer.train()
        learnt = trainer.parameters
        trainer.save()
    with LocalTrainer(plan, store) as trainer:
        assert trainer.parameters.tobytes() != learnt.tobytes()
        assert trainer.restore() is True
        assert trainer.parameters.tobytes() == learnt.tobytes()
    with LocalTrainer(joined_plan, store) as other:
        before = other.parameters.tobytes()
        assert other.restore() is False
        assert other.parameters.tobytes() == before


@pytest.mark.parametrize(
    "damage",
    [
        lambda value: b"",
        lambda value: value[:40],
        lambda value: value[:-4],
        lambda value: value[:-1] + bytes([value[-1] ^ 1]),
        lambda value: b"X" + value[1:],
        lambda value: value[:20] + bytes([value[20] ^ 1]) + value[21:],
    ],
)
def test_damaged_personal_parameters_are_refused(plan, store, damage):
    """A changed byte or a lost end is noticed, and the model stays as it was."""
    with LocalTrainer(plan, store) as trainer:
        trainer.save()
        name = derived_state("trips", "personal_parameters/trips")
        value = store.database.read_state(name)
        store.database.write_state(name, damage(value))
        before = trainer.parameters.tobytes()
        with pytest.raises(StoreError, match="personal parameters of plan 'trips' are damaged"):
            trainer.restore()
        assert trainer.parameters.tobytes() == before


def test_missing_runtime_is_named(plan, store):
    """A plan without parts for a runtime says what it has."""
    with pytest.raises(RuntimeUnavailableError, match="no parts for executorch"):
        LocalTrainer(plan, store, runtime="executorch")
    with pytest.raises(RuntimeUnavailableError, match="no runtime 'tflite'"):
        LocalTrainer(plan, store, runtime="tflite")
