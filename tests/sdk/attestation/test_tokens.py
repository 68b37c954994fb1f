"""Tokens of four services, signed with real keys: what is believed, and every way to be refused."""

from __future__ import annotations

import base64
import copy
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from pocketfl.attestation.binding import head_nonce, key_nonce
from pocketfl.attestation.claims import tdx_image_digest
from pocketfl.attestation.issuers import TrustedIssuer
from pocketfl.attestation.verifier import AttestedAggregator
from pocketfl.errors import AggregatorRefusedError
from pocketfl.protocol import AggregatorKey, Attestation, LedgerHead
from pocketfl.sealing import key_id

NOW = 1_800_000_000.0
PUBLIC = bytes(range(32))  # of fixed value: tests are named after what is made from it
POLICY = "ab" * 32
HEAD = LedgerHead(sequence=3, digest="cd" * 32)
NONCES = [key_nonce(PUBLIC, POLICY), head_nonce(PUBLIC, HEAD)]
IMAGE = "sha256:" + "12" * 32
MEASURED = {f"tdx_{name}": "34" * 48 for name in ("mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3")}
SIGNER = ec.generate_private_key(ec.SECP256R1())
TIMES = {"iat": NOW - 10, "nbf": NOW - 10, "exp": NOW + 3600, "aud": "pocketfl-devices"}

CLAIMS = {
    "confidential_space": {
        "iss": "https://confidentialcomputing.googleapis.com",
        "swname": "CONFIDENTIAL_SPACE",
        "secboot": True,
        "hwmodel": "GCP_INTEL_TDX",
        "dbgstat": "disabled-since-boot",
        "submods": {"container": {"image_digest": IMAGE}},
        "eat_nonce": NONCES,
    },
    "azure_sev_snp": {
        "iss": "https://sharedeus.eus.attest.azure.net",
        "x-ms-attestation-type": "sevsnpvm",
        "x-ms-compliance-status": "azure-compliant-uvm",
        "x-ms-sevsnpvm-hostdata": "12" * 32,
        "x-ms-sevsnpvm-is-debuggable": False,
        "x-ms-runtime": {"nonces": NONCES},
    },
    "intel_tdx": {
        "iss": "https://portal.trustauthority.intel.com",
        "tdx": {
            **MEASURED,
            "tdx_is_debuggable": False,
            "attester_tcb_status": "UpToDate",
            "attester_held_data": base64.b64encode(" ".join(NONCES).encode()).decode(),
        },
    },
}
IMAGES = {
    "confidential_space": IMAGE,
    "azure_sev_snp": IMAGE,
    "intel_tdx": tdx_image_digest(MEASURED),
}


def pem(key) -> str:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def issuer(service: str, /, **changes) -> TrustedIssuer:
    known = TrustedIssuer(
        service=service,
        issuer=CLAIMS[service]["iss"],
        keys={"k1": pem(SIGNER)},
        images=frozenset({IMAGES[service]}),
    )
    return replace(known, **changes)


def sign(claims: dict, *, key=SIGNER, algorithm="ES256", **header) -> str:
    return jwt.encode(claims, key, algorithm=algorithm, headers={"kid": "k1", **header})


def verify(token: str, *issuers: TrustedIssuer, policy: str = POLICY, head=HEAD, now=NOW) -> bytes:
    key = AggregatorKey(
        key_id=key_id(PUBLIC),
        public_key=PUBLIC.hex(),
        attestation=Attestation(token=token, head=head),
    )
    device = AttestedAggregator(*issuers, clock=lambda: now)
    return device.verify(key, policy_hash=policy, plan_sha256="0" * 64)


@pytest.mark.parametrize("service", CLAIMS)
def test_a_good_token_of_each_service_is_believed(service) -> None:
    """Claims laid out as the service lays them out give the key that was attested."""
    assert verify(sign(CLAIMS[service] | TIMES), issuer(service)) == PUBLIC


def changed(service: str, path: str, value: object) -> dict:
    claims = copy.deepcopy(CLAIMS[service] | TIMES)
    place = claims
    *parents, last = path.split("/")
    for name in parents:
        place = place[name]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return claims


@pytest.mark.parametrize(
    ("service", "path", "value", "says"),
    [
        ("confidential_space", "dbgstat", "enabled", "can be debugged"),
        ("confidential_space", "swname", "GCE", "not a Confidential Space image"),
        ("confidential_space", "swname", "POCKETFL_DEVELOPMENT", "not a Confidential Space"),
        ("confidential_space", "secboot", False, "'secboot' is false"),
        ("confidential_space", "secboot", "true", "neither true nor false"),
        ("confidential_space", "submods/container/image_digest", "sha256:00", "allows"),
        ("confidential_space", "submods", "none", "is missing"),
        ("confidential_space", "eat_nonce", NONCES[1:], "another key or another privacy policy"),
        ("confidential_space", "eat_nonce", NONCES[0], "another ledger head"),
        ("confidential_space", "eat_nonce", NONCES * 9, "no list"),
        ("confidential_space", "eat_nonce", None, "no list"),
        ("confidential_space", "iss", "https://confidentialcomputing.example", "not one that"),
        ("confidential_space", "iss", "https://development.pocketfl.invalid", "not one that"),
        ("confidential_space", "aud", "https://sts.googleapis.com", "udience"),
        ("confidential_space", "aud", None, "aud"),
        ("confidential_space", "exp", NOW - 301, "has expired"),
        ("confidential_space", "exp", None, "exp"),
        ("confidential_space", "exp", True, "no numbers"),
        ("confidential_space", "nbf", NOW + 301, "not in force yet"),
        ("confidential_space", "iat", NOW - 90_000, "seconds ago"),
        ("azure_sev_snp", "x-ms-sevsnpvm-is-debuggable", True, "can be debugged"),
        ("azure_sev_snp", "x-ms-compliance-status", "none", "with status"),
        ("azure_sev_snp", "x-ms-attestation-type", "sgx", "a token for 'sgx'"),
        ("azure_sev_snp", "x-ms-sevsnpvm-hostdata", "56" * 32, "allows"),
        ("azure_sev_snp", "x-ms-runtime", {}, "is missing"),
        ("intel_tdx", "tdx/tdx_is_debuggable", True, "can be debugged"),
        ("intel_tdx", "tdx/attester_tcb_status", "OutOfDate", "not up to date"),
        ("intel_tdx", "tdx/tdx_rtmr3", "56" * 48, "allows"),
        ("intel_tdx", "tdx/tdx_rtmr3", "zz", "cannot be read"),
        ("intel_tdx", "tdx/attester_held_data", "!!", "cannot be read"),
        ("intel_tdx", "tdx/attester_held_data", "", "no text"),
        ("intel_tdx", "tdx", 7, "no object"),
    ],
)
def test_a_token_that_says_something_else_is_refused(service, path, value, says) -> None:
    """Every claim that matters is checked, each with its own reason."""
    with pytest.raises(AggregatorRefusedError, match=says):
        verify(sign(changed(service, path, value)), issuer(service))


def test_the_token_vouches_for_one_policy_and_one_head() -> None:
    """A trusted tier with less noise, or with another ledger, needs a token of its own."""
    token = sign(CLAIMS["confidential_space"] | TIMES)
    with pytest.raises(AggregatorRefusedError, match="privacy policy"):
        verify(token, issuer("confidential_space"), policy="ef" * 32)
    with pytest.raises(AggregatorRefusedError, match="ledger head"):
        verify(token, issuer("confidential_space"), head=replace(HEAD, sequence=4))


def test_signatures_must_be_of_a_pinned_key_and_its_own_algorithm() -> None:
    """Another key, an unknown key id, no signature, and a public key used as an HMAC secret."""
    trusted = issuer("confidential_space")
    claims = CLAIMS["confidential_space"] | TIMES
    with pytest.raises(AggregatorRefusedError, match="ignature"):
        verify(sign(claims, key=ec.generate_private_key(ec.SECP256R1())), trusted)
    with pytest.raises(AggregatorRefusedError, match="does not pin"):
        verify(sign(claims, kid="k2"), trusted)
    good = sign(claims)
    header, body, signature = good.split(".")
    none = jwt.utils.base64url_encode(b'{"alg":"none","kid":"k1"}').decode()
    with pytest.raises(AggregatorRefusedError, match="alg"):
        verify(f"{none}.{body}.{signature}", trusted)
    hmac = jwt.utils.base64url_encode(b'{"alg":"HS256","kid":"k1"}').decode()
    with pytest.raises(AggregatorRefusedError, match="alg"):
        verify(f"{hmac}.{body}.{signature}", trusted)
    for place in (10, len(header) + 20, len(good) - 10):
        flipped = "A" if good[place] != "A" else "B"
        with pytest.raises(AggregatorRefusedError):
            verify(good[:place] + flipped + good[place + 1 :], trusted)


def test_rsa_keys_must_be_long_enough() -> None:
    """A pinned RSA key signs with RS256; one of 1024 bits is not accepted."""
    claims = CLAIMS["confidential_space"] | TIMES
    for bits, accepted in ((2048, True), (1024, False)):
        key = rsa.generate_private_key(65537, bits)
        token = sign(claims, key=key, algorithm="RS256")
        trusted = issuer("confidential_space", keys={"k1": pem(key)})
        if accepted:
            assert verify(token, trusted) == PUBLIC
        else:
            with pytest.raises(AggregatorRefusedError, match="kind"):
                verify(token, trusted)


def certificate(name, key, *, issuer_name, issuer_key, authority, days=10, path_length=None):
    moment = datetime.fromtimestamp(NOW, UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, issuer_name)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(moment - timedelta(days=10))
        .not_valid_after(moment + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=path_length), critical=True)
        .sign(issuer_key, SHA256())
    )


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({}, None),
        ({"send_root": False}, None),
        ({"other_root": True}, "no root that this app pins"),
        ({"middle_is_authority": False}, "may not have issued"),
        ({"root_path_length": 0}, "may not have issued"),
        ({"leaf_days": -1}, "not valid now"),
        ({"leaf_signed_by_root": True}, "not issued by the next"),
    ],
    ids=lambda value: next(iter(value), "good") if isinstance(value, dict) else "",
)
def test_a_chain_must_lead_to_a_pinned_root(change, says) -> None:
    """The signer's certificate counts only if every link up to a pinned root does."""
    keys = {name: ec.generate_private_key(ec.SECP256R1()) for name in ("leaf", "middle", "root")}
    root = certificate(
        "root",
        keys["root"],
        issuer_name="root",
        issuer_key=keys["root"],
        authority=True,
        path_length=change.get("root_path_length"),
    )
    middle = certificate(
        "middle",
        keys["middle"],
        issuer_name="root",
        issuer_key=keys["root"],
        authority=change.get("middle_is_authority", True),
    )
    leaf = certificate(
        "leaf",
        keys["leaf"],
        issuer_name="middle",
        issuer_key=keys["root" if change.get("leaf_signed_by_root") else "middle"],
        authority=False,
        days=change.get("leaf_days", 10),
    )
    pinned = root
    if change.get("other_root"):
        other = ec.generate_private_key(ec.SECP256R1())
        pinned = certificate("other", other, issuer_name="other", issuer_key=other, authority=True)
    chain = [leaf, middle, root] if change.get("send_root", True) else [leaf, middle]
    x5c = [base64.b64encode(c.public_bytes(Encoding.DER)).decode() for c in chain]
    token = sign(CLAIMS["confidential_space"] | TIMES, key=keys["leaf"], x5c=x5c)
    trusted = issuer(
        "confidential_space", keys={}, roots=(pinned.public_bytes(Encoding.PEM).decode(),)
    )
    if says is None:
        assert verify(token, trusted) == PUBLIC
    else:
        with pytest.raises(AggregatorRefusedError, match=says):
            verify(token, trusted)


@pytest.mark.parametrize("x5c", ["text", [], ["!!"], ["AAAA"], ["A" * 9000], ["AAAA"] * 6, [7]])
def test_garbage_in_the_place_of_a_chain_is_refused(x5c) -> None:
    """Hostile headers end in a refusal, never in another exception."""
    token = sign(CLAIMS["confidential_space"] | TIMES, x5c=x5c)
    root = certificate(
        "root", SIGNER, issuer_name="root", issuer_key=SIGNER, authority=True
    ).public_bytes(Encoding.PEM)
    with pytest.raises(AggregatorRefusedError, match="certificate"):
        verify(token, issuer("confidential_space", roots=(root.decode(),)))


def test_a_key_without_a_token_or_with_a_wrong_id_is_refused() -> None:
    """What a back end without a trusted tier's help can offer is not enough."""
    device = AttestedAggregator(issuer("confidential_space"), clock=lambda: NOW)
    bare = AggregatorKey(key_id=key_id(PUBLIC), public_key=PUBLIC.hex())
    with pytest.raises(AggregatorRefusedError, match="nothing vouches"):
        device.verify(bare, policy_hash=POLICY, plan_sha256="0" * 64)
    attestation = Attestation(token=sign(CLAIMS["confidential_space"] | TIMES), head=HEAD)
    misnamed = AggregatorKey(key_id="0" * 64, public_key=PUBLIC.hex(), attestation=attestation)
    with pytest.raises(AggregatorRefusedError, match="key id"):
        device.verify(misnamed, policy_hash=POLICY, plan_sha256="0" * 64)


def test_what_was_believed_is_asked_again_after_a_while() -> None:
    """A token that expires while a device is running is not believed for ever."""
    now = [NOW]
    device = AttestedAggregator(issuer("confidential_space"), clock=lambda: now[0])
    key = AggregatorKey(
        key_id=key_id(PUBLIC),
        public_key=PUBLIC.hex(),
        attestation=Attestation(token=sign(CLAIMS["confidential_space"] | TIMES), head=HEAD),
    )
    assert device.verify(key, policy_hash=POLICY, plan_sha256="0" * 64) == PUBLIC
    now[0] += 4 * 3600
    with pytest.raises(AggregatorRefusedError, match="expired"):
        device.verify(key, policy_hash=POLICY, plan_sha256="0" * 64)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"issuer": "http://plain.example"}, "https"),
        ({"keys": {}}, "pin at least one"),
        ({"images": frozenset()}, "at least one image"),
        ({"max_age_seconds": 1e9}, "a week"),
        ({"issuer": "https://development.pocketfl.invalid"}, "'development'"),
        ({"service": "development"}, "'development'"),
    ],
)
def test_an_issuer_that_makes_no_sense_cannot_be_trusted(changes, says) -> None:
    """Settings that would believe too much are refused when the app is built, not later."""
    with pytest.raises(ValueError, match=says):
        issuer("confidential_space", **changes)
