"""The device's side of the protocol: what is sent, what is fetched, and what it costs."""

from pocketfl.transport.downloads import DownloadCache
from pocketfl.transport.http import HttpTransport, Timeouts
from pocketfl.transport.interface import Traffic, Transport
from pocketfl.transport.retrying import RetryPolicy

__all__ = [
    "DownloadCache",
    "HttpTransport",
    "RetryPolicy",
    "Timeouts",
    "Traffic",
    "Transport",
]
