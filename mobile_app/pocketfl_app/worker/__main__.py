"""``python -m pocketfl_app.worker``: the argument comes on standard input, which only it reads."""

import os
import sys

from pocketfl_app.worker.program import serve

if hasattr(os, "nice"):
    # Where both want a core, the screen comes first: a finger waits for it, and nobody for a step.
    os.nice(10)
serve(sys.stdin.readline())
