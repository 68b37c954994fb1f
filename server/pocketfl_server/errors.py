"""Why the back end says no: each refusal has a code for programs and the HTTP status that fits.

A refusal is raised before anything is written, so the state is as it was.
"""

from __future__ import annotations

from typing import ClassVar

from pocketfl.errors import PocketFLError
from pocketfl.protocol import Problem


class DatabaseUnusableError(PocketFLError):
    """The database cannot be used: damaged, not ours, or of another schema version."""


class ReleaseRefusedError(PocketFLError, TypeError):
    """A model was asked to move by something other than the release that its plan calls for."""


class Refusal(PocketFLError):  # noqa: N818 - named for what happened
    """A request that the back end turns down.

    Attributes
    ----------
    code : str
        The machine-readable reason.
    status : int
        The HTTP status that goes with it.
    details : dict
        Numbers and names that the message also gives.
    """

    default_code: ClassVar[str] = "refused"
    status: ClassVar[int] = 400

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        details: dict[str, str | int | float | bool | None] | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code or self.default_code
        self.details = dict(details or {})

    def problem(self) -> Problem:
        """Return the refusal as the protocol says it."""
        return Problem(code=self.code, message=str(self), details=self.details)


class Malformed(Refusal):
    """The request's bytes are not what the protocol asks for."""

    default_code = "malformed"
    status = 422


class NotAuthenticated(Refusal):
    """A key or token is missing, unknown or wrong."""

    default_code = "not_authenticated"
    status = 401


class NotAllowed(Refusal):
    """The token's role does not cover what was asked."""

    default_code = "not_allowed"
    status = 403


class NotFound(Refusal):
    """No such task, round, model, plan, parameters or lease; the code says which."""

    default_code = "not_found"
    status = 404


class RequestTimeout(Refusal):
    """The request's body did not arrive in time."""

    default_code = "request_timeout"
    status = 408


class Conflict(Refusal):
    """The request contradicts what is on record; the record stays."""

    default_code = "conflict"
    status = 409


class Gone(Refusal):
    """The lease has expired or its round is closed."""

    default_code = "lease_expired"
    status = 410


class TooLarge(Refusal):
    """The body has more bytes than its kind may have."""

    default_code = "body_too_large"
    status = 413


class UnsupportedMedia(Refusal):
    """The body has a content type that the route does not take."""

    default_code = "unsupported_media_type"
    status = 415
