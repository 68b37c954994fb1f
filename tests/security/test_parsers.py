"""Every parser of bytes from outside refuses what is damaged with the one error that it documents."""

from __future__ import annotations

import io
import random
import zipfile
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache

import jwt
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from pocketfl.attestation.issuers import DEVELOPMENT_ISSUER, development_issuer
from pocketfl.attestation.tokens import verify_token as verify_attestation
from pocketfl.credentials.directory import empty_directory, heads_of
from pocketfl.credentials.tokens import (
    challenge,
    decode_key,
    encode_key,
    finish_token,
    read_request,
    request_token,
    verify_token,
)
from pocketfl.decoding import decode_json, encode_json
from pocketfl.errors import AggregatorRefusedError, CredentialError, DecodeError, PlanError
from pocketfl.plan import EncodingSpec, Manifest, Plan
from pocketfl.protocol import AggregatorKey, CheckIn, TokenKey, TokenKeys
from pocketfl.queries import QuerySet
from pocketfl.queries.spec import Sum
from pocketfl.reports import decode_vector, encode_vector
from pocketfl_benchmarks.aggregate.measurement import placeholder_plan
from pocketfl_server.credentials.signing import blind_sign
from pocketfl_server.optimizers import OptimizerState, decode_state, encode_state
from pocketfl_server.trusted.messages import SealedEntry, decode_batch, encode_batch
from pocketfl_server.trusted.releases import (
    ReleaseSummary,
    UnprotectedRelease,
    decode_release,
    encode_release,
)

TRIES = 1_500

Parser = Callable[[bytes], object]


@lru_cache(maxsize=1)
def _credentials() -> dict[str, tuple[bytes, Parser]]:
    """Tokens of both kinds, and what verifies them; their refusals are made those of the others."""
    signer = rsa.generate_private_key(65537, 2048)
    key, asked = encode_key(signer.public_key()), challenge("clicks", 1, 1)
    request = request_token(key, asked)
    token = finish_token(key, request, blind_sign(signer, read_request(request.data, key)))
    attester = ec.generate_private_key(ec.SECP256R1())
    claims = {
        "iss": DEVELOPMENT_ISSUER,
        "aud": "pocketfl-devices",
        "iat": 1000,
        "exp": 2000,
        "eat_nonce": ["a" * 64, "b" * 64],
    }
    attestation = jwt.encode(
        claims, attester, algorithm="ES256", headers={"kid": "development"}
    ).encode()
    pem = attester.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    issuer = development_issuer(pem.decode())

    def refusing(parse: Parser) -> Parser:
        def refuse(data: bytes) -> object:
            try:
                return parse(data)
            except (AggregatorRefusedError, CredentialError) as error:
                raise DecodeError(str(error)) from None

        return refuse

    shown = TokenKeys(
        task="clicks",
        next_round=1,
        separation=2,
        keys=(TokenKey(first_round=1, last_round=2, public_key=key.hex()),),
        start=empty_directory("clicks"),
        policy_hash="1" * 64,
        aggregator=AggregatorKey(key_id="2" * 64, public_key="3" * 64),
    )

    def look(data: bytes) -> object:
        keys = decode_json(TokenKeys, data, what="token keys", limit=10**6)
        return heads_of(keys.start, keys.keys)

    return {
        "token keys": (encode_json(shown), refusing(look)),
        "anonymous token": (token, refusing(lambda data: verify_token(data, key, asked))),
        "token request": (request.data, refusing(lambda data: read_request(data, key))),
        "token key": (key, refusing(decode_key)),
        "attestation token": (
            attestation,
            refusing(lambda data: verify_attestation(data.decode("latin-1"), [issuer], now=1500.0)),
        ),
    }


def parsers(plan: Plan) -> dict[str, tuple[bytes, Parser]]:
    """Valid bytes of each format, and what reads them."""
    encoded = placeholder_plan(40, 10, EncodingSpec(bits=4))
    vector = np.arange(-20, 20, dtype=np.int16)
    nibbles = np.arange(40, dtype=np.int16) % 15 - 7
    queries = QuerySet(queries=(Sum(name="y", field="y", low=0.0, high=1.0),))
    summary = ReleaseSummary(
        kind="unprotected",
        task="clicks",
        round=1,
        model_version=0,
        plan_sha256=plan.sha256,
        policy_hash=plan.manifest.policy_hash,
        reports=3,
        grid_step=0.1,
        expected_cohort=3.0,
        noise_multiplier=0.0,
    )
    release = UnprotectedRelease(summary=summary, values=np.arange(40, dtype=np.int64))
    entries = [SealedEntry(lease="lease-0123456789", sealed=bytes(range(100)))] * 3
    moments = {"velocity": np.ones(40, dtype=np.float32)}
    state = encode_state(OptimizerState(step=1, moments=moments))
    check_in = CheckIn(sdk="0.1.0", plan_schemas=(1, 2), runtimes=("onnxruntime",))
    return {
        "plan": (plan.data, lambda data: Plan.load(data, trusted_keys=[plan.signed_by])),
        "manifest": (encoded.manifest.to_json(), Manifest.from_json),
        "report": (encode_vector(vector), lambda data: decode_vector(data, length=40)),
        "compact report": (
            encode_vector(nibbles, bits=4),
            lambda data: decode_vector(data, length=40, bits=4),
        ),
        "batch": (encode_batch(entries), decode_batch),
        "release": (encode_release(release), decode_release),
        "optimizer state": (state, lambda data: decode_state(data, length=40)),
        "query": (
            encode_json(queries),
            lambda data: decode_json(QuerySet, data, what="queries", limit=10**6),
        ),
        "late batch": (encode_batch([replace(e, origin=(3, 2)) for e in entries]), decode_batch),
        **_credentials(),
        "check-in": (
            encode_json(check_in),
            lambda data: decode_json(CheckIn, data, what="check-in", limit=10**6),
        ),
    }


NAMES = (
    "plan",
    "manifest",
    "report",
    "compact report",
    "batch",
    "release",
    "optimizer state",
    "query",
    "check-in",
    "late batch",
    "anonymous token",
    "token request",
    "token key",
    "attestation token",
)


@pytest.mark.parametrize("name", NAMES)
def test_damaged_bytes_are_refused_in_words(name, plan, hostile, mutate) -> None:
    """No other exception, whatever the damage; what still reads is a sound value by its own checks."""
    valid, parse = parsers(plan)[name]
    parse(valid)
    generator = random.Random(name)
    for _ in range(TRIES):
        data = mutate(valid, generator)
        hostile.tried += 1
        try:
            parse(data)
        except (DecodeError, PlanError):
            continue
        except Exception:
            hostile.server_errors += 1
            raise


def test_a_decompression_bomb_is_refused_before_it_unfolds(plan, hostile) -> None:
    """Members that unfold to a thousand times their size are refused by what they say they are."""
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("manifest.json", bytes(2**26))
        archive.writestr("manifest.sig", bytes(2**26))
    hostile.tried += 1
    with pytest.raises(PlanError):
        Plan.load(bomb.getvalue(), trusted_keys=[plan.signed_by])
