"""Whom the app's TLS connections trust, where Python does not find the system's authorities."""

from __future__ import annotations

import os

from pocketfl.java import on_android


def use_bundled_authorities() -> None:
    """On Android, let OpenSSL read certifi's file: it cannot read the system's store."""
    if on_android():
        import certifi

        os.environ.setdefault("SSL_CERT_FILE", certifi.where())
