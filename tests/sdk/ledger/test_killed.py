"""A process that is really killed: what it did is never more than what the ledger holds."""

from __future__ import annotations

import random
import subprocess
import sys
import time

from pocketfl.budgets import Amounts, Budgets, Limits
from pocketfl.database import Database
from pocketfl.ledger import Ledger, Refusal

DAY = 86_400.0
LIMIT = 400.0
STRIDE = 3.0

# Writes a byte for each unit that it uses, unbuffered and before it is recorded: what stands there is
# what was really used.
SCRIPT = """
import os, sys
from pocketfl.budgets import Amounts, Budgets, Limits
from pocketfl.database import Database
from pocketfl.ledger import Ledger, Refusal

budgets = Budgets(per_day=Limits(cpu_seconds=float(sys.argv[2])))
stride = Amounts(cpu_seconds=3.0)
with Database(sys.argv[1]) as database:
    ledger = Ledger(database)
    number = int(sys.argv[3])
    left = ledger.unsettled()
    session = None
    if left:
        session = ledger.resume(left[0], needs=stride, wants=stride, budgets=budgets)
        if isinstance(session, Refusal):
            ledger.settle(left[0], outcome="unknown")
            sys.exit(3)
    while True:
        if session is None:
            session = ledger.reserve(
                task="t", round=number, needs=stride, wants=Amounts(cpu_seconds=20.0),
                budgets=budgets, stride=stride,
            )
            if isinstance(session, Refusal):
                sys.exit(4)
        number += 1
        reason = None
        while reason is None:
            for _ in range(3):
                os.write(1, b".")
            reason = ledger.spend(session, stride)
        ledger.settle(session, outcome="sent")
        session = None
"""


def test_killed_processes_never_overspend(tmp_path):
    """Killed 12 times at random moments, a device keeps to its budget, and loses a stride each time."""
    path = tmp_path / "device.db"
    Database(path).close()
    used, rng = 0, random.Random(7)
    for run in range(12):
        process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(path), str(LIMIT), str(1000 * run)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
        )
        # The first byte shows that it has begun; from then on every moment is as good.
        first = process.stdout.read(1)
        time.sleep(rng.uniform(0.0, 0.02))
        process.kill()
        rest, errors = process.communicate(timeout=200)
        assert process.returncode in (-9, 3, 4), errors.decode()
        used += len(first) + len(rest)
        with Database(path) as database:
            ledger = Ledger(database)
            assert used <= LIMIT
            assert ledger.used(seconds=DAY).cpu_seconds >= used
            # Killed between a resumption that was refused and its settlement, a process is charged a
            # stride although it used nothing.
            assert ledger.used(seconds=DAY).cpu_seconds <= LIMIT + STRIDE * (run + 1)
    with Database(path) as database:
        ledger = Ledger(database)
        for left in ledger.unsettled():
            ledger.settle(left, outcome="unknown")
        recorded = ledger.used(seconds=DAY).cpu_seconds
        # A stride for each death is all that was charged without having been used.
        assert used <= recorded <= used + 12 * 3.0 + 3.0
        budgets = Budgets(per_day=Limits(cpu_seconds=LIMIT + 100))
        made = ledger.reserve(
            task="t", round=10**6, needs=Amounts(cpu_seconds=1.0), budgets=budgets
        )
        assert not isinstance(made, Refusal)
