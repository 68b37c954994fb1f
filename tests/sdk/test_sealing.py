"""Sealing: RFC 9180 as published, an injective context, and refusals."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyhpke import KEMKeyPair

from pocketfl.errors import AggregatorRefusedError, SealingError
from pocketfl.protocol import AggregatorKey
from pocketfl.sealing import (
    SEALING_OVERHEAD,
    PinnedAggregator,
    RefuseEveryAggregator,
    ReportContext,
    _suite,
    generate_key_pair,
    key_id,
    open_sealed,
    seal,
)

# RFC 9180, appendix A.2.1: DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, ChaCha20Poly1305, base mode.
INFO = bytes.fromhex("4f6465206f6e2061204772656369616e2055726e")
IKM_E = bytes.fromhex("909a9b35d3dc4713a5e72a4da274b55d3d3821a37e5d099e74a647db583a904b")
PK_E = bytes.fromhex("1afa08d3dec047a643885163f1180476fa7ddb54c6a8029ea33f95796bf2ac4a")
SK_E = bytes.fromhex("f4ec9b33b792c372c1d2c2063507b684ef925b8c75a42dbcbf57d63ccd381600")
IKM_R = bytes.fromhex("1ac01f181fdf9f352797655161c58b75c656a6cc2716dcb66372da835542e1df")
PK_R = bytes.fromhex("4310ee97d88cc1f088a5576c77ab0cf5c3ac797f3d95139c6c84b5429c59662a")
SK_R = bytes.fromhex("8057991eef8f1f1af18f4a9491d16a1ce333f695d4db8e38da75975c4478e0fb")
PLAINTEXT = bytes.fromhex("4265617574792069732074727574682c20747275746820626561757479")
CIPHERTEXTS = {
    0: "1c5250d8034ec2b784ba2cfd69dbdb8af406cfe3ff938e131f0def8c8b60b4db21993c62ce81883d2dd1b51a28",
    1: "6b53c051e4199c518de79594e1c4ab18b96f081549d45ce015be002090bb119e85285337cc95ba5f59992dc98c",
    2: "71146bd6795ccc9c49ce25dda112a48f202ad220559502cef1f34271e0cb4b02b4f10ecac6f48c32f878fae86b",
    4: "63357a2aa291f5a4e5f27db6baa2af8cf77427c7c1a909e0b37214dd47db122bb153495ff0b02e9e54a50dbe16",
    255: "18ab939d63ddec9f6ac2b60d61d36a7375d2070c9b683861110757062c52b8880a5f6b3936da9cd6c23ef2a95c",
    256: "7a4a13e9ef23978e2c520fd4d2e757514ae160cd0cd05e556ef692370ca53076214c0c40d4c728d6ed9e727a5b",
}
EXPORTS = {
    "": "4bbd6243b8bb54cec311fac9df81841b6fd61f56538a775e7c80a9f40160606e",
    "00": "8c1df14732580e5501b00f82b10a1647b40713191b7c1240ac80e2b68808ba69",
    "54657374436f6e74657874": "5acb09211139c43b3090489a9da433e8a30ee7188ba8b0a9a1ccf0c229283e53",
}


def test_key_derivation_matches_the_rfc() -> None:
    """DeriveKeyPair gives the published keys of both sides."""
    kem = _suite().kem
    for ikm, public, private in ((IKM_E, PK_E, SK_E), (IKM_R, PK_R, SK_R)):
        pair = kem.derive_key_pair(ikm)
        assert pair.public_key.to_public_bytes() == public
        assert kem.deserialize_private_key(private).raw.public_key().public_bytes_raw() == public


def test_sealing_matches_the_rfc() -> None:
    """With the published ephemeral key, we make the published bytes at each sequence number."""
    suite = _suite()
    ephemeral = suite.kem.derive_key_pair(IKM_E)
    enc, context = suite.create_sender_context(
        suite.kem.deserialize_public_key(PK_R),
        INFO,
        eks=KEMKeyPair(ephemeral.private_key, ephemeral.public_key),
    )
    assert enc == PK_E
    for number in range(257):
        sealed = context.seal(PLAINTEXT, f"Count-{number}".encode())
        if number in CIPHERTEXTS:
            assert sealed.hex() == CIPHERTEXTS[number], number


def test_opening_and_exporting_match_the_rfc() -> None:
    """The recipient opens the published bytes and exports the published secrets."""
    suite = _suite()
    context = suite.create_recipient_context(PK_E, suite.kem.deserialize_private_key(SK_R), INFO)
    for exporter_context, secret in EXPORTS.items():
        assert context.export(bytes.fromhex(exporter_context), 32).hex() == secret
    for number in range(3):
        opened = context.open(bytes.fromhex(CIPHERTEXTS[number]), f"Count-{number}".encode())
        assert opened == PLAINTEXT


def test_open_sealed_is_the_rfc_without_additional_data() -> None:
    """Our one-shot functions open what the RFC's sender seals when there is no additional data."""
    suite = _suite()
    ephemeral = suite.kem.derive_key_pair(IKM_E)
    enc, context = suite.create_sender_context(
        suite.kem.deserialize_public_key(PK_R), INFO, eks=ephemeral
    )
    sealed = enc + context.seal(PLAINTEXT)
    assert open_sealed(SK_R, info=INFO, sealed=sealed) == PLAINTEXT
    assert (
        open_sealed(SK_R, info=INFO, sealed=seal(PK_R, info=INFO, plaintext=PLAINTEXT)) == PLAINTEXT
    )


@settings(max_examples=30, deadline=None)
@given(plaintext=st.binary(max_size=2000), info=st.binary(max_size=500))
def test_what_is_sealed_opens(plaintext, info) -> None:
    """Any plaintext and context round-trips, and grows by the stated number of bytes."""
    private, public = generate_key_pair()
    sealed = seal(public, info=info, plaintext=plaintext)
    assert len(sealed) == len(plaintext) + SEALING_OVERHEAD
    assert open_sealed(private, info=info, sealed=sealed) == plaintext


def test_sealing_twice_gives_different_bytes() -> None:
    """Every report has a fresh ephemeral key, so equal updates do not look equal."""
    _, public = generate_key_pair()
    first, second = (seal(public, info=b"", plaintext=b"same") for _ in range(2))
    assert first[:32] != second[:32]
    assert first[32:] != second[32:]


def test_a_changed_report_does_not_open() -> None:
    """Another key, another context, any flipped byte, and any truncation is an error."""
    private, public = generate_key_pair()
    sealed = seal(public, info=b"context", plaintext=b"report" * 5)
    other, _ = generate_key_pair()
    with pytest.raises(SealingError, match="does not open"):
        open_sealed(other, info=b"context", sealed=sealed)
    with pytest.raises(SealingError, match="does not open"):
        open_sealed(private, info=b"contexT", sealed=sealed)
    for position in range(len(sealed)):
        damaged = bytearray(sealed)
        damaged[position] ^= 1
        with pytest.raises(SealingError):
            open_sealed(private, info=b"context", sealed=bytes(damaged))
    for length in range(len(sealed)):
        with pytest.raises(SealingError):
            open_sealed(private, info=b"context", sealed=sealed[:length])


@pytest.mark.parametrize("key", [b"", b"short", bytes(31), bytes(33)])
def test_keys_of_a_wrong_length_are_refused(key) -> None:
    """A key is 32 bytes on either side."""
    with pytest.raises(SealingError, match="32 bytes"):
        seal(key, info=b"", plaintext=b"")
    with pytest.raises(SealingError, match="32 bytes"):
        open_sealed(key, info=b"", sealed=bytes(100))


def test_a_low_order_public_key_is_refused() -> None:
    """The all-zero point would make a shared secret that anybody knows (RFC 7748, section 6.1)."""
    with pytest.raises(SealingError, match="cannot be used"):
        seal(bytes(32), info=b"", plaintext=b"secret")


DIGESTS = st.text("0123456789abcdef", min_size=64, max_size=64)
NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True)
CONTEXTS = st.builds(
    ReportContext,
    protocol=st.sampled_from(["pocketfl/1", "pocketfl/2", "pocketfl/11"]),
    key_id=DIGESTS,
    policy_hash=DIGESTS,
    plan_sha256=DIGESTS,
    task=NAMES,
    round=st.integers(1, 2**63 - 1),
    model_version=st.integers(0, 2**63 - 1),
    lease=st.from_regex(r"[A-Za-z0-9_-]{16,40}", fullmatch=True),
)


def parse_info(info: bytes) -> ReportContext:
    """Read the canonical bytes back; that this is possible is what injective means."""
    label = b"pocketfl report context 1"
    assert info.startswith(label)
    rest, texts = info[len(label) :], []
    while rest:
        length = int.from_bytes(rest[:4], "big")
        texts.append(rest[4 : 4 + length].decode())
        rest = rest[4 + length :]
    protocol, key, policy, plan, task, round_, version, lease = texts
    return ReportContext(
        protocol=protocol,
        key_id=key,
        policy_hash=policy,
        plan_sha256=plan,
        task=task,
        round=int(round_),
        model_version=int(version),
        lease=lease,
    )


@given(context=CONTEXTS)
def test_the_context_can_be_read_back_from_its_bytes(context) -> None:
    """A left inverse exists, so two contexts never share their bytes."""
    assert parse_info(context.info()) == context


@given(
    context=CONTEXTS,
    field=st.sampled_from(["task", "round", "model_version", "lease"]),
    data=st.data(),
)
def test_changing_one_field_changes_the_bytes(context, field, data) -> None:
    """Including moves such as round 1 version 23 against round 12 version 3."""
    other = getattr(data.draw(CONTEXTS), field)
    changed = dataclasses.replace(context, **{field: other})
    assert (changed.info() == context.info()) == (changed == context)


def test_neighbouring_numbers_do_not_run_together() -> None:
    """Round 1, version 23 is not round 12, version 3."""
    base = {
        "key_id": "a" * 64,
        "policy_hash": "b" * 64,
        "plan_sha256": "c" * 64,
        "task": "t",
        "lease": "l" * 16,
    }
    first = ReportContext(round=1, model_version=23, **base)
    assert first.info() != ReportContext(round=12, model_version=3, **base).info()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("key_id", "A" * 64),
        ("policy_hash", "short"),
        ("plan_sha256", ""),
        ("task", "../etc"),
        ("lease", "short"),
        ("round", 0),
        ("model_version", -1),
        ("protocol", ""),
    ],
)
def test_a_context_checks_itself(field, value) -> None:
    """A context that the protocol cannot mean is not made."""
    good = {
        "key_id": "a" * 64,
        "policy_hash": "b" * 64,
        "plan_sha256": "c" * 64,
        "task": "t",
        "lease": "l" * 16,
        "round": 1,
        "model_version": 0,
    }
    ReportContext(**good)
    with pytest.raises(ValueError, match=r"."):
        ReportContext(**{**good, field: value})


def relayed(public: bytes) -> AggregatorKey:
    return AggregatorKey(key_id=key_id(public), public_key=public.hex())


def test_a_pinned_key_is_returned_and_every_other_refused() -> None:
    """Only the app's own list of keys decides."""
    _, pinned = generate_key_pair()
    _, other = generate_key_pair()
    verifier = PinnedAggregator(pinned.hex().upper())
    known = {"policy_hash": "a" * 64, "plan_sha256": "b" * 64}
    assert verifier.verify(relayed(pinned), **known) == pinned
    with pytest.raises(AggregatorRefusedError, match="not one of the 1"):
        verifier.verify(relayed(other), **known)
    mislabelled = AggregatorKey(key_id=key_id(other), public_key=pinned.hex())
    with pytest.raises(AggregatorRefusedError, match="not the hash"):
        verifier.verify(mislabelled, **known)


def test_by_default_every_key_is_refused() -> None:
    """Without a decision of the app nothing can be sealed."""
    _, public = generate_key_pair()
    with pytest.raises(AggregatorRefusedError, match="no trusted tier is configured"):
        RefuseEveryAggregator().verify(relayed(public), policy_hash="a" * 64, plan_sha256="b" * 64)


@pytest.mark.parametrize("keys", [(), ("zz" * 32,), ("ab",)])
def test_pins_must_be_keys(keys) -> None:
    """An empty or malformed list of pins is a mistake of the app, said at once."""
    with pytest.raises(ValueError, match="public key"):
        PinnedAggregator(*keys)
