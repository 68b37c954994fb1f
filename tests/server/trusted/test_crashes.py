"""The trusted tier is killed without warning at every point that matters; nothing is lost or twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import traceback

import pytest

from pocketfl_server.trusted import releasing
from pocketfl_server.trusted.aggregator import Aggregator
from pocketfl_server.trusted.client import HttpTrustedTier
from pocketfl_server.trusted.ledger import Ledger
from pocketfl_server.trusted.messages import decode_batch, encode_batch
from pocketfl_server.trusted.releases import encode_release

TOKEN = "a-token-of-the-back-end"


def die(*_args, **_kwargs):
    os.kill(os.getpid(), signal.SIGKILL)


def run_until(folder, plan_keys, point):
    """Submit and release, and die at the named point."""
    tier = Aggregator(folder / "ledger", plan_keys=plan_keys)

    def die_on(statement):
        tier._ledger._connection.set_trace_callback(
            lambda sql: die() if sql.startswith(statement) else None
        )

    if point == "while submitting":
        die_on("COMMIT")
    tier.submit("clicks", 1, 0, decode_batch((folder / "batch").read_bytes()))
    if point == "after submitting":
        die()
    elif point == "before the noise":
        releasing.add_noise = die
    elif point == "after the noise":
        Ledger.commit_release = die
    elif point == "within the release's transaction":
        die_on("DELETE")
    elif point == "before the release's commit":
        die_on("COMMIT")
    elif point == "after the release's commit":
        Ledger._forget = die
    tier.release("clicks", 1, 0)
    if point == "before the reply":
        die()


def killed_in_a_process(folder, plan_keys, point):
    """Fork, run there, and say whether the child was killed rather than done or broken."""
    child = os.fork()
    if child == 0:
        try:
            run_until(folder, plan_keys, point)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)  # only a point that was never reached gets here
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


RELEASED = ("after the release's commit", "before the reply")


@pytest.fixture
def prepared(tmp_path, make_plan, plan_keys, sealed_vector):
    """A registered task, and a batch of five reports in a file."""
    plan = make_plan()
    with Aggregator(tmp_path / "ledger", plan_keys=plan_keys) as tier:
        key = tier.register("clicks", plan.data)
    entries = [sealed_vector([i, 1, 0], key=key, lease=f"lease-{i:012d}") for i in range(5)]
    (tmp_path / "batch").write_bytes(encode_batch(entries))
    return tmp_path


@pytest.mark.parametrize(
    "point",
    [
        "while submitting",
        "after submitting",
        "before the noise",
        "after the noise",
        "within the release's transaction",
        "before the release's commit",
        *RELEASED,
    ],
)
def test_killed_at_any_point(prepared, plan_keys, point):
    """After a restart there is one release and one charge, of all reports that were accepted."""
    assert killed_in_a_process(prepared, plan_keys, point)
    with Aggregator(prepared / "ledger", plan_keys=plan_keys) as tier:
        stored = tier._ledger.release("clicks", 1)
        held = tier._ledger.report_count("clicks", 1)
        spent = tier.describe("clicks").spent.releases
        if point in RELEASED:
            assert (held, spent) == (0, 1)
        else:
            assert (stored, spent) == (None, 0)
            assert held == (0 if point == "while submitting" else 5)
            # The back end never heard an answer, so it asks again.
            tier.submit("clicks", 1, 0, decode_batch((prepared / "batch").read_bytes()))
        release = tier.release("clicks", 1, 0)
        if stored is not None:
            assert encode_release(release) == stored
        assert release.reports == 5
        assert tier.describe("clicks").spent.releases == 1
        assert encode_release(tier.release("clicks", 1, 0)) == encode_release(release)


SERVER = textwrap.dedent(
    """
    import socket, sys
    from pocketfl_server.trusted.process import AttestationSettings, serve

    folder, plan_key, token = sys.argv[1:]
    listener = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    serve(
        listener,
        ledger_path=folder + "/ledger",
        plan_keys=[plan_key],
        token=token,
        attestation=AttestationSettings(kind="none", audience="devices"),
        ready=lambda: print(url, flush=True),
    )
    """
)


class Process:
    """The trusted tier in a process of its own."""

    def __init__(self, folder, plan_key):
        self.popen = subprocess.Popen(
            [sys.executable, "-c", SERVER, str(folder), plan_key, TOKEN],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.url = self.popen.stdout.readline().strip()

    def __enter__(self):
        return self

    def __exit__(self, *_args):
        if self.popen.poll() is None:
            self.popen.kill()
        self.popen.communicate()


def test_a_killed_process_goes_on_where_it_was(tmp_path, make_plan, plan_keys, sealed_vector):
    """Over real HTTP: killed after submission and again after release, it answers the same."""
    with Aggregator(tmp_path / "ledger", plan_keys=plan_keys) as tier:
        key = tier.register("clicks", make_plan().data)
    with Process(tmp_path, plan_keys[0]) as process, HttpTrustedTier(process.url, TOKEN) as tier:
        entries = [sealed_vector([i, 1, 0], key=key, lease=f"lease-{i:012d}") for i in range(5)]
        tier.submit("clicks", 1, 0, entries)
        os.kill(process.popen.pid, signal.SIGKILL)
        process.popen.wait()
    with Process(tmp_path, plan_keys[0]) as process, HttpTrustedTier(process.url, TOKEN) as tier:
        tier.submit("clicks", 1, 0, entries[:2])
        release = tier.release("clicks", 1, 0)
        assert release.reports == 5
        os.kill(process.popen.pid, signal.SIGKILL)
        process.popen.wait()
    with Process(tmp_path, plan_keys[0]) as process, HttpTrustedTier(process.url, TOKEN) as tier:
        again = tier.release("clicks", 1, 0)
        assert encode_release(again) == encode_release(release)
        # Told to stop, it stops cleanly and has said nothing but its address.
        process.popen.terminate()
        out, err = process.popen.communicate(timeout=200)
        assert (out, err) == ("", "")
        assert process.popen.returncode in {0, -signal.SIGTERM}
    with Aggregator(tmp_path / "ledger", plan_keys=plan_keys) as tier:
        assert tier.describe("clicks").spent.releases == 1
