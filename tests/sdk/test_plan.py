"""A plan is believed only as far as its signature and hashes reach."""

from __future__ import annotations

import dataclasses
import io
import json
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketfl.errors import DecodeError, PlanError, PlanSignatureError, PocketFLError
from pocketfl.features.transforms import FeatureSpec, FieldSpec, InputSpec, LabelSpec, Tensor
from pocketfl.plan import (
    AggregationSpec,
    BudgetSpec,
    DifferentialPrivacySpec,
    EncodingSpec,
    Manifest,
    ModelSpec,
    ParameterSpec,
    Plan,
    RuntimeSpec,
    TensorSpec,
    TrainingSpec,
    build_plan,
    generate_signing_key,
    load_signing_key,
    public_key_hex,
    save_signing_key,
    write_plan,
)
from pocketfl.plan.manifest import PARAMETERS_PART
from pocketfl.queries import QuerySet, Sum

KEY = generate_signing_key()
TRUSTED = [public_key_hex(KEY)]
WEIGHTS = np.array([0.5, -1.0, 2.0], dtype="<f4")


def make_plan(**changes: object) -> Plan:
    """A sound plan of a model with three parameters, with some arguments changed."""
    arguments: dict[str, object] = {
        "name": "tiny",
        "version": "1",
        "privacy": "gaussian",
        "model": ModelSpec(
            parameters=(
                ParameterSpec(name="weight", shape=(1, 2), offset=0),
                ParameterSpec(name="bias", shape=(1,), offset=2),
            ),
            inputs=(TensorSpec(name="x", dtype="float32", shape=(2,)),),
            target=TensorSpec(name="target", dtype="float32"),
            outputs=(TensorSpec(name="output", dtype="float32", shape=(1,)),),
            batch_size=4,
        ),
        "training": TrainingSpec(),
        "features": FeatureSpec(
            collection="examples",
            fields=(
                FieldSpec(name="x", type="tensor", shape=(2,)),
                FieldSpec(name="y", type="float"),
            ),
            inputs=(InputSpec(tensor="x", columns=(Tensor(field="x"),)),),
            label=LabelSpec(field="y"),
        ),
        "aggregation": AggregationSpec(
            clip_norm=0.5,
            population=1000,
            sampling_probability=0.1,
            cohort_floor=40,
            max_rounds=10,
            max_participations=8,
        ),
        "dp": DifferentialPrivacySpec(noise_multiplier=1.0, epsilon=8.0, delta=1e-5),
        "runtimes": {
            "onnxruntime": RuntimeSpec(
                train="onnxruntime/train.onnx",
                evaluate="onnxruntime/evaluate.onnx",
                predict="onnxruntime/predict.onnx",
                minimum_version="1.22.0",
                opset=17,
            )
        },
        "parts": {
            PARAMETERS_PART: WEIGHTS.tobytes(),
            "onnxruntime/train.onnx": b"train",
            "onnxruntime/evaluate.onnx": b"evaluate",
            "onnxruntime/predict.onnx": b"predict" * 1000,
        },
        "signing_key": KEY,
    }
    return build_plan(**{**arguments, **changes})  # type: ignore[arg-type]


def repack(
    data: bytes,
    *,
    replace: dict[str, bytes] | None = None,
    drop: tuple[str, ...] = (),
    add: tuple[tuple[str, bytes], ...] = (),
) -> bytes:
    """The same archive with some members replaced, left out or added."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w") as new:
        for member in old.namelist():
            if member not in drop:
                new.writestr(member, (replace or {}).get(member, old.read(member)))
        for name, content in add:
            new.writestr(name, content)
    return buffer.getvalue()


def member(data: bytes, name: str) -> bytes:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return archive.read(name)


def sign_manifest(manifest: dict[str, object]) -> bytes:
    """An archive whose manifest is anything at all, signed with the trusted key."""
    raw = json.dumps(manifest).encode()
    signature = bytes.fromhex(TRUSTED[0]) + KEY.sign(raw)
    return repack(make_plan().data, replace={"manifest.json": raw, "manifest.sig": signature})


def manifest_dict() -> dict[str, object]:
    return json.loads(make_plan().manifest.to_json())


def test_a_plan_survives_a_round_trip_through_a_file(tmp_path: Path) -> None:
    """What was signed is what is read back, byte for byte."""
    plan = make_plan()
    write_plan(plan, tmp_path / "tiny.pocketfl")
    again = Plan.load(tmp_path / "tiny.pocketfl", trusted_keys=TRUSTED)
    assert again.manifest == plan.manifest
    assert again.sha256 == plan.sha256
    assert again.part("onnxruntime/predict.onnx") == b"predict" * 1000
    np.testing.assert_array_equal(again.initial_parameters(), WEIGHTS)
    assert [p.name for p in again.parameters] == ["weight", "bias"]
    assert list(tmp_path.iterdir()) == [tmp_path / "tiny.pocketfl"]


def test_the_same_contents_give_the_same_bytes() -> None:
    """A plan's hash names its contents, not the moment when it was packed."""
    assert make_plan().data == make_plan().data


def test_a_key_that_is_not_trusted_is_refused() -> None:
    """A valid signature by a stranger is worth nothing."""
    stranger = public_key_hex(generate_signing_key())
    with pytest.raises(PlanSignatureError, match="not one of the 1 trusted"):
        Plan.load(make_plan().data, trusted_keys=[stranger])


def test_no_trusted_key_is_an_error_rather_than_trust_in_all() -> None:
    """An empty list must not mean 'verify nothing'."""
    with pytest.raises(PlanError, match="no trusted keys"):
        Plan.load(make_plan().data, trusted_keys=[])


@pytest.mark.parametrize("missing", ["manifest.sig", "manifest.json"])
def test_an_unsigned_plan_is_refused(missing: str) -> None:
    """Leaving the signature out is no way around it."""
    with pytest.raises(PlanSignatureError, match="unsigned"):
        Plan.load(repack(make_plan().data, drop=(missing,)), trusted_keys=TRUSTED)


def test_a_changed_manifest_is_refused_before_it_is_parsed() -> None:
    """The signature covers the exact bytes: even broken JSON is reported as a bad signature."""
    broken = repack(make_plan().data, replace={"manifest.json": b"{not json"})
    with pytest.raises(PlanSignatureError, match="changed after it was signed"):
        Plan.load(broken, trusted_keys=TRUSTED)


def test_a_changed_part_is_refused_when_it_is_used() -> None:
    """Each part answers for itself by its hash."""
    data = repack(make_plan().data, replace={"onnxruntime/train.onnx": b"tr41n"})
    plan = Plan.load(data, trusted_keys=TRUSTED)
    assert plan.part("onnxruntime/evaluate.onnx") == b"evaluate"
    with pytest.raises(PlanError, match=r"train\.onnx.*hash"):
        plan.part("onnxruntime/train.onnx")


def test_a_part_of_another_size_is_refused_without_unpacking_it() -> None:
    """A bomb in place of a part is stopped by its stated size, before any byte is inflated."""
    bomb = repack(make_plan().data, replace={"onnxruntime/train.onnx": b"\0" * 10_000_000})
    plan = Plan.load(bomb, trusted_keys=TRUSTED)
    with pytest.raises(PlanError, match="10000000 bytes, not 5"):
        plan.part("onnxruntime/train.onnx")


def test_a_bomb_that_lies_about_its_size_is_refused() -> None:
    """The stated size bounds what is inflated, whatever the compressed stream holds."""
    data = bytearray(make_plan().data)
    with zipfile.ZipFile(io.BytesIO(bytes(data))) as archive:
        info = archive.getinfo("onnxruntime/predict.onnx")
    # Claim 5 bytes in both headers while the stream inflates to 7,000.
    start = info.header_offset
    struct.pack_into("<L", data, start + 22, 5)
    central = bytes(data).rindex(b"PK\x01\x02", 0, bytes(data).rindex(b"onnxruntime/predict.onnx"))
    struct.pack_into("<L", data, central + 24, 5)
    plan = Plan.load(bytes(data), trusted_keys=TRUSTED)
    with pytest.raises(PlanError):
        plan.part("onnxruntime/predict.onnx")


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "extra.bin", "a\\b.onnx"])
def test_a_file_that_the_manifest_does_not_list_is_refused(name: str) -> None:
    """Names come from the signed list only, so a path cannot lead anywhere."""
    data = repack(make_plan().data, add=((name, b"x"),))
    with pytest.raises(PlanError, match="disagree"):
        Plan.load(data, trusted_keys=TRUSTED)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_repeated_name_is_refused() -> None:
    """Two files of one name would let a verifier and a reader see different bytes."""
    data = repack(make_plan().data, add=(("onnxruntime/train.onnx", b"other"),))
    with pytest.raises(PlanError, match="twice"):
        Plan.load(data, trusted_keys=TRUSTED)


def test_a_crowded_directory_is_refused() -> None:
    """The directory is counted before an object is made per entry."""
    crowd = tuple((f"f{i}.bin", b"") for i in range(1000))
    with pytest.raises(PlanError, match="files in the archive"):
        Plan.load(repack(make_plan().data, add=crowd), trusted_keys=TRUSTED)


@settings(max_examples=60, deadline=None)
@given(cut=st.integers(min_value=0, max_value=len(make_plan().data) - 1))
def test_a_truncated_plan_is_refused(cut: int) -> None:
    """However much is missing at the end, the answer is a PlanError."""
    with pytest.raises(PlanError):
        Plan.load(make_plan().data[:cut], trusted_keys=TRUSTED)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_flipped_bit_never_changes_what_is_used(data: st.DataObject) -> None:
    """Any single damaged byte either is refused or changes nothing that a device reads."""
    plan = make_plan()
    damaged = bytearray(plan.data)
    place = data.draw(st.integers(0, len(damaged) - 1))
    damaged[place] ^= data.draw(st.integers(1, 255))
    try:
        loaded = Plan.load(bytes(damaged), trusted_keys=TRUSTED)
        parts = {part.name: loaded.part(part.name) for part in loaded.manifest.parts}
    except PocketFLError:
        return
    assert loaded.manifest == plan.manifest
    assert parts == {part.name: plan.part(part.name) for part in plan.manifest.parts}


@settings(max_examples=100, deadline=None)
@given(garbage=st.binary(max_size=400))
def test_garbage_is_refused(garbage: bytes) -> None:
    """Bytes that are no archive end in a PlanError and in nothing else."""
    with pytest.raises(PlanError):
        Plan.load(garbage, trusted_keys=TRUSTED)


def set_in(manifest: dict[str, object], path: str, value: object) -> dict[str, object]:
    *parents, last = path.split(".")
    target: object = manifest
    for name in parents:
        target = target[int(name)] if isinstance(target, list) else target[name]  # type: ignore[index]
    target[int(last) if isinstance(target, list) else last] = value  # type: ignore[index]
    return manifest


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        ("schema", 3, "schema 3; this pocketfl reads schemas 1, 2"),
        ("privacy", "trust me", "one of 'gaussian', 'none'"),
        ("privacy", "none", "dp bounds go with"),
        ("dp", None, "dp bounds go with"),
        ("dp.noise_multiplier", 0, "noise_multiplier must be"),
        ("dp.epsilon", -1, "epsilon must be"),
        ("dp.delta", 0.5, "delta must be"),
        ("surprise", 1, "unknown field 'surprise'"),
        ("model.parameters.0.shape", [10**9, 10**9], "impossible shape"),
        ("model.parameters.0.shape", [-1, 2], "impossible shape"),
        ("model.parameters.1.offset", 7, "starts at 7, not at 2"),
        ("model.batch_size", 0, "batch_size"),
        ("model.batch_size", True, "whole number"),
        ("model.inputs.0.name", "weight", "batch uses these names"),
        ("training.learning_rate", "0.1", "expected a number"),
        ("training.max_examples", 0, "max_examples"),
        ("aggregation.clip_norm", 0, "clip_norm"),
        ("aggregation.norm_bound", 100_000, "norm_bound"),
        ("aggregation.sampling_probability", 1.5, "sampling_probability"),
        ("aggregation.cohort_floor", 90, "cohort_floor must be 1 to 40"),
        ("aggregation.max_participations", 11, "max_participations"),
        ("parts.0.name", "../evil.onnx", "not a part name"),
        ("parts.0.sha256", "00", "not 64 hex digits"),
        ("runtimes.onnxruntime.train", "missing.onnx", "part 'missing.onnx' is missing"),
        ("features.inputs.0.tensor", "z", "features make the tensors"),
        ("features.label.field", "nowhere", "not declared"),
    ],
)
def test_a_signed_manifest_must_still_make_sense(path: str, value: object, reason: str) -> None:
    """A signature says who wrote a plan, not that its bounds are sane."""
    data = sign_manifest(set_in(manifest_dict(), path, value))
    with pytest.raises(PlanError, match=reason):
        Plan.load(data, trusted_keys=TRUSTED)


def test_duplicate_keys_in_the_manifest_are_refused() -> None:
    """Two parsers must not be able to read two different plans out of one manifest."""
    raw = make_plan().manifest.to_json().replace(b'{"aggregation"', b'{"schema":1,"aggregation"', 1)
    signature = bytes.fromhex(TRUSTED[0]) + KEY.sign(raw)
    data = repack(make_plan().data, replace={"manifest.json": raw, "manifest.sig": signature})
    with pytest.raises(PlanError, match="same key twice"):
        Plan.load(data, trusted_keys=TRUSTED)


def test_initial_parameters_must_be_finite() -> None:
    """NaN in a plan never reaches a runtime."""
    nan = np.array([1.0, np.nan, 0.0], dtype="<f4").tobytes()
    plan = make_plan(parts={**_parts(), PARAMETERS_PART: nan})
    with pytest.raises(PlanError, match="not all finite"):
        plan.initial_parameters()


def _parts() -> dict[str, bytes]:
    plan = make_plan()
    return {part.name: plan.part(part.name) for part in plan.manifest.parts}


def test_an_unsound_plan_is_not_built() -> None:
    """The modeller hears of a mistake before anything is signed."""
    with pytest.raises(PlanError, match="not 12"):
        make_plan(parts={**_parts(), PARAMETERS_PART: b"\0" * 8})


def test_the_manifest_round_trips_through_json() -> None:
    """Canonical bytes decode to an equal manifest and encode to the same bytes."""
    manifest = make_plan().manifest
    assert Manifest.from_json(manifest.to_json()) == manifest
    assert Manifest.from_json(manifest.to_json()).to_json() == manifest.to_json()


def test_a_plan_of_schema_1_keeps_its_identity_and_its_policy() -> None:
    """What was signed before loads, encodes to the same bytes, and means the same policy.

    Devices and trusted tiers of both ages know a plan by these two.
    """
    signed = (Path(__file__).parent / "manifest_of_schema_1.json").read_bytes()
    manifest = Manifest.from_json(signed)
    assert (manifest.schema, manifest.kind, manifest.vector_length) == (1, "training", 3)
    assert manifest.to_json() == signed
    assert (
        manifest.policy_hash == "4d8bcf3aa040fe3e1f179d4d992b0161782fbd3edcbbef08e19bc1a97ce5af2e"
    )
    for old, new in (
        (b'"dp":', b'"budget":{"delta":1e-5,"epsilon":1,"name":"all"},"dp":'),
        (b'"cohort_floor":', b'"encoding":{"bits":8},"cohort_floor":'),
        (b'"batch_size":', b'"storage":"float16","batch_size":'),
    ):
        with pytest.raises(DecodeError, match="a plan of schema 1"):
            Manifest.from_json(signed.replace(old, new))


def test_an_encoding_needs_a_bound_that_suits_the_model() -> None:
    """A grid on which rounding alone fills the bound, or that no report can fill, is refused."""
    base = make_plan().manifest.aggregation
    encoding = EncodingSpec(bits=4)
    encoded = base.encoded(encoding, parameters=3)
    plan = Plan.load(make_plan(aggregation=encoded).data, trusted_keys=TRUSTED)
    manifest = plan.manifest
    assert manifest.aggregation == encoded
    assert (manifest.vector_length, manifest.report_length, manifest.report_bits) == (3, 4, 4)
    assert manifest.policy_hash != make_plan().manifest.policy_hash
    for bound in (0, 15, 300):
        with pytest.raises((PlanError, ValueError), match="norm_bound must be"):
            make_plan(aggregation=dataclasses.replace(encoded, norm_bound=bound))
    with pytest.raises(PlanError, match="goes with a plan that trains"):
        make_query_plan(aggregation=dataclasses.replace(encoded, clip_norm=1.0))


def make_query_plan(**changes: object) -> Plan:
    queries = QuerySet(queries=(Sum(name="y", field="y", low=0.0, high=1.0),))
    aggregation = AggregationSpec(
        clip_norm=1.0, population=50, cohort_floor=20, max_rounds=3, max_participations=3
    )
    arguments: dict[str, object] = {
        "kind": "analytics",
        "model": None,
        "training": None,
        "features": FeatureSpec(collection="examples", fields=(FieldSpec(name="y", type="float"),)),
        "queries": queries,
        "aggregation": aggregation,
        "budget": BudgetSpec(name="all", epsilon=8.0, delta=1e-5),
        "runtimes": {},
        "parts": {},
    }
    return make_plan(**{**arguments, **changes})


def test_a_plan_of_queries_needs_no_model() -> None:
    """An analytics plan loads without parts, and its reports are as long as its queries."""
    plan = Plan.load(make_query_plan().data, trusted_keys=TRUSTED)
    assert plan.manifest.vector_length == 1
    with pytest.raises(PlanError, match="kind 'analytics': it has no model"):
        plan.parameters  # noqa: B018
    other = make_query_plan(budget=BudgetSpec(name="all", epsilon=4.0, delta=1e-5))
    assert other.manifest.policy_hash != plan.manifest.policy_hash


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"kind": "training"}, "needs a model"),
        ({"kind": "evaluation"}, "needs a model"),
        ({"queries": None}, "needs queries"),
        ({"training": TrainingSpec()}, "has no training"),
        ({"privacy": "none", "dp": None}, "a shared budget goes with"),
        ({"budget": BudgetSpec(name="log", epsilon=1, delta=1e-6, unit="device-day")}, "funnel"),
    ],
)
def test_a_plan_holds_what_its_kind_needs_and_nothing_else(
    changes: dict[str, object], complaint: str
) -> None:
    """No plan can be read in two ways: what its kind does not use is not in it."""
    with pytest.raises(PlanError, match=complaint):
        make_query_plan(**changes)


def test_the_policy_hash_binds_what_bounds_privacy() -> None:
    """Any change of noise, floor or bounds is another policy; a new name is not."""
    base = make_plan().manifest
    assert make_plan(name="other").manifest.policy_hash == base.policy_hash
    changed = [
        make_plan(dp=dataclasses.replace(base.dp, noise_multiplier=0.5)),
        make_plan(aggregation=dataclasses.replace(base.aggregation, cohort_floor=1)),
        make_plan(aggregation=dataclasses.replace(base.aggregation, clip_norm=9.0)),
        make_plan(privacy="none", dp=None),
    ]
    assert len({base.policy_hash, *(plan.manifest.policy_hash for plan in changed)}) == 5


def test_a_signing_key_is_private_and_never_overwritten(tmp_path: Path) -> None:
    """The key file is its owner's alone, and a second keygen cannot destroy it."""
    path = tmp_path / "key.pem"
    save_signing_key(KEY, path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert public_key_hex(load_signing_key(path)) == TRUSTED[0]
    with pytest.raises(FileExistsError):
        save_signing_key(generate_signing_key(), path)


@pytest.mark.parametrize("content", [b"", b"nonsense", b"-----BEGIN PRIVATE KEY-----\n"])
def test_a_bad_key_file_is_a_clear_error(tmp_path: Path, content: bytes) -> None:
    """A wrong file is named, with what was expected."""
    path = tmp_path / "key.pem"
    path.write_bytes(content)
    with pytest.raises(PlanError, match=r"key\.pem"):
        load_signing_key(path)
