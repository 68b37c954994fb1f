"""``pocketfl serve`` as a real process: it starts what its file says, and all of it stops."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pocketfl_server.local import LocalDeployment

PROGRAM = Path(sys.executable).parent / "pocketfl"


@contextmanager
def serving(settings: Path) -> Iterator[subprocess.Popen[str]]:
    """The command with its output captured, once both tiers accept requests."""
    process = subprocess.Popen(
        [PROGRAM, "serve", str(settings)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def children_of(pid: int) -> list[int]:
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in listed.split()]


def said_until(process: subprocess.Popen[str], wanted: str) -> str:
    said = ""
    while wanted not in said:
        line = process.stdout.readline()
        assert line, said
        said += line
    return said


def wait_until_gone(pids: list[int]) -> None:
    deadline = time.monotonic() + 120
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture
def settings(tmp_path: Path, plan_keys: list[str]) -> Path:
    """A file of settings with its secrets, on free ports."""
    return LocalDeployment(tmp_path, plan_keys=plan_keys).prepare()


def test_sigterm_stops_everything_in_order(settings: Path) -> None:
    """Exit status 0, no traceback, no process left, and it starts again on the same files."""
    for _ in range(2):
        with serving(settings) as process:
            said = said_until(process, "back end on http://127.0.0.1:")
            assert "its operator can read every report" in said
            pids = children_of(process.pid)
            assert len(pids) == 2
            process.send_signal(signal.SIGTERM)
            rest, _ = process.communicate(timeout=200)
        assert process.returncode == 0
        assert rest == ""
        wait_until_gone(pids)


def test_a_process_that_dies_is_not_restarted_silently(settings: Path) -> None:
    """All stop, the exit status is 1 and the message names the process."""
    with serving(settings) as process:
        said_until(process, "back end on")
        pids = children_of(process.pid)
        os.kill(pids[0], signal.SIGKILL)
        rest, _ = process.communicate(timeout=200)
    assert process.returncode == 1
    assert "the process 'trusted' has ended with status -9" in rest
    assert "Traceback" not in rest
    wait_until_gone(pids)


def test_what_keeps_a_process_from_starting_is_said(settings: Path) -> None:
    """The cause is in the output, and nothing keeps running."""
    settings.write_text(settings.read_text().replace('database = "sqlite', 'database = "nosuch'))
    with serving(settings) as process:
        output, _ = process.communicate(timeout=200)
    assert process.returncode == 1
    assert "nosuch is not supported; use sqlite or postgresql+psycopg" in output
    assert "the process 'gateway' ended (1) at its start" in output
    assert "Traceback" not in output


def test_the_trusted_tier_answers_prometheus_where_the_settings_say(settings: Path) -> None:
    """On an address of its own, in its own process; an address that is taken is named."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        settings.write_text(settings.read_text() + f"metrics = {{port = {port}}}\n")
        with serving(settings) as process:
            output, _ = process.communicate(timeout=200)
        assert f"port {port}, for metrics: Address already in use" in output
        assert "Traceback" not in output
    with serving(settings) as process:
        said_until(process, "back end on")
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
            assert b"pocketfl_trusted_worker_restarts_total 0.0" in answer.read()
        process.send_signal(signal.SIGTERM)
        rest, _ = process.communicate(timeout=200)
    assert (process.returncode, rest) == (0, "")
