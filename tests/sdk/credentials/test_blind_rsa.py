"""Blind signatures and tokens: published vectors, real keys, and what is refused."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketfl.credentials.blind_rsa import blind, finalize, is_signature
from pocketfl.credentials.tokens import (
    challenge,
    decode_key,
    encode_key,
    finish_token,
    read_request,
    request_token,
    verify_token,
)
from pocketfl.errors import CredentialError
from pocketfl_server.credentials.signing import blind_sign

HERE = Path(__file__).parent
# RFC 9474, appendix A.3: RSABSSA-SHA384-PSS-Deterministic (its modulus has 4096 bits).
BLIND_RSA = json.loads((HERE / "rfc9474.json").read_text())
# Vectors of the publicly verifiable issuance protocol of RFC 9578.
TOKENS = json.loads((HERE / "rfc9578.json").read_text())
KEY = rsa.generate_private_key(65537, 2048)
PUBLIC = KEY.public_key()


@pytest.mark.parametrize("vector", TOKENS, ids=range(len(TOKENS)))
def test_tokens_match_the_published_vectors(vector) -> None:
    """With the published nonce, salt and factor, every message is the published one, byte for byte."""
    known = {name: bytes.fromhex(text) for name, text in vector.items() if name != "type"}
    key = load_pem_private_key(known["skS"], password=None)
    encoded = encode_key(key.public_key())
    assert encoded == known["pkS"]
    request = request_token(
        encoded,
        known["token_challenge"],
        nonce=known["nonce"],
        salt=known["salt"],
        factor=int.from_bytes(known["blind"], "big"),
    )
    assert request.data == known["token_request"]
    response = blind_sign(key, read_request(known["token_request"], encoded))
    assert response == known["token_response"]
    assert finish_token(encoded, request, response) == known["token"]
    assert verify_token(known["token"], encoded, known["token_challenge"]) == known["nonce"]


def test_the_encoding_matches_the_blind_rsa_vector(monkeypatch) -> None:
    """The RFC's own vector has a key of 4096 bits; but for the length, this is the same code."""
    monkeypatch.setattr("pocketfl.credentials.blind_rsa.KEY_BITS", 4096)
    monkeypatch.setattr("pocketfl.credentials.blind_rsa.MODULUS_BYTES", 512)
    monkeypatch.setattr("pocketfl_server.credentials.signing.MODULUS_BYTES", 512)
    p, q, d, e, n = (int(BLIND_RSA[name], 16) for name in "pqden")
    numbers = rsa.RSAPrivateNumbers(
        p, q, d, d % (p - 1), d % (q - 1), pow(q, -1, p), rsa.RSAPublicNumbers(e, n)
    )
    private = numbers.private_key()
    message = bytes.fromhex(BLIND_RSA["msg"])
    blinded = blind(
        private.public_key(),
        message,
        salt=bytes.fromhex(BLIND_RSA["salt"]),
        factor=pow(int(BLIND_RSA["inv"], 16), -1, n),
    )
    assert blinded.message.hex() == BLIND_RSA["blinded_msg"]
    signed = blind_sign(private, blinded.message)
    assert signed.hex() == BLIND_RSA["blind_sig"]
    signature = finalize(private.public_key(), message, signed, inverse=blinded.inverse)
    assert signature.hex() == BLIND_RSA["sig"]


@settings(max_examples=10, deadline=None)
@given(st.text(min_size=1, max_size=20), st.integers(1, 10**6))
def test_a_token_is_good_for_its_round_and_key_only(task, number) -> None:
    """Any task and round: the token verifies there, and nowhere else."""
    encoded = encode_key(PUBLIC)
    request = request_token(encoded, challenge(task, number, number))
    token = finish_token(encoded, request, blind_sign(KEY, read_request(request.data, encoded)))
    assert verify_token(token, encoded, challenge(task, number, number)) == token[2:34]
    with pytest.raises(CredentialError, match="another task or other rounds"):
        verify_token(token, encoded, challenge(task, number + 1, number + 1))
    with pytest.raises(CredentialError, match="another task or other rounds"):
        verify_token(token, encoded, challenge(task + "x", number, number))


def test_what_the_signer_sees_says_nothing_about_the_token() -> None:
    """Two requests for the same token differ in every way, and both lead to valid signatures."""
    message = b"a token"
    requests = [blind(PUBLIC, message, salt=bytes(48)) for _ in range(2)]
    assert requests[0].message != requests[1].message
    signatures = {
        finalize(PUBLIC, message, blind_sign(KEY, made.message), inverse=made.inverse)
        for made in requests
    }
    # Same message and salt: one signature, so the requests cannot be told apart by what comes of them.
    assert len(signatures) == 1
    assert is_signature(PUBLIC, message, signatures.pop())


def test_tampering_is_refused() -> None:
    """Wrong lengths, types, keys and bits, each with its reason."""
    encoded = encode_key(PUBLIC)
    own = challenge("clicks", 1, 1)
    request = request_token(encoded, own)
    response = blind_sign(KEY, read_request(request.data, encoded))
    token = finish_token(encoded, request, response)
    with pytest.raises(CredentialError, match="signature of the blinded token"):
        finish_token(encoded, request, response[:-1] + bytes([response[-1] ^ 1]))
    with pytest.raises(CredentialError, match="256 bytes"):
        finish_token(encoded, request, response[:-1])
    with pytest.raises(CredentialError, match="bytes and the type"):
        verify_token(token + b"x", encoded, own)
    with pytest.raises(CredentialError, match="type"):
        verify_token(b"\0\1" + token[2:], encoded, own)
    with pytest.raises(CredentialError, match="signature is wrong"):
        verify_token(token[:5] + bytes([token[5] ^ 1]) + token[6:], encoded, own)
    other = encode_key(rsa.generate_private_key(65537, 2048).public_key())
    with pytest.raises(CredentialError, match="another key"):
        verify_token(token, other, own)
    with pytest.raises(CredentialError, match="bytes and the type"):
        read_request(request.data[:-1], encoded)
    flipped = bytes([sha256(encoded).digest()[-1] ^ 1])
    with pytest.raises(CredentialError, match="another key"):
        read_request(request.data[:2] + flipped + request.data[3:], encoded)


@pytest.mark.parametrize(
    "blinded",
    [bytes(256), b"\xff" * 256, b"", bytes(255), KEY.private_numbers().p.to_bytes(256, "big")],
)
def test_the_signer_signs_nothing_out_of_range(blinded) -> None:
    """Zero, more than the modulus, other lengths, and a multiple of a factor are refused."""
    with pytest.raises(CredentialError, match="out of range"):
        blind_sign(KEY, blinded)


@pytest.mark.parametrize(
    "data", [b"", b"x" * 342, encode_key(PUBLIC)[:-1], encode_key(PUBLIC) + b"x"]
)
def test_only_token_keys_are_keys(data) -> None:
    """What is not exactly the DER of a token key is refused before any of it is used."""
    with pytest.raises(CredentialError, match="no token key"):
        decode_key(data)
    with pytest.raises(CredentialError, match="2048 bits"):
        encode_key(rsa.generate_private_key(3, 2048).public_key())
