"""Back end and trusted tier as two real processes: they start, survive a kill, and stop."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import numpy as np
import pytest

from pocketfl.protocol import EnrolmentRequest
from pocketfl.transport import HttpTransport
from pocketfl_server.deployment.settings import SettingsError
from pocketfl_server.deployment.supervisor import DeploymentError
from pocketfl_server.local import LocalDeployment

from .conftest import AVERAGING, CHECK_IN, seal_update


def report(deployment, plan, names, *, update):
    for name in names:
        transport = HttpTransport(deployment.url)
        request = EnrolmentRequest(user=name, sdk="1")
        token = transport.enrol(deployment.enrolment_key, request).token
        (notice,) = transport.notices().notices
        assignment = transport.check_in(token, notice.task, notice.round, CHECK_IN)
        transport.upload(assignment.lease, seal_update(update, assignment, plan))
        transport.close()


def check_secrets(deployment: LocalDeployment) -> None:
    for name in ("operator-key", "enrolment-key", "trusted-token"):
        path = deployment.directory / name
        assert path.stat().st_mode & 0o077 == 0
        for process in deployment.processes.values():
            assert path.read_text() not in " ".join(map(str, process.args))


def test_a_deployment_survives_kill_9_of_both_processes(tmp_path, make_plan, plan_keys) -> None:
    """Reports with a receipt are in the release that a restarted deployment makes of the round.

    And its secrets are readable by their owner only, and on nobody's command line.
    """
    plan = make_plan(privacy="none")
    with LocalDeployment(tmp_path / "local", plan_keys=plan_keys) as deployment:
        check_secrets(deployment)
        deployment.operator.create_task("clicks", plan.data, optimizer=AVERAGING)
        deployment.operator.open_round("clicks", seconds=600)
        report(deployment, plan, ["a", "b"], update=np.full(5, 0.4))
        secrets = (deployment.operator_key, deployment.enrolment_key)
        deployment.stop_process("gateway", kill=True)
        deployment.stop_process("trusted", kill=True)
    with LocalDeployment(tmp_path / "local", plan_keys=plan_keys) as deployment:
        assert (deployment.operator_key, deployment.enrolment_key) == secrets
        report(deployment, plan, ["c", "d"], update=np.full(5, 0.4))
        result = deployment.operator.close_round("clicks", 1)
        assert result.new_version == 1
        moved = deployment.operator.model_parameters("clicks", 1)
        np.testing.assert_allclose(moved, 0.4, atol=0.002)
        assert deployment.operator.funnel("clicks", 1).accepted == 4
        pids = [process.pid for process in deployment.processes.values()]
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_deadline_ends_a_round_without_anybody_asking(tmp_path, make_plan, plan_keys) -> None:
    """The back end's own clock closes the round."""
    plan = make_plan(privacy="none")
    with LocalDeployment(tmp_path, plan_keys=plan_keys) as deployment:
        deployment.operator.create_task("clicks", plan.data, optimizer=AVERAGING)
        deployment.operator.open_round("clicks", seconds=6)
        report(deployment, plan, ["a", "b"], update=np.full(5, 0.4))
        deadline = time.monotonic() + 120
        while deployment.operator.round("clicks", 1).state != "finished":
            assert time.monotonic() < deadline
            time.sleep(0.1)
        for log in ("gateway", "trusted"):
            assert "POST" not in deployment.log(log)  # no access log: addresses beside leases


def test_a_deployment_that_cannot_start_says_why(tmp_path) -> None:
    """The last words of the process are in the message, and nothing keeps running."""
    with pytest.raises(SettingsError, match="not 32 bytes or 64 hex digits"):
        LocalDeployment(tmp_path, plan_keys=["not a key"]).start()
    (tmp_path / "ledger.db").write_bytes(b"")
    (tmp_path / "ledger.db").chmod(0o644)
    deployment = LocalDeployment(tmp_path, plan_keys=["11" * 32])
    with pytest.raises(DeploymentError, match="run chmod 600 on it"):
        deployment.start()
    assert deployment.processes == {}


def test_the_trusted_tier_loads_nothing_of_the_back_end() -> None:
    """Its process has no code of the back end in it, but for what reads settings and starts it."""
    script = (
        "import sys, pocketfl_server.deployment.processes, pocketfl_server.trusted.process\n"
        "print([m for m in sys.modules if m.startswith('pocketfl_server') "
        "and not m.startswith('pocketfl_server.trusted')])"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=200
    )
    assert sorted(eval(result.stdout)) == [
        "pocketfl_server",
        "pocketfl_server.deployment",
        "pocketfl_server.deployment.lifeline",
        "pocketfl_server.deployment.processes",
        "pocketfl_server.deployment.settings",
        "pocketfl_server.observability",
        "pocketfl_server.observability.logs",
    ]


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_killed_driver_leaves_no_server_behind(tmp_path, plan_keys) -> None:
    """SIGKILL gives the driver no time to stop anything; both processes still end by themselves."""
    script = (
        "import sys, time\n"
        "from pocketfl_server.local import LocalDeployment\n"
        f"with LocalDeployment({str(tmp_path)!r}, plan_keys={list(plan_keys)!r}) as running:\n"
        "    print(*[p.pid for p in running.processes.values()], flush=True)\n"
        "    time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as driver:
        assert driver.stdout is not None
        pids = [int(pid) for pid in driver.stdout.readline().split()]
        assert len(pids) == 2
        assert all(map(is_running, pids))
        driver.kill()
    deadline = time.monotonic() + 120
    while any(map(is_running, pids)):
        assert time.monotonic() < deadline
        time.sleep(0.05)
