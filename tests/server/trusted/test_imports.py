"""The back end's half of the trusted tier is light, and the trusted tier knows no back end."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pocketfl_server.trusted

FOLDER = Path(pocketfl_server.trusted.__file__).parent
BACK_END_MAY_IMPORT = {"client", "messages", "refusals", "releases"}


def test_the_client_needs_no_accountant():
    """Importing what the back end uses loads neither dp-accounting nor OpenDP nor the aggregator."""
    script = (
        "import sys, pocketfl_server.trusted.client\n"
        "heavy = {'dp_accounting', 'opendp', 'scipy', 'fastapi', 'pyhpke', "
        "'pocketfl_server.trusted.aggregator', 'pocketfl_server.trusted.ledger'}\n"
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)"
    )
    child = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert (child.returncode, child.stderr) == (0, "")


def imported(file: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in names if name.startswith("pocketfl_server")}


def test_the_trusted_tier_imports_nothing_of_the_back_end():
    """Every import within our packages stays in the trusted tier or the device's package."""
    files = list(FOLDER.glob("*.py"))
    assert len(files) > 8
    for file in files:
        assert all(name.startswith("pocketfl_server.trusted") for name in imported(file)), file


def test_the_back_end_imports_nothing_of_the_trusted_tier_but_its_client():
    """Only what both sides say, and the client; one module alone may start the process."""
    for file in FOLDER.parent.rglob("*.py"):
        if FOLDER in file.parents:
            continue
        allowed = BACK_END_MAY_IMPORT | ({"process"} if file.name == "processes.py" else set())
        for name in imported(file):
            parts = name.split(".")
            if parts[1:2] == ["trusted"] and len(parts) > 2:
                assert parts[2] in allowed, (file, name)
