"""The text by which a person joins a server: typed, pasted, or read from a QR code by the camera app.

``pocketfl:join?server=https://...&aggregator=HEX&enrolment=KEY&plan=HEX``; ``plan``, a modeller's key
that the app was not built with, is left out for servers whose modeller the app knows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qsl, urlencode, urlsplit

from pocketfl.errors import PlanError, PocketFLError
from pocketfl.plan.signing import parse_public_keys
from pocketfl.sealing import PinnedAggregator

SCHEME: Final = "pocketfl"
_LIMIT: Final = 2000
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})


class EnrolmentTextError(PocketFLError):
    """A text is no invitation to a server; the message says what is wrong with it."""


@dataclass(frozen=True, kw_only=True)
class Site:
    """A server, and what the app needs to know of it.

    Attributes
    ----------
    server : str
        URL of the back end.
    aggregator : str
        Public key of the trusted tier, in hex: reports are sealed for it alone.
    enrolment : str
        The app's key for enrolling.
    plan_key : str or None
        A further modeller whose plans are trusted, in hex.
    """

    server: str
    aggregator: str
    enrolment: str
    plan_key: str | None = None

    def __post_init__(self) -> None:
        parts = urlsplit(self.server)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise EnrolmentTextError(
                f"{self.server!r} is no address such as https://fl.example.com"
            )
        if parts.scheme == "http" and parts.hostname not in _LOOPBACK:
            raise EnrolmentTextError(
                f"{self.server} is not encrypted: use https for a server that is not this device"
            )
        try:
            PinnedAggregator(self.aggregator)
        except (PocketFLError, ValueError):
            raise EnrolmentTextError("aggregator is no public key of 64 hex digits") from None
        if not self.enrolment:
            raise EnrolmentTextError("enrolment is empty: ask the operator for the enrolment key")
        if self.plan_key is not None:
            try:
                parse_public_keys([self.plan_key])
            except (PlanError, ValueError):
                raise EnrolmentTextError("plan is no public key of 64 hex digits") from None

    def to_text(self) -> str:
        """Return the text that makes this site again."""
        values = {
            "server": self.server,
            "aggregator": self.aggregator,
            "enrolment": self.enrolment,
        }
        if self.plan_key is not None:
            values["plan"] = self.plan_key
        return f"{SCHEME}:join?{urlencode(values)}"


def parse_enrolment(text: str) -> Site:
    """Read an invitation.

    Parameters
    ----------
    text : str
        As pasted; spaces around it do not matter.

    Raises
    ------
    EnrolmentTextError
        Saying what is missing or wrong.
    """
    text = text.strip()
    if len(text) > _LIMIT:
        raise EnrolmentTextError(f"an invitation has at most {_LIMIT} characters")
    try:
        parts = urlsplit(text)
    except ValueError:
        raise EnrolmentTextError("this is no invitation") from None
    if parts.scheme != SCHEME or parts.path != "join":
        raise EnrolmentTextError("an invitation begins with pocketfl:join?server=")
    values = dict(parse_qsl(parts.query))
    for name in ("server", "aggregator", "enrolment"):
        if name not in values:
            raise EnrolmentTextError(f"the invitation lacks {name!r}")
    return Site(
        server=values["server"],
        aggregator=values["aggregator"],
        enrolment=values["enrolment"],
        plan_key=values.get("plan"),
    )
