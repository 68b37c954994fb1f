"""Questions to real devices over real HTTP: right answers, nobody told apart, nothing else revealed."""

from __future__ import annotations

import secrets
import struct
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pocketfl.attestation import AttestedAggregator
from pocketfl.device import Device, RoundOutcome
from pocketfl.features.transforms import FieldSpec
from pocketfl.plan import (
    AggregationSpec,
    BudgetSpec,
    DifferentialPrivacySpec,
    Plan,
    public_key_hex,
)
from pocketfl.protocol import Assignment, CheckIn, EnrolmentRequest
from pocketfl.queries import Histogram, Quantiles, QuerySet, ScoreHistogram, label_histogram
from pocketfl.queries.plans import write_analytics_plan, write_evaluation_plan
from pocketfl.reports import SealedReport, encode_vector, make_report
from pocketfl.sealing import ReportContext, seal
from pocketfl.store import ExampleStore
from pocketfl.transport import HttpTransport
from pocketfl_server.local import LocalDeployment
from pocketfl_server.optimizers import OptimizerSpec

DEVICES = 12
FEW = AggregationSpec(
    clip_norm=1.0, population=DEVICES, cohort_floor=DEVICES, max_rounds=5, max_participations=5
)
FIELDS = (
    FieldSpec(name="place", type="str"),
    FieldSpec(name="minutes", type="float"),
    FieldSpec(name="rating", type="float"),
)
PERSON = BudgetSpec(name="person", epsilon=2.5, delta=1e-5)
LABELS = BudgetSpec(name="labels", epsilon=2.5, delta=1e-5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All that the servers write; one deployment serves every test, each with tasks of its own."""
    return tmp_path_factory.mktemp("server")


@pytest.fixture(scope="module")
def site(folder: Path, modeller_key: Ed25519PrivateKey) -> Iterator[LocalDeployment]:
    with LocalDeployment(folder, plan_keys=[public_key_hex(modeller_key)]) as running:
        yield running


@pytest.fixture
def ask(tmp_path: Path, modeller_key: Ed25519PrivateKey) -> Callable[..., Plan]:
    """Writes analytics plans over the visits."""

    def write(name: str, *queries: object, **changes: object) -> Plan:
        arguments: dict[str, object] = {
            "collection": "visits",
            "fields": FIELDS,
            "queries": QuerySet(queries=queries, upload_delay_seconds=0.0),  # type: ignore[arg-type]
            "aggregation": FEW,
            "dp": DifferentialPrivacySpec(noise_multiplier=3.0, epsilon=20.0, delta=1e-5),
            "signing_key": modeller_key,
        }
        return write_analytics_plan(
            tmp_path / f"{name}.plan", name=name, version="1", **{**arguments, **changes}
        )

    return write


def run_devices(
    site: LocalDeployment, stores: list[ExampleStore], plan: Plan, *, url: str | None = None
) -> list[RoundOutcome]:
    outcomes = []
    for number, store in enumerate(stores):
        with Device(
            store,
            server=url or site.url,
            plan_keys=[plan.signed_by],
            aggregator=AttestedAggregator.development(site.attestation_key),
            enrolment_key=site.enrolment_key,
            user=f"user{number}",
        ) as device:
            outcomes.append(device.run_once())
    assert {(o.status, o.reason) for o in outcomes} == {("completed", outcomes[0].reason)}
    return outcomes


def test_a_fleet_counts_its_labels_and_nobody_is_told_apart(
    site: LocalDeployment,
    exported: Plan,
    ask: Callable[..., Plan],
    open_store: Callable[..., ExampleStore],
    wire_tap: Callable[[str], object],
    search: Callable[[bytes, set[bytes]], set[bytes]],
    folder: Path,
    tmp_path: Path,
) -> None:
    """Twelve devices, three of them without an example and one without the collection.

    The noised counts are those of the nine with data (six standard deviations of the noise are left
    less than once in 10**8 runs); every report has one length; and what an example holds, down to a
    category that nobody asked about, is neither on the wire nor in anything that a server wrote.
    """
    label = exported.manifest.features.label
    assert label is not None
    places = Histogram(
        name="places", share=0.8, field="place", categories=("home", "shop"), other=True
    )
    plan = ask("labels", label_histogram(label, share=0.6), places, budget=LABELS)
    markers: set[bytes] = set()
    stores = []
    for number in range(DEVICES - 4):
        place = f"CANARY-{secrets.token_hex(12)}"
        minutes = 100.0 + secrets.randbelow(10**12) / 1e10
        markers |= {place.encode(), struct.pack("<d", minutes), repr(minutes).encode()}
        low = {"place": "home", "minutes": minutes, "rating": 1.0}
        high = {"place": place, "minutes": minutes, "rating": 4.0}
        stores.append(open_store(f"d{number}", [low, low, high, high] if number else [low]))
    stores += [open_store(f"empty{number}", []) for number in range(3)]
    bare = ExampleStore(tmp_path / "bare.db")
    stores.append(bare)
    tap = wire_tap(site.url)
    site.operator.create_task("labels", plan.data)
    site.operator.open_round("labels", seconds=600)
    outcomes = run_devices(site, stores, plan, url=tap.url)
    bare.close()
    # The first one made its connection's costs; sizes do not tell the others apart.
    assert len({outcome.bytes_up for outcome in outcomes[1:]}) <= 2
    receipts = []
    for store, outcome in zip(stores[:-1], outcomes, strict=False):
        with Device(store, server=site.url, plan_keys=[plan.signed_by]) as device:
            (receipt,) = device.receipts.audit().receipts
            receipts.append((receipt.kind, receipt.report_bytes, receipt.outcome))
            assert device.ledger.privacy(delta=1e-5).epsilon > 0
            assert outcome.code == "reported"
    assert set(receipts) == {("statistics", receipts[0][1], "accepted")}
    site.operator.close_round("labels", 1)
    result = site.operator.result("labels", 1)
    assert result.reports == DEVICES
    labels, found = result.find("label"), result.find("places")
    assert labels.noise_std == pytest.approx(3.0 / 0.6)
    assert np.abs(np.array(labels.values) - [4.5, 3.5]).max() < 6 * labels.noise_std
    assert np.abs(np.array(found.values) - [4.5, 0, 3.5]).max() < 6 * found.noise_std
    assert np.abs(np.array(found.values) - [4.5, 0, 3.5]).max() > 1e-3
    assert site.operator.privacy("labels").budget == result.budget
    files = b"\n".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    assert site.operator_key.encode() in files
    assert not search(files, markers)
    assert not search(tap.recorded(), markers)


def test_training_and_statistics_share_what_a_person_may_lose(
    site: LocalDeployment,
    plan_with: Callable[..., Plan],
    ask: Callable[..., Plan],
    open_store: Callable[..., ExampleStore],
) -> None:
    """Two releases, of a model and of counts, use the budget up; the third is not made, and says why.

    A plan that would widen the budget is refused as a whole.
    """
    stores = [
        open_store(f"d{n}", [{"place": "home", "minutes": 1.0, "rating": 2.0}])
        for n in range(DEVICES)
    ]
    trained = plan_with(name="training", aggregation=FEW, budget=PERSON)
    counted = ask(
        "minutes",
        Quantiles(name="minutes", field="minutes", low=0.0, high=10.0, branching=4, levels=1),
        budget=PERSON,
    )
    site.operator.create_task(
        "training", trained.data, optimizer=OptimizerSpec(kind="sgd", learning_rate=1.0)
    )
    site.operator.create_task("minutes", counted.data)
    for task, plan in (("training", trained), ("minutes", counted), ("training", trained)):
        site.operator.open_round(task, seconds=600)
        run_devices(site, stores, plan)
        number = site.operator.rounds(task)[-1].round
        ended = site.operator.close_round(task, number)
    assert (ended.state, ended.reason) == ("aborted", "budget_exhausted")
    assert site.operator.task("training").finished_reason == "budget_exhausted"
    account = site.operator.privacy("minutes").budget
    assert account is not None and account.releases == {"minutes": 1, "training": 1}
    assert 1.5 < account.spent <= PERSON.epsilon
    wider = ask(
        "wider",
        Histogram(name="q", field="minutes", boundaries=(1.0,)),
        budget=BudgetSpec(name="person", epsilon=99.0, delta=1e-5),
    )
    from pocketfl.errors import TransportError

    with pytest.raises(TransportError) as refusal:
        site.operator.create_task("wider", wider.data)
    assert refusal.value.code == "budget_conflict"


def test_an_answer_above_its_bound_is_left_out_by_the_trusted_tier(
    site: LocalDeployment,
    ask: Callable[..., Plan],
    open_store: Callable[..., ExampleStore],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A manipulated device that answers with more than one vote has none."""
    query = Histogram(name="q", field="rating", boundaries=(2.0,))
    plan = ask("votes", query, dp=None)
    from pocketfl.device import DeviceLimits

    stores = [
        open_store(f"d{n}", [{"place": "x", "minutes": 1.0, "rating": 1.0}]) for n in range(DEVICES)
    ]
    site.operator.create_task("votes", plan.data)
    notice = site.operator.open_round("votes", seconds=600)
    transport = HttpTransport(site.url)
    token = transport.enrol(site.enrolment_key, EnrolmentRequest(user="liar", sdk="1")).token
    answer = transport.check_in(
        token, "votes", notice.round, CheckIn(sdk="1", plan_schemas=(2,), runtimes=())
    )
    assert isinstance(answer, Assignment)
    context = ReportContext(
        key_id=answer.aggregator.key_id,
        policy_hash=plan.manifest.policy_hash,
        plan_sha256=plan.sha256,
        task=answer.task,
        round=answer.round,
        model_version=answer.model_version,
        lease=answer.lease,
    )
    public_key = bytes.fromhex(answer.aggregator.public_key)
    honest = make_report(np.array([0.0, 1.0]), plan=plan, context=context, public_key=public_key)
    many = np.full(2, plan.manifest.aggregation.norm_bound, dtype=np.int16)
    forged = seal(public_key, info=context.info(), plaintext=encode_vector(many))
    monkeypatch.setattr(SealedReport, "data", property(lambda _: forged))
    monkeypatch.setattr(SealedReport, "sha256", property(lambda _: sha256(forged).hexdigest()))
    transport.upload(answer.lease, honest)
    transport.close()
    monkeypatch.undo()
    for number, store in enumerate(stores):
        with Device(
            store,
            server=site.url,
            plan_keys=[plan.signed_by],
            aggregator=AttestedAggregator.development(site.attestation_key),
            enrolment_key=site.enrolment_key,
            user=f"user{number}",
            limits=DeviceLimits(allow_unprotected=True),
        ) as device:
            assert device.run_once().status == "completed"
    site.operator.close_round("votes", 1)
    funnel = site.operator.funnel("votes", 1)
    assert (funnel.accepted, funnel.rejected) == (DEVICES, {"norm_above_bound": 1})
    assert site.operator.result("votes", 1).find("q").values == pytest.approx((12.0, 0.0), abs=0.01)


def test_a_model_is_judged_on_devices_as_it_would_be_at_home(
    site: LocalDeployment,
    exported: Plan,
    open_store: Callable[..., ExampleStore],
    tmp_path: Path,
    modeller_key: Ed25519PrivateKey,
) -> None:
    """The released score histogram, without noise, is the one of all examples with the same weights."""
    from pocketfl.device import DeviceLimits
    from pocketfl.features.loading import load_arrays
    from pocketfl.features.pipeline import FeaturePipeline
    from pocketfl.runtimes import open_runtime

    plan = write_evaluation_plan(
        tmp_path / "evaluation.plan",
        trained_by=exported,
        name="evaluation",
        version="1",
        queries=QuerySet(
            queries=(
                ScoreHistogram(name="scores", output="output", activation="sigmoid", bins=16),
            ),
            upload_delay_seconds=0.0,
        ),
        aggregation=FEW,
        dp=None,
        signing_key=modeller_key,
    )
    generator = np.random.default_rng(5)
    stores = [
        open_store(
            f"d{n}",
            [
                {"place": "home", "minutes": float(m), "rating": float(r)}
                for m, r in generator.uniform(0, [600, 5], (int(generator.integers(0, 30)), 2))
            ],
        )
        for n in range(DEVICES)
    ]
    site.operator.create_task(
        "visits", exported.data, optimizer=OptimizerSpec(kind="sgd", learning_rate=1.0)
    )
    site.operator.create_task("evaluation", plan.data, seed_model=("visits", 0))
    site.operator.open_round("evaluation", seconds=600)
    expected = np.zeros((2, 16))
    pipeline = FeaturePipeline(exported.manifest.features, model=exported.manifest.model)
    runtime = open_runtime(exported, "onnxruntime")
    for number, store in enumerate(stores):
        arrays = load_arrays(store, pipeline, limit=10_000, seed=0)
        target = arrays.pop("target")
        if len(target):
            logits = runtime.predict(arrays)["output"].astype(np.float64)
            for label in (0, 1):
                counts, _ = np.histogram(
                    1 / (1 + np.exp(-logits[target == label])), bins=16, range=(0, 1)
                )
                expected[label] += counts / len(target)
        with Device(
            store,
            server=site.url,
            plan_keys=[plan.signed_by],
            aggregator=AttestedAggregator.development(site.attestation_key),
            enrolment_key=site.enrolment_key,
            user=f"user{number}",
            limits=DeviceLimits(allow_unprotected=True),
        ) as device:
            assert device.run_once().status == "completed"
            # What was evaluated is not what the app predicts with.
            assert device.models == ()
    runtime.close()
    site.operator.close_round("evaluation", 1)
    found = np.array(site.operator.result("evaluation", 1).find("scores").values)
    assert found == pytest.approx(expected.ravel(), abs=0.01)
