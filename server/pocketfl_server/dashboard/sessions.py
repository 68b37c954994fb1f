"""Who may look: a browser shows a token once, and then a cookie that only we can make."""

from __future__ import annotations

import hmac
from hashlib import sha256
from typing import Final

from pocketfl_server.access import OPERATOR_KEY_NAME, READERS, Access
from pocketfl_server.errors import NotAuthenticated

COOKIE: Final = "pocketfl_dashboard"
SESSION_SECONDS: Final = 12 * 3600
_LABEL: Final = b"pocketfl dashboard 1\n"
_LONGEST: Final = 256


class Sessions:
    """Signed cookies, so that every gateway of a deployment takes them and none has to keep any.

    Parameters
    ----------
    access : Access
        Knows tokens. A session ends with the token that began it.
    operator_key : str
        With another one, every session is over.
    """

    def __init__(self, access: Access, *, operator_key: str) -> None:
        self._access = access
        secret = operator_key.encode("utf-8", "surrogatepass")
        self._key = sha256(_LABEL + secret).digest()

    def begin(self, token: str, *, now: float) -> str | None:
        """Return a cookie's value that is good for :data:`SESSION_SECONDS`; None for a wrong token.

        Parameters
        ----------
        token : str
            The operator key, or anybody's who may look.
        now : float
            Unix time in seconds.
        """
        try:
            who = self._access.identify(token)
        except NotAuthenticated:
            return None
        since = self._since(who.name)
        if who.role not in READERS or since is None:
            return None
        expires = str(int(now) + SESSION_SECONDS)
        return f"{expires}.{self._sign(expires, who.name, since)}.{who.name}"

    def is_valid(self, cookie: str | None, *, now: float) -> bool:
        """Say whether a cookie is ours and not over, and its token not taken back since."""
        if cookie is None or len(cookie) > _LONGEST or cookie.count(".") < 2:
            return False
        expires, signature, name = cookie.split(".", 2)
        if not (expires.isascii() and expires.isdecimal() and len(expires) <= 12):
            return False
        since = self._since(name)
        if since is None:
            return False
        expected = self._sign(expires, name, since).encode()
        right = hmac.compare_digest(expected, signature.encode("utf-8", "replace"))
        return right and now < int(expires)

    def _since(self, name: str) -> float | None:
        """Return since when a name has the token that it has; None if it has none."""
        if name == OPERATOR_KEY_NAME:
            return 0.0
        return next((t.created_at for t in self._access.all() if t.name == name), None)

    def _sign(self, expires: str, name: str, since: float) -> str:
        message = f"{expires}\n{name}\n{since!r}".encode()
        return hmac.digest(self._key, message, "sha256").hex()
