"""``python -m pocketfl_app.worker``: the argument comes on standard input, which only it reads."""

import sys

from pocketfl_app.worker.program import serve

serve(sys.stdin.readline())
