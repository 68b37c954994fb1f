"""A token's signature, issuer, audience and time; its claims are looked at only after that.

PyJWT does the cryptography of RFC 7519 and RFC 7515. What is added here is which keys it may use: the
algorithm must fit the pinned key, so a token cannot choose a weaker one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from pocketfl.attestation.issuers import TrustedIssuer
from pocketfl.errors import AggregatorRefusedError
from pocketfl.protocol import TOKEN_LIMIT

LEEWAY_SECONDS: Final = 300.0
"""How far a device's clock may be off."""
_MIN_RSA_BITS: Final = 2048


def verify_token(
    token: str, issuers: Iterable[TrustedIssuer], *, now: float
) -> tuple[TrustedIssuer, Mapping[str, Any]]:
    """Return a token's claims if a trusted issuer signed it and it is in force.

    Parameters
    ----------
    token : str
        Compact JWS.
    issuers : iterable of TrustedIssuer
        Whom to believe.
    now : float
        Unix time in seconds.

    Returns
    -------
    issuer : TrustedIssuer
        Who signed.
    claims : mapping
        What was signed.

    Raises
    ------
    AggregatorRefusedError
        Saying what is wrong.
    """
    if len(token) > TOKEN_LIMIT:
        raise _refused(f"{len(token)} characters; {TOKEN_LIMIT} at most")
    try:
        header = jwt.get_unverified_header(token)
        unverified = jwt.decode(token, options={"verify_signature": False})
    except (jwt.PyJWTError, ValueError, RecursionError):
        raise _refused("it is no token") from None
    named = unverified.get("iss")
    issuer = next((known for known in issuers if known.issuer == named), None)
    if issuer is None:
        raise _refused(f"its issuer {str(named)[:80]!r} is not one that this app trusts")
    key = _key(header, issuer, now=now)
    try:
        claims: Mapping[str, Any] = jwt.decode(
            token,
            key,
            algorithms=_algorithms(key),
            issuer=issuer.issuer,
            audience=issuer.audience,
            # Times are checked below, by the caller's clock.
            options={
                "require": ["iss", "iat", "exp"],
                "verify_exp": False,
                "verify_iat": False,
                "verify_nbf": False,
                "verify_aud": issuer.audience is not None,
            },
        )
    except jwt.PyJWTError as error:
        raise _refused(str(error)) from None
    _check_times(claims, issuer, now=now)
    return issuer, claims


def _key(header: Mapping[str, Any], issuer: TrustedIssuer, *, now: float) -> Any:
    if issuer.roots and "x5c" in header:
        # Certificates are for those who pin roots; others need not keep their code in memory.
        from pocketfl.attestation.certificates import chain_key

        return chain_key(header["x5c"], roots=issuer.roots, now=now)
    pem = issuer.keys.get(str(header.get("kid")))
    if pem is None:
        raise _refused(
            f"it is signed with the key {str(header.get('kid'))[:60]!r}, which this app does not pin"
        )
    return load_pem_public_key(pem.encode())


def _algorithms(key: object) -> list[str]:
    if isinstance(key, RSAPublicKey) and key.key_size >= _MIN_RSA_BITS:
        return ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"]
    if isinstance(key, EllipticCurvePublicKey):
        by_curve = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}
        if key.curve.name in by_curve:
            return [by_curve[key.curve.name]]
    raise _refused("its signing key is of a kind that is not accepted")


def _check_times(claims: Mapping[str, Any], issuer: TrustedIssuer, *, now: float) -> None:
    times = {name: claims.get(name, claims["iat"]) for name in ("iat", "nbf", "exp")}
    if not all(isinstance(t, int | float) and not isinstance(t, bool) for t in times.values()):
        raise _refused("its times are no numbers")
    hint = " (if that is not so, this device's clock is wrong)"
    if max(times["iat"], times["nbf"]) > now + LEEWAY_SECONDS:
        raise _refused("it is not in force yet" + hint)
    if times["exp"] <= now - LEEWAY_SECONDS:
        raise _refused("it has expired" + hint)
    if now - times["iat"] > issuer.max_age_seconds + LEEWAY_SECONDS:
        raise _refused(f"it was issued more than {issuer.max_age_seconds:g} seconds ago" + hint)


def _refused(reason: str) -> AggregatorRefusedError:
    return AggregatorRefusedError(f"the attestation token is refused: {reason}")
