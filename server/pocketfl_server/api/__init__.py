"""HTTP in front of the back end: the device protocol and the operator's routes."""

from pocketfl_server.api.app import create_app

__all__ = ["create_app"]
