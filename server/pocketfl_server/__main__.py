"""``python -m pocketfl_server``: the same as ``pocketfl server``."""

from __future__ import annotations

import sys

from pocketfl.errors import PocketFLError
from pocketfl_server.commands import app

if __name__ == "__main__":
    try:
        app()
    except PocketFLError as error:
        sys.exit(f"error: {error}")
