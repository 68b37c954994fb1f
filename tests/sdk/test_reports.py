"""Reports: the one way out of a device, at a fixed length."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pocketfl.clipping import is_within_bound
from pocketfl.encoding import EncodingSpec, Rotation
from pocketfl.errors import DecodeError, ReportError, SealingError
from pocketfl.plan import Plan, build_plan, generate_signing_key
from pocketfl.reports import (
    SealedReport,
    decode_vector,
    encode_vector,
    make_report,
    plaintext_size,
    report_size,
    restore_report,
    sealed_size,
)
from pocketfl.sealing import ReportContext, generate_key_pair, key_id, open_sealed

vectors = hnp.arrays(np.int16, st.integers(1, 300), elements=st.integers(-32_768, 32_767))


@pytest.fixture
def keys() -> tuple[bytes, bytes]:
    return generate_key_pair()


def make_context(plan, public: bytes) -> ReportContext:
    return ReportContext(
        key_id=key_id(public),
        policy_hash=plan.manifest.policy_hash,
        plan_sha256=plan.sha256,
        task="clicks",
        round=3,
        model_version=2,
        lease="lease-" + "x" * 16,
    )


def sign_again(plan: Plan, **changes: object) -> Plan:
    """The same plan under other rules."""
    names = ("name", "version", "privacy", "model", "training", "features", "dp", "runtimes")
    arguments = {name: getattr(plan.manifest, name) for name in names}
    arguments["parts"] = {part.name: plan.part(part.name) for part in plan.manifest.parts}
    return build_plan(**{**arguments, **changes}, signing_key=generate_signing_key())


@given(values=vectors)
def test_a_vector_survives_encoding(values) -> None:
    """Every int16 vector comes back bit for bit, from bytes of the stated length."""
    data = encode_vector(values)
    assert len(data) == plaintext_size(values.size)
    decoded = decode_vector(data, length=values.size)
    assert decoded.dtype == np.int16
    assert np.array_equal(decoded, values)


@given(data=st.binary(max_size=60), length=st.integers(1, 25))
def test_decoding_accepts_only_what_encoding_makes(data, length) -> None:
    """Arbitrary bytes either are an encoding, byte for byte, or a DecodeError."""
    try:
        values = decode_vector(data, length=length)
    except DecodeError:
        return
    assert encode_vector(values) == data


@pytest.mark.parametrize("bits", [4, 8])
def test_an_encoded_report_is_small_and_opens_to_the_update(tiny_plan, keys, bits) -> None:
    """What the trusted tier reads, turned back, is the update to within the grid."""
    private, public = keys
    aggregation = tiny_plan.manifest.aggregation.encoded(EncodingSpec(bits=bits), parameters=3)
    plan = sign_again(tiny_plan, aggregation=aggregation)
    manifest = plan.manifest
    context = make_context(plan, public)
    update = np.array([0.1, -0.2, 0.05], dtype=np.float32)
    report = make_report(update, plan=plan, context=context, public_key=public)
    assert len(report.data) == report_size(manifest) == 5 + 4 * bits // 8 + 48
    plaintext = open_sealed(private, info=context.info(), sealed=report.data)
    values = decode_vector(plaintext, length=manifest.report_length, bits=bits)
    assert is_within_bound(values, aggregation)
    rotation = Rotation.of_round(3, plan_sha256=plan.sha256, task="clicks", round=3)
    error = rotation.invert(values) * aggregation.grid_step - update
    assert np.linalg.norm(error) < 2 * aggregation.grid_step
    with pytest.raises(DecodeError, match="format"):
        decode_vector(plaintext, length=4 * bits // 16, bits=16)


def test_each_wrong_length_and_format_is_named() -> None:
    """Truncated, extended, relabelled or foreign plaintexts are told apart in the message."""
    data = encode_vector(np.array([1, -2, 3], dtype=np.int16))
    with pytest.raises(DecodeError, match="10 bytes, not the 11"):
        decode_vector(data[:-1], length=3)
    with pytest.raises(DecodeError, match="13 bytes, not the 11"):
        decode_vector(data + b"\0\0", length=3)
    with pytest.raises(DecodeError, match="format 2 is not the 1"):
        decode_vector(b"\x02" + data[1:], length=3)
    with pytest.raises(DecodeError, match="says 4 coordinates"):
        decode_vector(data[:1] + b"\x04" + data[2:], length=3)


def test_the_encoding_is_little_endian_by_definition() -> None:
    """The bytes are the documented ones on any machine."""
    data = encode_vector(np.array([1, -2], dtype=np.int16))
    assert data == b"\x01" + b"\x02\x00\x00\x00" + b"\x01\x00" + b"\xfe\xff"


@pytest.mark.parametrize(
    "values", [np.zeros(3), np.zeros((1, 2), np.int16), np.zeros(0, np.int16), np.ones(2, np.int32)]
)
def test_only_vectors_of_int16_are_encoded(values) -> None:
    """A float can never slip into a report."""
    with pytest.raises(ReportError, match="vector of int16"):
        encode_vector(values)


def test_a_report_opens_to_the_clipped_update(tiny_plan, keys) -> None:
    """What the trusted tier reads is the update on the grid, within the bound."""
    private, public = keys
    context = make_context(tiny_plan, public)
    update = np.array([0.1, -0.2, 0.05], dtype=np.float32)
    report = make_report(update, plan=tiny_plan, context=context, public_key=public)
    assert len(report.data) == sealed_size(3)
    assert report.lease == context.lease
    values = decode_vector(open_sealed(private, info=context.info(), sealed=report.data), length=3)
    spec = tiny_plan.manifest.aggregation
    assert is_within_bound(values, spec)
    assert np.abs(values * spec.grid_step - update).max() < spec.grid_step


def test_a_huge_update_is_reported_within_the_bound(tiny_plan, keys) -> None:
    """An update of any size leaves the device clipped."""
    private, public = keys
    context = make_context(tiny_plan, public)
    report = make_report(np.full(3, 1e30), plan=tiny_plan, context=context, public_key=public)
    values = decode_vector(open_sealed(private, info=context.info(), sealed=report.data), length=3)
    assert is_within_bound(values, tiny_plan.manifest.aggregation)
    assert values.min() > 17_000  # 30000 / sqrt(3), less the margin


def test_a_report_opens_in_its_own_context_only(tiny_plan, keys) -> None:
    """Moved to another lease, round, version or task it does not open."""
    private, public = keys
    context = make_context(tiny_plan, public)
    report = make_report(np.zeros(3), plan=tiny_plan, context=context, public_key=public)
    for change in (
        {"lease": "other-" + "y" * 16},
        {"round": 4},
        {"model_version": 3},
        {"task": "other"},
        {"policy_hash": "0" * 64},
        {"plan_sha256": "0" * 64},
        {"key_id": "0" * 64},
        {"protocol": "pocketfl/2"},
    ):
        info = dataclasses.replace(context, **change).info()
        with pytest.raises(SealingError, match="does not open"):
            open_sealed(private, info=info, sealed=report.data)


def test_the_size_of_a_report_says_nothing_about_its_contents(tiny_plan, keys) -> None:
    """Zeros and a full vector have the same length on the wire."""
    _, public = keys
    context = make_context(tiny_plan, public)
    sizes = {
        len(make_report(update, plan=tiny_plan, context=context, public_key=public).data)
        for update in (np.zeros(3), np.ones(3), np.full(3, -1e9))
    }
    assert sizes == {sealed_size(3)}


def test_a_sealed_report_cannot_be_made_by_hand() -> None:
    """Bytes that did not go through clipping and sealing are no report."""
    with pytest.raises(TypeError, match="make_report only"):
        SealedReport(b"raw update", "lease", made_by=object())
    with pytest.raises(TypeError):
        SealedReport(b"raw update", "lease")


def test_a_sealed_report_cannot_be_changed(tiny_plan, keys) -> None:
    """Nor can its bytes be swapped afterwards, and its repr shows none of them."""
    _, public = keys
    context = make_context(tiny_plan, public)
    report = make_report(np.zeros(3), plan=tiny_plan, context=context, public_key=public)
    with pytest.raises(AttributeError):
        report.data = b"raw"
    with pytest.raises(AttributeError):
        report.extra = 1
    assert repr(report) == f"SealedReport({sealed_size(3)} bytes)"


def test_updates_that_do_not_fit_the_plan_are_refused(tiny_plan, keys) -> None:
    """Wrong length, NaN, and another plan's context are errors before anything is sealed."""
    _, public = keys
    context = make_context(tiny_plan, public)
    with pytest.raises(ReportError, match="reports of the plan have 3 coordinates"):
        make_report(np.zeros(4), plan=tiny_plan, context=context, public_key=public)
    with pytest.raises(ReportError, match="not finite"):
        make_report(np.array([0, np.nan, 0]), plan=tiny_plan, context=context, public_key=public)
    foreign = dataclasses.replace(context, plan_sha256="0" * 64)
    with pytest.raises(ReportError, match="another plan or policy"):
        make_report(np.zeros(3), plan=tiny_plan, context=foreign, public_key=public)


def test_a_kept_report_comes_back_as_it_was_or_not_at_all(tiny_plan, keys) -> None:
    """The same bytes under the same lease; anything else is refused."""
    _, public = keys
    context = make_context(tiny_plan, public)
    report = make_report(np.ones(3), plan=tiny_plan, context=context, public_key=public)
    again = restore_report(report.data, lease=report.lease, sha256=report.sha256)
    assert (again.data, again.lease, again.sha256) == (report.data, report.lease, report.sha256)
    for data in (b"", report.data[:-1], report.data[:-1] + b"!", report.data + b"!"):
        with pytest.raises(ReportError, match="damaged"):
            restore_report(data, lease=report.lease, sha256=report.sha256)
