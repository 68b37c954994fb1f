"""A small signed plan with real ONNX graphs, and a back end in memory that can misbehave."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from hashlib import sha256

import numpy as np
import onnx
import onnx.parser
import pytest

from pocketfl.budgets import Budgets
from pocketfl.conditions import ConditionSpec, Signals, Thermal
from pocketfl.device import Device
from pocketfl.errors import TransportError
from pocketfl.features.transforms import (
    FeatureSpec,
    FieldSpec,
    InputSpec,
    LabelSpec,
    Scale,
    ServerTable,
    Tensor,
)
from pocketfl.plan import (
    AdaptiveClippingSpec,
    AggregationSpec,
    DifferentialPrivacySpec,
    EligibilitySpec,
    ModelSpec,
    ParameterSpec,
    Plan,
    RuntimeSpec,
    TensorSpec,
    TrainingSpec,
    build_plan,
    generate_signing_key,
    public_key_hex,
)
from pocketfl.plan.manifest import PARAMETERS_PART
from pocketfl.protocol import (
    AggregatorKey,
    Assignment,
    CheckIn,
    Enrolment,
    EnrolmentRequest,
    FeaturePage,
    FeatureRow,
    Notices,
    Pause,
    ReportReceipt,
    RetryWindow,
    RoundNotice,
)
from pocketfl.reports import SealedReport, decode_vector
from pocketfl.sealing import (
    PinnedAggregator,
    ReportContext,
    generate_key_pair,
    key_id,
    open_sealed,
)
from pocketfl.store import Collection, ExampleStore, Field
from pocketfl.transport import Traffic

NOW = 1_800_000_000.0
BATCH = 4
HOUR, DAY = 3600.0, 86_400.0
GOOD = Signals(
    battery_level=0.9,
    charging=True,
    thermal=Thermal.NONE,
    metered=False,
    idle=True,
    power_save=False,
    free_storage_bytes=2**34,
    free_memory_bytes=2**33,
)


class Phone:
    """A device's state that a test changes; may be asked by one thread at a time only."""

    def __init__(self, **changes) -> None:
        self.signals = replace(GOOD, **changes)
        self.asked = 0

    def read(self) -> Signals:
        self.asked += 1
        if isinstance(self.signals, Exception):
            raise self.signals
        return self.signals


class Clock:
    """Unix time that moves only when told to."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


COLLECTION = Collection(
    "trips", {"x": Field("tensor", shape=(2,)), "place": Field("str"), "y": Field("float")}
)

# Least squares over the inputs and a constant 1: prediction = [x, 1] . parameters.
GRAPHS = {
    "train": """
<ir_version: 8, opset_import: ["" : 17]>
train (float[{p}] parameters, float[4,{n}] x, float[4] target, float[4] weight,
       float learning_rate, float clip_norm)
   => (float[{p}] new_parameters, float loss, float gradient_norm)
<float[4,1] ones = {{1, 1, 1, 1}}, float two = {{2}}, float one = {{1}}, float tiny = {{0.000001}},
 int64[1] last = {{1}}>
{{
  rows = Concat<axis = 1>(x, ones)
  predicted = MatMul(rows, parameters)
  difference = Sub(predicted, target)
  total = ReduceSum<keepdims = 0>(weight)
  square = Mul(difference, difference)
  weighted = Mul(square, weight)
  summed = ReduceSum<keepdims = 0>(weighted)
  loss = Div(summed, total)
  scaled = Mul(difference, weight)
  doubled = Mul(scaled, two)
  slope = Div(doubled, total)
  turned = Transpose(rows)
  column = Unsqueeze(slope, last)
  gradients = MatMul(turned, column)
  gradient = Squeeze(gradients, last)
  gradient_norm = ReduceL2<keepdims = 0>(gradient)
  bounded = Add(gradient_norm, tiny)
  ratio = Div(clip_norm, bounded)
  factor = Min(one, ratio)
  rate = Mul(learning_rate, factor)
  change = Mul(rate, gradient)
  new_parameters = Sub(parameters, change)
}}""",
    "evaluate": """
<ir_version: 8, opset_import: ["" : 17]>
evaluate (float[{p}] parameters, float[4,{n}] x, float[4] target, float[4] weight)
   => (float loss, float[4] output)
<float[4,1] ones = {{1, 1, 1, 1}}>
{{
  rows = Concat<axis = 1>(x, ones)
  output = MatMul(rows, parameters)
  difference = Sub(output, target)
  square = Mul(difference, difference)
  weighted = Mul(square, weight)
  summed = ReduceSum<keepdims = 0>(weighted)
  total = ReduceSum<keepdims = 0>(weight)
  loss = Div(summed, total)
}}""",
    "predict": """
<ir_version: 8, opset_import: ["" : 17]>
predict (float[{p}] parameters, float[4,{n}] x) => (float[4] output)
<float[4,1] ones = {{1, 1, 1, 1}}>
{{
  rows = Concat<axis = 1>(x, ones)
  output = MatMul(rows, parameters)
}}""",
}


def make_plan(
    signing_key,
    *,
    version: str = "1",
    privacy: str = "gaussian",
    noise_multiplier: float = 1.0,
    sampling_probability: float = 1.0,
    max_participations: int = 50,
    min_examples: int = 1,
    joins: bool = False,
    clip_norm: float = 0.5,
    learning_rate: float = 0.05,
    initial: float = 0.0,
    conditions: ConditionSpec | None = None,
    budgets: Budgets | None = None,
    label: LabelSpec | None = None,
    adaptive: AdaptiveClippingSpec | None = None,
) -> Plan:
    """Make a plan for :data:`COLLECTION`: two inputs, or three with the joined one."""
    inputs = 3 if joins else 2
    columns: tuple = (Tensor(field="x"),)
    table = None
    if joins:
        columns += (Scale(field="rain", low=0.0, high=10.0, source="server"),)
        table = ServerTable(
            name="weather",
            key_field="place",
            fields=(FieldSpec(name="rain", type="float"),),
        )
    parts = {
        f"onnxruntime/{name}.onnx": onnx.parser.parse_model(
            text.format(p=inputs + 1, n=inputs)
        ).SerializeToString()
        for name, text in GRAPHS.items()
    }
    parts[PARAMETERS_PART] = np.full(inputs + 1, initial, dtype="<f4").tobytes()
    return build_plan(
        name="trips",
        version=version,
        privacy=privacy,
        model=ModelSpec(
            parameters=(ParameterSpec(name="weight", shape=(inputs + 1,), offset=0),),
            inputs=(TensorSpec(name="x", dtype="float32", shape=(inputs,)),),
            target=TensorSpec(name="target", dtype="float32"),
            outputs=(TensorSpec(name="output", dtype="float32"),),
            batch_size=BATCH,
        ),
        training=TrainingSpec(epochs=2, max_examples=40, learning_rate=learning_rate),
        features=FeatureSpec(
            collection="trips",
            fields=(
                FieldSpec(name="x", type="tensor", shape=(2,)),
                FieldSpec(name="place", type="str"),
                FieldSpec(name="y", type="float"),
            ),
            inputs=(InputSpec(tensor="x", columns=columns),),
            label=label or LabelSpec(field="y"),
            server_table=table,
        ),
        aggregation=AggregationSpec(
            clip_norm=clip_norm,
            sampling_probability=sampling_probability,
            population=1000,
            cohort_floor=1,
            max_rounds=100,
            max_participations=max_participations,
            adaptive=adaptive,
        ),
        dp=DifferentialPrivacySpec(noise_multiplier=noise_multiplier, epsilon=8.0, delta=1e-5)
        if privacy != "none"
        else None,
        eligibility=EligibilitySpec(
            min_examples=min_examples,
            conditions=conditions if conditions is not None else ConditionSpec(),
            budgets=budgets if budgets is not None else Budgets(),
        ),
        runtimes={
            "onnxruntime": RuntimeSpec(
                train="onnxruntime/train.onnx",
                evaluate="onnxruntime/evaluate.onnx",
                predict="onnxruntime/predict.onnx",
                minimum_version="1.22.0",
                opset=17,
            )
        },
        parts=parts,
        signing_key=signing_key,
    )


@dataclass
class MemoryBackEnd:
    """Implements the transport in memory. Tests replace its attributes to make it misbehave."""

    plan_data: bytes
    plan_sha256: str
    policy_hash: str
    parameters_data: bytes
    private_key: bytes
    public_key: bytes
    round: int = 1
    model_version: int = 0
    task: str = "trips"
    closes_at: float = NOW + 600
    clip_norm: float | None = None
    lease_seconds: float = 600
    assignment_changes: dict = field(default_factory=dict)
    answer_instead: RetryWindow | None = None
    failures: dict[str, Exception] = field(default_factory=dict)
    before: dict[str, Callable[[], None]] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    enrolments: list[tuple[str, EnrolmentRequest]] = field(default_factory=list)
    check_ins: list[tuple[str, CheckIn]] = field(default_factory=list)
    reports: dict[str, bytes] = field(default_factory=dict)
    feature_pages: list[FeaturePage] = field(default_factory=list)
    feature_cursors: list[str | None] = field(default_factory=list)
    other_notices: tuple[RoundNotice, ...] = ()
    pauses: tuple[Pause, ...] = ()
    has_rounds: bool = True
    leases: itertools.count = field(default_factory=itertools.count)

    @classmethod
    def serving(cls, plan: Plan, **changes) -> MemoryBackEnd:
        private, public = generate_key_pair()
        return cls(
            plan_data=plan.data,
            plan_sha256=plan.sha256,
            policy_hash=plan.manifest.policy_hash,
            parameters_data=plan.initial_parameters().astype("<f4").tobytes(),
            private_key=private,
            public_key=public,
            **changes,
        )

    def announce(self, plan: Plan) -> None:
        """Serve another plan from now on."""
        self.plan_data, self.plan_sha256 = plan.data, plan.sha256
        self.policy_hash = plan.manifest.policy_hash
        self.parameters_data = plan.initial_parameters().astype("<f4").tobytes()

    def _called(self, name: str) -> None:
        self.calls.append(name)
        if name in self.before:
            self.before[name]()
        if name in self.failures:
            raise self.failures[name]

    @property
    def parameters_sha256(self) -> str:
        return sha256(self.parameters_data).hexdigest()

    @property
    def notice(self) -> RoundNotice:
        return RoundNotice(
            task=self.task,
            round=self.round,
            plan_sha256=self.plan_sha256,
            parameters_sha256=self.parameters_sha256,
            model_version=self.model_version,
            closes_at=self.closes_at,
            clip_norm=self.clip_norm,
        )

    # The transport.

    def enrol(self, enrolment_key: str, request: EnrolmentRequest) -> Enrolment:
        self._called("enrol")
        self.enrolments.append((enrolment_key, request))
        return Enrolment(token=f"device-token-{len(self.enrolments):08}")

    def notices(self) -> Notices:
        self._called("notices")
        return Notices(
            notices=(*self.other_notices, *([self.notice] if self.has_rounds else [])),
            pauses=self.pauses,
        )

    def check_in(self, token, task, round, request) -> Assignment | RetryWindow:  # noqa: A002
        self._called("check_in")
        self.check_ins.append((token, request))
        if self.answer_instead is not None:
            return self.answer_instead
        assignment = Assignment(
            lease=f"lease-{next(self.leases):016}",
            expires_at=NOW + self.lease_seconds,
            task=task,
            round=round,
            model_version=self.model_version,
            plan_sha256=self.plan_sha256,
            parameters_sha256=self.parameters_sha256,
            aggregator=AggregatorKey(
                key_id=key_id(self.public_key), public_key=self.public_key.hex()
            ),
        )
        return replace(assignment, **self.assignment_changes)

    def plan(self, sha256: str, *, watch=None) -> bytes:
        self._called("plan")
        return self.plan_data

    def parameters(self, sha256: str, *, watch=None) -> bytes:
        self._called("parameters")
        return self.parameters_data

    def upload(self, lease: str, report: SealedReport) -> ReportReceipt:
        self._called("upload")
        self.reports[lease] = report.data
        if "after_upload" in self.failures:
            raise self.failures["after_upload"]
        return ReportReceipt(lease=lease, sha256=report.sha256)

    def features(self, token: str, table: str, cursor: str | None) -> FeaturePage:
        self._called("features")
        self.feature_cursors.append(cursor)
        return self.feature_pages[min(len(self.feature_cursors), len(self.feature_pages)) - 1]

    @property
    def traffic(self) -> Traffic:
        calls = len(self.calls)
        return Traffic(bytes_up=100 * calls, bytes_down=1000 * calls, requests=calls)

    def close(self) -> None:
        self._called("close")

    # The trusted tier.

    def open_report(self, lease: str, plan: Plan, **changes) -> np.ndarray:
        """Open a report as the trusted tier does, and return it in the model's units."""
        context = ReportContext(
            **{
                "key_id": key_id(self.public_key),
                "policy_hash": self.policy_hash,
                "plan_sha256": self.plan_sha256,
                "task": self.task,
                "round": self.round,
                "model_version": self.model_version,
                "lease": lease,
                **changes,
            }
        )
        plaintext = open_sealed(self.private_key, info=context.info(), sealed=self.reports[lease])
        length = plan.manifest.model.parameter_count
        return decode_vector(plaintext, length=length) * plan.manifest.aggregation.grid_step


def unreachable() -> TransportError:
    return TransportError("no route to the server", code="unreachable", retryable=True)


def rain(place: str, valid_from: float, millimetres: float) -> FeatureRow:
    return FeatureRow(key=place, valid_from=valid_from, values={"rain": millimetres})


@pytest.fixture(scope="session")
def signing_key():
    return generate_signing_key()


@pytest.fixture(scope="session")
def plan(signing_key) -> Plan:
    return make_plan(signing_key)


@pytest.fixture
def back_end(plan) -> MemoryBackEnd:
    return MemoryBackEnd.serving(plan)


@pytest.fixture
def store(tmp_path):
    with ExampleStore(tmp_path / "device.db") as opened:
        opened.create_collection(COLLECTION)
        generator = np.random.default_rng(7)
        xs = generator.normal(size=(20, 2)).astype(np.float32)
        opened.append(
            "trips",
            [
                {"x": x, "place": "JFK" if x[0] > 0 else "LGA", "y": float(x[0] - 2 * x[1] + 0.5)}
                for x in xs
            ],
            times=[NOW - 1000 + i for i in range(20)],
        )
        yield opened


@pytest.fixture
def make_device(store, back_end, signing_key):
    """Make a device that trusts the plan's key and the back end's trusted tier."""
    made = []

    def make(**changes) -> Device:
        settings = {
            "server": back_end,
            "plan_keys": [public_key_hex(signing_key)],
            "aggregator": PinnedAggregator(back_end.public_key.hex()),
            "enrolment_key": "enrolment-key-for-tests",
            "user": "u1",
            "seed": 1,
            "clock": lambda: NOW,
            "store": store,
            **changes,
        }
        device = Device(settings.pop("store"), **settings)
        made.append(device)
        return device

    yield make
    for device in made:
        device.close()
