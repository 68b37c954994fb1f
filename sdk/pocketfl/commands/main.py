"""The ``pocketfl`` program: its only job is to say what to install when the extra is missing."""

from __future__ import annotations

import sys

from pocketfl.errors import PocketFLError


def run() -> None:
    """Run the command line; what the SDK refuses ends in one line and exit status 1."""
    try:
        from pocketfl.commands.root import build_app
    except ModuleNotFoundError as error:
        sys.exit(f"the command line needs its extra ({error}): pip install 'pocketfl[cli]'")
    try:
        build_app(sys.argv[1] if len(sys.argv) > 1 else None)()
    except PocketFLError as error:
        sys.exit(f"error: {error}")
