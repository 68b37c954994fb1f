"""Where the trusted tier gets a token that vouches for it: its platform's attestation service.

A development attester signs for itself on the same path. It proves nothing: whoever runs the process
has its key and its memory. Everything that it touches says so.
"""

from __future__ import annotations

import http.client
import json
import logging
import os
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Protocol

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    EllipticCurvePrivateKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from pocketfl.attestation.claims import DEVELOPMENT_SOFTWARE
from pocketfl.attestation.issuers import AUDIENCE, DEVELOPMENT_IMAGE, DEVELOPMENT_ISSUER
from pocketfl.errors import PocketFLError
from pocketfl.protocol import TOKEN_LIMIT

logger = logging.getLogger(__name__)

LAUNCHER_SOCKET: Final = "/run/container_launcher/teeserver.sock"
"""Where Confidential Space's launcher listens inside the workload's container."""
DEVELOPMENT_TOKEN_SECONDS: Final = 3600
_TIMEOUT_SECONDS: Final = 30.0


class AttestationError(PocketFLError):
    """The platform's attestation service gave no token."""


class Attester(Protocol):
    """Gets tokens for this process."""

    def token(self, nonces: Sequence[str]) -> str:
        """Return a fresh token that carries these nonces.

        Parameters
        ----------
        nonces : sequence of str
            At most six, of 64 hex digits each.

        Raises
        ------
        AttestationError
            If there is none to be had.
        """


class DevelopmentAttester:
    """Vouches for an ordinary process, by a key in a file beside its ledger.

    Parameters
    ----------
    path : str or Path
        The private key; made with owner-only rights if it does not exist. The public key lies beside it
        under the same name with ``.pub``.
    audience : str
        The ``aud`` of its tokens.
    clock : callable, optional
        Unix time in seconds.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        audience: str = AUDIENCE,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._key = _load_or_make_key(Path(path))
        self._audience = audience
        self._clock = clock
        public = self._key.public_key()
        self.public_key = public.public_bytes(
            Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
        ).decode()
        Path(f"{path}.pub").write_text(self.public_key)
        logger.warning(
            "development attestation: this process vouches for itself, so its operator can read every "
            "report; for local runs only"
        )

    def token(self, nonces: Sequence[str]) -> str:
        """Return a fresh token that carries these nonces."""
        now = int(self._clock())
        claims = {
            "iss": DEVELOPMENT_ISSUER,
            "aud": self._audience,
            "iat": now,
            "nbf": now,
            "exp": now + DEVELOPMENT_TOKEN_SECONDS,
            "swname": DEVELOPMENT_SOFTWARE,
            "dbgstat": "disabled-since-boot",
            "submods": {"container": {"image_digest": DEVELOPMENT_IMAGE}},
            "eat_nonce": list(nonces),
        }
        return jwt.encode(claims, self._key, algorithm="ES256", headers={"kid": "development"})


class ConfidentialSpaceAttester:
    """Asks the launcher of Google's Confidential Space, over its Unix socket.

    Parameters
    ----------
    audience : str
        The ``aud`` that the token is to have.
    token_type : {"OIDC", "PKI"}
        ``PKI`` tokens bring their certificate chain, so that devices can pin the root.
    path : str or Path
        The launcher's socket.
    """

    def __init__(
        self,
        *,
        audience: str = AUDIENCE,
        token_type: str = "PKI",  # noqa: S107 - a kind of token
        path: str | Path = LAUNCHER_SOCKET,
    ) -> None:
        self._audience = audience
        self._token_type = token_type
        self._path = str(path)

    def token(self, nonces: Sequence[str]) -> str:
        """Return a fresh token that carries these nonces."""
        request = {
            "audience": self._audience,
            "token_type": self._token_type,
            "nonces": list(nonces),
        }
        connection = _UnixConnection(self._path)
        try:
            connection.request(
                "POST",
                "/v1/token",
                json.dumps(request),
                {"Content-Type": "application/json"},
            )
            answer = connection.getresponse()
            body = answer.read(TOKEN_LIMIT + 1)
        except (OSError, http.client.HTTPException) as error:
            raise AttestationError(
                f"the launcher at {self._path} does not answer ({error}); this attester works inside a "
                "Confidential Space workload only"
            ) from None
        finally:
            connection.close()
        if answer.status != 200:
            raise AttestationError(f"the launcher refused with status {answer.status}")
        return _bounded(body)


class CommandAttester:
    """Runs a program with the nonces as its arguments and takes the token from its standard output.

    For services that come with a client of their own, such as Intel Trust Authority's, and for Azure's
    attestation container.

    Parameters
    ----------
    command : sequence of str
        The program and its first arguments; no shell is involved.
    """

    def __init__(self, command: Sequence[str]) -> None:
        if not command:
            raise ValueError("CommandAttester needs a program")
        self._command = tuple(command)

    def token(self, nonces: Sequence[str]) -> str:
        """Return a fresh token that carries these nonces."""
        try:
            done = subprocess.run(  # noqa: S603 - the operator's own program
                [*self._command, *nonces],
                capture_output=True,
                timeout=_TIMEOUT_SECONDS,
                check=True,
                stdin=subprocess.DEVNULL,
            )
        except subprocess.CalledProcessError as error:
            raise AttestationError(
                f"{self._command[0]} ended with {error.returncode}: "
                f"{error.stderr[-500:].decode(errors='replace')}"
            ) from None
        except (OSError, subprocess.TimeoutExpired) as error:
            raise AttestationError(f"{self._command[0]} gave no token: {error}") from None
        return _bounded(done.stdout)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=_TIMEOUT_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def _bounded(body: bytes) -> str:
    text = body.strip()
    if not 0 < len(text) <= TOKEN_LIMIT:
        raise AttestationError(f"the token has {len(text)} characters; 1 to {TOKEN_LIMIT} fit")
    return text.decode("ascii", errors="replace")


def _load_or_make_key(path: Path) -> EllipticCurvePrivateKey:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        try:
            key = load_pem_private_key(path.read_bytes(), password=None)
        except (OSError, ValueError, TypeError) as error:
            raise AttestationError(f"the attestation key {path} cannot be read: {error}") from None
        if not isinstance(key, EllipticCurvePrivateKey):
            raise AttestationError(f"{path} holds no elliptic curve key") from None
        return key
    except OSError as error:
        raise AttestationError(
            f"cannot make the attestation key {path}: {error.strerror}"
        ) from None
    made = generate_private_key(SECP256R1())
    with os.fdopen(descriptor, "wb") as file:
        file.write(made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return made
