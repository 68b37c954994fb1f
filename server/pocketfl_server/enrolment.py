"""Enrolment: an app proves that it may take part, and its device gets a token of its own."""

from __future__ import annotations

import hmac
import secrets
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from sqlalchemy import Connection, bindparam, func, select

from pocketfl.protocol import Enrolment, EnrolmentRequest
from pocketfl_server.database import devices
from pocketfl_server.errors import Malformed, NotAuthenticated

MAX_USER_CHARACTERS: Final = 256
MAX_SDK_CHARACTERS: Final = 64
_TOKEN_BYTES: Final = 32
_SECONDS_PER_DAY: Final = 86_400

_INSERT = devices.insert()
_FIND = select(devices.c.user).where(devices.c.token_sha256 == bindparam("token_sha256"))
_BY_SDK = select(devices.c.sdk, func.count()).group_by(devices.c.sdk)


@dataclass(frozen=True)
class DeviceIdentity:
    """Who checked in: known at check-in and for features only.

    Attributes
    ----------
    device : bytes
        SHA-256 of the device token.
    user : str
        Whose device it is.
    """

    device: bytes
    user: str


class Enrolments:
    """Issues device tokens and recognises them.

    A token is 256 random bits, so its plain SHA-256 cannot be searched for and needs no salt.

    Parameters
    ----------
    enrolment_key : str
        The secret that the app was built with; at least 16 characters.
    """

    def __init__(self, *, enrolment_key: str) -> None:
        if len(enrolment_key) < 16:
            raise ValueError("the enrolment key needs at least 16 characters")
        self._enrolment_key = token_digest(enrolment_key)

    def count_by_sdk(self, connection: Connection) -> dict[str, int]:
        """Return how many devices have enrolled with each version of the SDK."""
        return {sdk: int(count) for sdk, count in connection.execute(_BY_SDK)}

    def check(self, key: str, request: EnrolmentRequest) -> None:
        """Refuse a request that must not or cannot become a device.

        Raises
        ------
        NotAuthenticated
            If the enrolment key is wrong.
        Malformed
            If the user or the SDK's version has an impossible length.
        """
        if not hmac.compare_digest(token_digest(key), self._enrolment_key):
            raise NotAuthenticated("the enrolment key is wrong", code="wrong_enrolment_key")
        check_text(request.user, what="user", limit=MAX_USER_CHARACTERS)
        check_text(request.sdk, what="sdk", limit=MAX_SDK_CHARACTERS)

    @staticmethod
    def add(connection: Connection, request: EnrolmentRequest, *, now: float) -> Enrolment:
        """Make a device token bound to a user, for a request that was checked."""
        token = secrets.token_urlsafe(_TOKEN_BYTES)
        connection.execute(
            _INSERT,
            {
                "token_sha256": token_digest(token),
                "user": request.user,
                "sdk": request.sdk,
                "enrolled_day": int(now // _SECONDS_PER_DAY),
            },
        )
        return Enrolment(token=token)

    def authenticate(self, connection: Connection, token: str) -> DeviceIdentity:
        """Return whose token this is.

        Raises
        ------
        NotAuthenticated
            If no device has it.
        """
        device = token_digest(token)
        # Looking up the hash leaks nothing about the token by its timing.
        user = connection.execute(_FIND, {"token_sha256": device}).scalar()
        if user is None:
            raise unknown_token()
        return DeviceIdentity(device, user)


def check_text(text: str, *, what: str, limit: int) -> str:
    """Return a short text that every database can hold.

    Raises
    ------
    Malformed
        If it is empty, too long, or has NUL or half of a surrogate pair in it.
    """
    whole = not any(character == "\0" or "\ud800" <= character <= "\udfff" for character in text)
    if not 0 < len(text) <= limit or not whole:
        raise Malformed(f"{what} needs 1 to {limit} characters of valid Unicode, none of them NUL")
    return text


def unknown_token() -> NotAuthenticated:
    """Return the refusal of a token that no device has."""
    return NotAuthenticated("no device has this token; enrol first", code="unknown_token")


def token_digest(secret: str) -> bytes:
    """Return what is kept of a token: its SHA-256."""
    return sha256(secret.encode("utf-8", "surrogatepass")).digest()
