"""Times the trusted tier's own way from the ledger to the sum, and the least that it could take."""

from __future__ import annotations

import secrets
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from numpy.typing import NDArray

from pocketfl.clipping import squared_norm
from pocketfl.features.transforms import FeatureSpec, FieldSpec, InputSpec, LabelSpec, Tensor
from pocketfl.plan import (
    AggregationSpec,
    DifferentialPrivacySpec,
    EncodingSpec,
    ModelSpec,
    ParameterSpec,
    Plan,
    RuntimeSpec,
    TensorSpec,
    TrainingSpec,
    build_plan,
    generate_signing_key,
)
from pocketfl.plan.manifest import PARAMETERS_PART
from pocketfl.reports import encode_vector
from pocketfl.sealing import ReportContext, key_id, seal
from pocketfl_server.trusted.aggregator import Aggregator
from pocketfl_server.trusted.ledger import Ledger
from pocketfl_server.trusted.messages import SealedEntry
from pocketfl_server.trusted.summing import PartialSum, RoundOfReports
from pocketfl_server.trusted.workers import Workers

TASK: Final = "bench"
REPEATS: Final = 5
_SHAPE: Final = (2,)


@dataclass(frozen=True, kw_only=True)
class Rates:
    """What was measured of one kind of report.

    Attributes
    ----------
    parameters, reports, bits_per_coordinate, report_bytes : int
        What was summed.
    reports_per_second_per_core : float
        Read from the ledger, opened, checked and summed, by processor time of one process.
    bound_per_second : float
        The same number of reports in memory: one X25519 exchange, decryption, norm and addition each.
    ratio_to_bound : float
        The first over the second.
    microseconds_to_read : float
        Of the ledger's part.
    submissions_per_second : float
        Reports hashed and written to disk, by processor time.
    """

    parameters: int
    reports: int
    bits_per_coordinate: int
    report_bytes: int
    reports_per_second_per_core: float
    bound_per_second: float
    ratio_to_bound: float
    microseconds_to_read: float
    submissions_per_second: float


def measure_rates(
    parameters: int, reports: int, encoding: EncodingSpec | None, *, workers: int = 1
) -> tuple[Rates, dict[str, Any]]:
    """Fill a ledger with sealed reports and sum them.

    Parameters
    ----------
    parameters, reports : int
        How many of each.
    encoding : EncodingSpec or None
        Of the reports.
    workers : int
        Processes of the second measurement; 1 for none.

    Returns
    -------
    Rates
        Of one process.
    dict
        ``workers``, ``reports_per_second`` by the clock on the wall and ``same_sum``; empty for one.
    """
    plan = placeholder_plan(parameters, reports, encoding)
    values = _vectors(plan)
    with tempfile.TemporaryDirectory(prefix="pocketfl-bench-") as folder:
        ledger_path = Path(folder, "ledger.db")
        with Aggregator(ledger_path, plan_keys=[plan.signed_by]) as tier:
            public_key = bytes.fromhex(tier.register(TASK, plan.data).public_key)
            entries = [_entry(tier, plan, public_key, vector, values) for vector in range(reports)]
            began = time.process_time()
            tier.submit(TASK, 1, 0, entries)
            submitting = time.process_time() - began
        with Ledger(ledger_path) as ledger:
            round_of = _round_of(ledger, plan)

            def add_up(count: int = 1, at_once: int = 1) -> PartialSum:
                summing = Workers(count)
                try:
                    return summing.sum(round_of, ledger.pages(TASK, 1, at_once=at_once))
                finally:
                    summing.close()

            def read() -> None:
                for _page in ledger.pages(TASK, 1, at_once=1):
                    pass

            bound = _bound(values, plan)
            # In turns, so that whatever else the machine does meets all of them alike.
            times = [(_seconds(add_up), _seconds(bound), _seconds(read)) for _ in range(REPEATS)]
            several: dict[str, Any] = {}
            whole = add_up()
            if whole.accepted != reports:
                raise RuntimeError(f"only {whole.accepted} of {reports} reports were accepted")
            if workers > 1:
                several = _several(lambda: add_up(workers, 32), whole, workers, reports)
    summed, least, reading = (min(column) for column in zip(*times, strict=True))
    return Rates(
        parameters=parameters,
        reports=reports,
        bits_per_coordinate=plan.manifest.report_bits,
        report_bytes=len(entries[0].sealed),
        reports_per_second_per_core=reports / summed,
        bound_per_second=reports / least,
        ratio_to_bound=least / summed,
        microseconds_to_read=1e6 * reading / reports,
        submissions_per_second=reports / submitting,
    ), several


def _seconds(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def _several(
    add_up: Callable[[], PartialSum], whole: PartialSum, workers: int, reports: int
) -> dict[str, Any]:
    began = time.perf_counter()
    parts = add_up()
    return {
        "workers": workers,
        # With the start of the processes, which a tier does once.
        "reports_per_second": reports / (time.perf_counter() - began),
        "same_sum": bool(np.array_equal(parts.total, whole.total)),
    }


def _vectors(plan: Plan) -> list[NDArray[np.int16]]:
    """Return a few vectors just within the bound: reports differ by their seal, not by these."""
    manifest = plan.manifest
    length, bound = manifest.report_length, manifest.aggregation.norm_bound
    encoding = manifest.aggregation.encoding
    limit = 2**15 - 1 if encoding is None else encoding.limit
    vectors = []
    for number in range(8):
        exact = np.random.default_rng(number).normal(size=length)
        exact *= 0.9 * bound / np.linalg.norm(exact)
        vectors.append(np.clip(np.rint(exact), -limit, limit).astype(np.int16))
    return vectors


def _entry(
    tier: Aggregator,
    plan: Plan,
    public_key: bytes,
    number: int,
    values: list[NDArray[np.int16]],
) -> SealedEntry:
    lease = secrets.token_urlsafe(16)
    key = tier.describe(TASK).key
    context = ReportContext(
        key_id=key.key_id,
        policy_hash=key.policy_hash,
        plan_sha256=key.plan_sha256,
        task=TASK,
        round=1,
        model_version=0,
        lease=lease,
    )
    plaintext = encode_vector(values[number % len(values)], bits=plan.manifest.report_bits)
    return SealedEntry(
        lease=lease, sealed=seal(public_key, info=context.info(), plaintext=plaintext)
    )


def _round_of(ledger: Ledger, plan: Plan) -> RoundOfReports:
    record = ledger.task(TASK)
    if record is None:
        raise RuntimeError("the ledger has lost the task")
    return RoundOfReports(
        private_key=record.private_key,
        context=ReportContext(
            key_id=key_id(record.public_key),
            policy_hash=plan.manifest.policy_hash,
            plan_sha256=plan.sha256,
            task=TASK,
            round=1,
            model_version=0,
            lease=16 * "0",
        ),
        length=plan.manifest.report_length,
        bits=plan.manifest.report_bits,
        norm_bound=plan.manifest.aggregation.norm_bound,
    )


def _bound(values: list[NDArray[np.int16]], plan: Plan) -> Callable[[], None]:
    """Return what no way of summing sealed reports can do without, for as many of them."""
    bits = plan.manifest.report_bits
    kind = "<i2" if bits == 16 else np.int8
    private, cipher = X25519PrivateKey.generate(), ChaCha20Poly1305(bytes(32))
    public = X25519PrivateKey.generate().public_key().public_bytes_raw()
    population = plan.manifest.aggregation.population
    packed = [encode_vector(vector, bits=bits)[5:] for vector in values]
    # As many as there are reports: none is in the processor's cache before it is looked at.
    sealed = [
        cipher.encrypt(number.to_bytes(12, "big"), packed[number % len(packed)], None)
        for number in range(population)
    ]
    total = np.zeros(len(np.frombuffer(packed[0], dtype=kind)), dtype=np.int32)

    def work() -> None:
        for number, data in enumerate(sealed):
            private.exchange(X25519PublicKey.from_public_bytes(public))
            opened = cipher.decrypt(number.to_bytes(12, "big"), data, None)
            vector = np.frombuffer(opened, dtype=kind)
            squared_norm(vector)
            np.add(total, vector, out=total)

    return work


def placeholder_plan(
    parameters: int,
    reports: int,
    encoding: EncodingSpec | None,
    *,
    dp: DifferentialPrivacySpec | None = None,
    rounds: int = 1,
) -> Plan:
    """Return a signed plan whose graphs are placeholders: nothing is trained here."""
    aggregation = AggregationSpec(
        clip_norm=1.0,
        population=reports,
        cohort_floor=1,
        max_rounds=rounds,
        max_participations=rounds,
    )
    if encoding is not None:
        aggregation = aggregation.encoded(encoding, parameters=parameters)
    parts = {name: f"bench/{name}.onnx" for name in ("train", "evaluate", "predict")}
    return build_plan(
        name="bench",
        version="1",
        privacy="none" if dp is None else "gaussian",
        model=ModelSpec(
            parameters=(ParameterSpec(name="weight", shape=(parameters,), offset=0),),
            inputs=(TensorSpec(name="x", dtype="float32", shape=_SHAPE),),
            target=TensorSpec(name="target", dtype="float32"),
            outputs=(TensorSpec(name="output", dtype="float32", shape=(1,)),),
            batch_size=4,
        ),
        training=TrainingSpec(),
        features=FeatureSpec(
            collection="examples",
            fields=(
                FieldSpec(name="x", type="tensor", shape=_SHAPE),
                FieldSpec(name="y", type="float"),
            ),
            inputs=(InputSpec(tensor="x", columns=(Tensor(field="x"),)),),
            label=LabelSpec(field="y"),
        ),
        aggregation=aggregation,
        dp=dp,
        runtimes={
            "onnxruntime": RuntimeSpec(
                train=parts["train"],
                evaluate=parts["evaluate"],
                predict=parts["predict"],
                minimum_version="1.22.0",
                opset=17,
            )
        },
        parts={
            PARAMETERS_PART: np.zeros(parameters, dtype="<f4").tobytes(),
            **{part: part.encode() for part in parts.values()},
        },
        signing_key=generate_signing_key(),
    )
