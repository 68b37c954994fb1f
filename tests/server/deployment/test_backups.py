"""A backup is a copy of the files of a stopped deployment: started elsewhere, it has lost nothing."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from pocketfl.protocol import CheckIn, EnrolmentRequest
from pocketfl.transport import HttpTransport
from pocketfl_server.deployment.supervisor import DeploymentError
from pocketfl_server.local import LocalDeployment
from pocketfl_server.optimizers import OptimizerSpec

from ..conftest import seal_update

AVERAGING = OptimizerSpec(kind="sgd", learning_rate=1.0, momentum=0.0)
CHECK_IN = CheckIn(sdk="0.1.0", plan_schemas=(1, 2, 3), runtimes=("onnxruntime",))


def report(site: LocalDeployment, plan, name: str) -> None:
    transport = HttpTransport(site.url)
    token = transport.enrol(site.enrolment_key, EnrolmentRequest(user=name, sdk="1")).token
    (notice,) = transport.notices().notices
    assignment = transport.check_in(token, notice.task, notice.round, CHECK_IN)
    transport.upload(assignment.lease, seal_update(np.full(5, 0.4), assignment, plan))
    transport.close()


def test_stop_copy_start_loses_nothing(tmp_path: Path, make_plan, plan_keys) -> None:
    """Tasks, models, spent privacy and reports of the open round are in the copy; it goes on there.

    And a ledger that is put back over a newer one is refused, because the budget would forget.
    """
    plan = make_plan()
    first, second = tmp_path / "first", tmp_path / "second"
    with LocalDeployment(first, plan_keys=plan_keys) as site:
        site.operator.create_task("clicks", plan.data, optimizer=AVERAGING)
        site.operator.open_round("clicks", seconds=600)
        for name in ("a", "b"):
            report(site, plan, name)
        assert site.operator.close_round("clicks", 1).new_version == 1
        site.operator.open_round("clicks", seconds=600)
        for name in ("c", "d"):
            report(site, plan, name)
        before = (
            site.operator.tasks(),
            site.operator.models("clicks"),
            site.operator.rounds("clicks"),
            site.operator.funnel("clicks", 2),
            site.operator.privacy("clicks"),
            site.operator.model_parameters("clicks", 1).tobytes(),
        )
    shutil.copytree(first, second)
    with LocalDeployment(second, plan_keys=plan_keys) as site:
        after = (
            site.operator.tasks(),
            site.operator.models("clicks"),
            site.operator.rounds("clicks"),
            site.operator.funnel("clicks", 2),
            site.operator.privacy("clicks"),
            site.operator.model_parameters("clicks", 1).tobytes(),
        )
        assert after == before
        report(site, plan, "e")
        assert site.operator.close_round("clicks", 2).new_version == 2
        assert site.operator.funnel("clicks", 2).accepted == 3
    shutil.copy(first / "ledger.db", second / "ledger.db")
    with (
        pytest.raises(DeploymentError, match="rolled back"),
        LocalDeployment(second, plan_keys=plan_keys),
    ):
        pass
