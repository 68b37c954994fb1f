"""Lets atheris look for bytes that break one parser: run as a program, because it ends its process.

``python coverage_guided.py FORMAT RUNS`` exits with 0 if none was found.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import atheris

# Before anything else loads them: their branches are what guides the search.
with atheris.instrument_imports(include=["pocketfl.", "pocketfl_server."]):
    from pocketfl.errors import DecodeError, PlanError

    spec = importlib.util.spec_from_file_location(
        "test_parsers", Path(__file__).with_name("test_parsers.py")
    )
    assert spec is not None and spec.loader is not None
    formats = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(formats)


def main(name: str, runs: str) -> None:
    """Search from valid bytes on, with a fixed seed."""
    valid, parse = formats.parsers(formats.placeholder_plan(40, 10, None))[name]

    def try_one(data: bytes) -> None:
        # The search starts from nothing; half of what it finds is put into valid bytes instead.
        damaged = data
        if len(data) > 2 and data[0] % 2:
            place = int.from_bytes(data[1:3], "little") % len(valid)
            damaged = valid[:place] + data[3:] + valid[place + len(data) - 3 :]
        try:
            parse(damaged)
        except (DecodeError, PlanError):
            return

    arguments = [sys.argv[0], f"-runs={runs}", "-seed=1", "-max_len=4096", "-max_total_time=20"]
    atheris.Setup(arguments, try_one)
    atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])
