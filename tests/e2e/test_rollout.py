"""Rollouts over real HTTP: who gets which version, how it is taken back, and what is not believed."""

from __future__ import annotations

import itertools
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from typer.testing import CliRunner

from pocketfl.device import Device
from pocketfl.errors import ModelStoppedError, RolloutError, TransportError
from pocketfl.funnel import DayLog
from pocketfl.plan import (
    AcceptanceSpec,
    Plan,
    build_plan,
    generate_signing_key,
    load_signing_key,
    public_key_hex,
    save_signing_key,
)
from pocketfl.plan.manifest import PARAMETERS_PART
from pocketfl.rollout import Bucket, Rollout, RolloutModel
from pocketfl.runtimes import open_runtime
from pocketfl.store import Collection, ExampleStore, Field
from pocketfl_server.commands.rollout import app
from pocketfl_server.local import LocalDeployment
from pocketfl_server.optimizers import OptimizerSpec

GOLDEN = Path(__file__).parents[1] / "golden" / "plans" / "schema_2.pocketfl"
AVERAGING = OptimizerSpec(kind="sgd", learning_rate=1.0, momentum=0.0)
EXAMPLES = Collection(
    "examples", {"image": Field("tensor", shape=(1, 8, 8)), "target": Field("int")}
)


def plan_of(key: Ed25519PrivateKey, *, version: str, head: float, name: str) -> Plan:
    """The golden plan under our key, the weights of its last layer multiplied by a number."""
    golden = Plan.load(GOLDEN, trusted_keys=[GOLDEN.with_suffix(".pub").read_text().strip()])
    manifest = golden.manifest
    parameters = golden.initial_parameters().copy()
    parameters[48:] *= head
    runtimes = {"onnxruntime": manifest.runtimes["onnxruntime"]}
    parts = {p.name: golden.part(p.name) for p in manifest.parts if "executorch" not in p.name}
    return build_plan(
        name=name,
        version=version,
        privacy=manifest.privacy,
        model=manifest.model,
        training=manifest.training,
        features=manifest.features,
        aggregation=manifest.aggregation,
        dp=manifest.dp,
        acceptance=AcceptanceSpec(min_examples=20, margin=0.05),
        runtimes=runtimes,
        parts={**parts, PARAMETERS_PART: parameters.astype("<f4").tobytes()},
        signing_key=key,
    )


class Site:
    """A deployment with a model that is as good as those of tests, and a bad one, as tasks."""

    def __init__(self, running: LocalDeployment, key: Ed25519PrivateKey, folder: Path) -> None:
        self.running = running
        self.plan_key = public_key_hex(key)
        self.key_file = folder / "modeller.pem"
        self.folder = folder
        self.key = key
        self.good = plan_of(key, version="1", head=1.0, name="good")
        self.newer = plan_of(key, version="2", head=1.1, name="newer")
        self.bad = plan_of(key, version="2", head=-1.0, name="bad")
        self.plans: dict[str, Plan] = {}
        for name, plan in (("newer", self.newer), ("bad", self.bad)):
            running.operator.create_task(name, plan.data, optimizer=AVERAGING)
        self.bad_parameters = running.operator.model("bad", 0).parameters_sha256

    def create(self, task: str) -> None:
        """Make a task that serves the good model."""
        plan = plan_of(self.key, version="1", head=1.0, name=task)
        self.running.operator.create_task(task, plan.data, optimizer=AVERAGING)
        self.plans[task] = plan

    def pocketfl(self, *arguments: str) -> str:
        """Run ``pocketfl rollout``; the operator's key comes from the file."""
        if arguments[0] not in ("sign", "verify"):
            key = self.running.directory / "operator-key"
            arguments += ("--url", self.running.url, "--operator-key-file", str(key))
        result = CliRunner().invoke(app, list(arguments))
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == 0, result.output
        return result.output

    def roll_out(self, task: str, *options: str) -> str:
        """Make, sign and publish a document, as an operator does."""
        made, signed = (str(self.folder / name) for name in ("rollout.json", "rollout.signed"))
        self.pocketfl("make", task, "--out", made, *options)
        self.pocketfl("sign", made, "--key", str(self.key_file), "--out", signed)
        return self.pocketfl("publish", signed)

    def device(self, store: ExampleStore, **settings: object) -> Device:
        return Device(
            store,
            server=self.running.url,
            plan_keys=[self.plan_key],
            enrolment_key=self.running.enrolment_key,
            **settings,  # type: ignore[arg-type]
        )

    def change_database(self, sql: str, *values: object) -> None:
        """What a back end that lies would do."""
        with sqlite3.connect(self.running.directory / "back_end.db") as connection:
            connection.execute(sql, values)
        connection.close()


@pytest.fixture(scope="module")
def site(
    tmp_path_factory: pytest.TempPathFactory, modeller_key: Ed25519PrivateKey
) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("rollouts")
    save_signing_key(modeller_key, folder / "modeller.pem")
    with LocalDeployment(folder / "site", plan_keys=[public_key_hex(modeller_key)]) as running:
        yield Site(running, modeller_key, folder)


@pytest.fixture
def open_store(tmp_path: Path) -> Iterator[Callable[[str], ExampleStore]]:
    with ExitStack() as stack:
        yield lambda name: stack.enter_context(ExampleStore(tmp_path / f"{name}.db"))


@pytest.fixture
def labelled(site: Site, open_store: Callable[[str], ExampleStore]) -> ExampleStore:
    """A device whose examples are all as the good model says."""
    store = open_store("labelled")
    store.create_collection(EXAMPLES)
    images = np.random.default_rng(5).normal(size=(48, 1, 8, 8)).astype(np.float32)
    with ExitStack() as stack:
        runtime = open_runtime(site.good, "onnxruntime")
        stack.callback(runtime.close)
        scores = runtime.predict({"image": images})["output"]
    targets = scores.argmax(axis=1)
    store.append(
        "examples",
        [{"image": image, "target": int(t)} for image, t in zip(images, targets, strict=True)],
    )
    return store


def counts(store: ExampleStore) -> dict[tuple[str, str], int]:
    log = DayLog(store.database, clock=time.time)
    # Midnight may have come meanwhile.
    days = sorted({log.day_of(time.time() - 86_400), log.day_of(time.time())})
    found: Counter[tuple[str, str]] = Counter()
    for day in days:
        found.update({(e.phase, e.reason): n for e, n in log.counts(day).items()})
    return dict(found)


def test_a_tenth_gets_the_canary_and_all_go_back_at_their_next_look(
    site: Site, open_store: Callable[[str], ExampleStore]
) -> None:
    """Each device by its own bucket, a tester's by its channel; the server is told of neither."""
    site.create("visits")
    stores = [open_store(f"device{number}") for number in range(20)]
    tester = open_store("tester")
    # Under this salt exactly two of the twenty are among the first tenth.
    salt = next(
        salt
        for salt in map(str, itertools.count())
        if sum(Bucket(store.database).of("visits", salt=salt) < 0.1 for store in stores) == 2
    )
    site.roll_out(
        "visits", "--stable", "0", "--canary", "0", "--canary-task", "newer", "--percent", "10",
        "--salt", salt,
    )  # fmt: skip

    def look() -> list[str]:
        found = []
        for store in [*stores, tester]:
            with site.device(store, channel="canary" if store is tester else "stable") as device:
                model = device.refresh_model(task="visits")
                assert model is not None
                found.append(model.plan_sha256)
                assert device.predict({"image": np.ones((1, 8, 8), np.float32)}, task="visits")
        return found

    expected = [
        site.newer.sha256
        if Bucket(store.database).of("visits", salt=salt) < 0.1
        else site.plans["visits"].sha256
        for store in stores
    ]
    assert look() == [*expected, site.newer.sha256]
    assert expected.count(site.newer.sha256) == 2
    assert counts(tester) == {("deployed", "canary"): 1}
    site.pocketfl("back", "visits", "--to", "0", "--key", str(site.key_file))
    assert set(look()) == {site.plans["visits"].sha256}
    assert counts(tester) == {("deployed", "canary"): 1, ("deployed", "rollback"): 1}
    secret = tester.database.read_state("rollout.bucket")
    held = b"".join(path.read_bytes() for path in site.running.directory.iterdir())
    assert secret is not None
    assert secret not in held and secret.hex().encode() not in held
    assert "version 0 for everybody at once" in site.pocketfl("show", "visits")


def test_the_gate_keeps_the_version_that_a_device_s_own_examples_prefer(
    site: Site, labelled: ExampleStore
) -> None:
    """A version that loses on them is refused, once; one that does not lose comes in."""
    site.create("walks")
    site.roll_out("walks", "--stable", "0")
    with site.device(labelled) as device:
        first = device.refresh_model(task="walks")
        site.roll_out("walks", "--stable", "0", "--stable-task", "bad")
        for _ in range(2):
            assert device.refresh_model(task="walks") == first
        (deployment,) = device.deployments
        assert deployment.model == first
        assert deployment.refused is not None and deployment.refused.task == "bad"
    expected = {("deployed", "stable"): 1, ("refused", "worse"): 1}
    assert counts(labelled) == expected
    with site.device(labelled) as device:
        assert [info.model for info in device.deployments] == [first]
        site.roll_out("walks", "--stable", "0", "--stable-task", "newer")
        model = device.refresh_model(task="walks")
        assert model is not None and model.plan_sha256 == site.newer.sha256
    assert counts(labelled) == {**expected, ("deployed", "stable"): 2}


def test_the_kill_switch_and_the_oldest_plan_hold_without_a_network(
    site: Site, labelled: ExampleStore
) -> None:
    """Nothing is predicted or trained with a stopped model, until a later document says otherwise."""
    site.create("rides")
    site.roll_out("rides", "--stable", "0")
    example = {"image": np.ones((1, 8, 8), np.float32)}
    site.running.operator.open_round("rides", seconds=600)
    with site.device(labelled) as device:
        device.refresh_model(task="rides")
        assert device.predict(example)
        site.pocketfl("stop", "rides", "--reason", "wrong labels", "--key", str(site.key_file))
        with pytest.raises(ModelStoppedError, match="wrong labels"):
            device.refresh_model()
    with Device(labelled, server="http://127.0.0.1:9", plan_keys=[site.plan_key]) as offline:
        with pytest.raises(ModelStoppedError, match="wrong labels"):
            offline.predict(example)
        assert offline.deployments[0].stopped == "wrong labels"
    with site.device(labelled) as device:
        assert device.run_once(task="rides").code == "model_stopped"
        site.roll_out("rides", "--stable", "0", "--minimum-plan-version", "2")
        with pytest.raises(ModelStoppedError, match="2 is the oldest"):
            device.refresh_model()
        site.roll_out("rides", "--stable", "0")
        device.refresh_model()
        assert device.predict(example)
    site.running.operator.abort_round("rides", 1)


def test_a_back_end_can_neither_replay_a_document_nor_make_one(
    site: Site, open_store: Callable[[str], ExampleStore]
) -> None:
    """What was in use stays in use, and the attempt is counted."""
    site.create("runs")
    site.roll_out("runs", "--stable", "0", "--stable-task", "bad")
    site.roll_out("runs", "--stable", "0")
    store = open_store("device")
    with site.device(store) as device:
        used = device.refresh_model(task="runs")
        # The real server, whose database an attacker has changed: the latest document is gone.
        site.change_database("DELETE FROM rollouts WHERE task = 'runs' AND sequence = 2")
        with pytest.raises(RolloutError, match="this device has seen 2"):
            device.refresh_model(task="runs")
        model = RolloutModel(
            version=0, plan_sha256=site.bad.sha256, parameters_sha256=site.bad_parameters
        )
        forged = Rollout(task="runs", sequence=9, stable=model).sign(generate_signing_key())
        with pytest.raises(TransportError, match="which is not trusted"):
            site.running.operator.publish_rollout("runs", forged)
        digest = sha256(forged).hexdigest()
        site.change_database("INSERT INTO blobs VALUES ('rollout', ?, ?)", digest, forged)
        site.change_database("INSERT INTO rollouts VALUES ('runs', 9, ?, 0)", digest)
        with pytest.raises(RolloutError, match="which is not trusted"):
            device.refresh_model(task="runs")
        assert [info.model for info in device.deployments] == [used]
    assert counts(store) == {("deployed", "stable"): 1, ("error", "trust"): 2}
    site.change_database("DELETE FROM rollouts WHERE task = 'runs'")


def test_the_back_end_keeps_an_operator_s_mistakes_from_devices(site: Site) -> None:
    """Numbers count up, versions exist, parts are theirs; the same document again is no mistake."""
    site.create("swims")
    key = load_signing_key(site.key_file)
    right = RolloutModel(
        version=0,
        plan_sha256=site.plans["swims"].sha256,
        parameters_sha256=site.running.operator.model("swims", 0).parameters_sha256,
    )
    first = Rollout(task="swims", sequence=1, stable=right)
    publish = site.running.operator.publish_rollout
    assert publish("swims", first.sign(key)) == publish("swims", first.sign(key))
    for changes, message in (
        ({"salt": "x"}, "number 1 is published"),
        ({"sequence": 2, "stable": replace(right, version=7)}, "has no model version 7"),
        ({"sequence": 2, "stable": replace(right, plan_sha256="a" * 64)}, "has other parts"),
        ({"sequence": 2, "task": "runs"}, "not of 'swims'"),
    ):
        with pytest.raises(TransportError, match=message):
            publish("swims", replace(first, **changes).sign(key))
    assert len(site.running.operator.rollouts("swims")) == 1
