"""The device's side of the protocol: what is sent, what is fetched, and what it costs."""

from pocketfl.transport.connection import Timeouts
from pocketfl.transport.downloads import DownloadCache
from pocketfl.transport.http import HttpTransport
from pocketfl.transport.interface import (
    REQUEST_KINDS,
    DownloadWatch,
    RequestKind,
    Traffic,
    Transport,
)
from pocketfl.transport.retrying import RetryPolicy

__all__ = [
    "REQUEST_KINDS",
    "DownloadCache",
    "DownloadWatch",
    "HttpTransport",
    "RequestKind",
    "RetryPolicy",
    "Timeouts",
    "Traffic",
    "Transport",
]
