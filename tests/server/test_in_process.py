"""The in-process transport says what HTTP says, refusals included."""

from __future__ import annotations

import numpy as np
import pytest

from pocketfl.errors import TransportError
from pocketfl.protocol import Assignment, EnrolmentRequest, FeatureRow
from pocketfl.transport import HttpTransport, Transport
from pocketfl_server.in_process import InProcessTransport

from .conftest import AVERAGING, CHECK_IN, ENROLMENT_KEY, Served, seal_update


@pytest.fixture(params=["in process", "http"])
def transport(request, served: Served):
    if request.param == "http":
        transport: Transport = HttpTransport(served.url)
    else:
        transport = InProcessTransport(served.back_end)
    yield transport
    transport.close()


def test_a_device_cannot_tell_them_apart(served, transport, make_plan) -> None:
    """The same calls give the same kinds of answers and the same refusals."""
    plan = make_plan()
    served.back_end.create_task("clicks", plan.data, optimizer=AVERAGING)
    notice = served.back_end.open_round("clicks", seconds=60)
    row = FeatureRow(key="k", valid_from=0.0, values={"x": None})
    served.back_end.put_features("ada", "weather", [row])
    token = transport.enrol(ENROLMENT_KEY, EnrolmentRequest(user="ada", sdk="1")).token
    assert transport.notices().notices == (notice,)
    assignment = transport.check_in(token, "clicks", 1, CHECK_IN)
    assert isinstance(assignment, Assignment)
    assert transport.plan(notice.plan_sha256) == plan.data
    assert transport.parameters(notice.parameters_sha256) == bytes(20)
    assert transport.features(token, "weather", None).rows == (row,)
    report = seal_update(np.ones(5), assignment, plan)
    receipt = transport.upload(assignment.lease, report)
    assert receipt.sha256 == report.sha256
    other = seal_update(np.ones(5), assignment, plan)
    refusals = {
        (401, "wrong_enrolment_key"): lambda: transport.enrol(
            "wrong", EnrolmentRequest(user="ada", sdk="1")
        ),
        (401, "unknown_token"): lambda: transport.check_in("x" * 43, "clicks", 1, CHECK_IN),
        (404, "unknown_round"): lambda: transport.check_in(token, "clicks", 9, CHECK_IN),
        (404, "unknown_plan"): lambda: transport.plan("0" * 64),
        (409, "other_report_for_lease"): lambda: transport.upload(assignment.lease, other),
        (422, "bad_cursor"): lambda: transport.features(token, "weather", "x"),
    }
    for (status, code), ask in refusals.items():
        with pytest.raises(TransportError) as caught:
            ask()
        assert (caught.value.status, caught.value.code) == (status, code)


def test_traffic_counts_contents_once(back_end, make_plan) -> None:
    """A plan that is asked for twice is counted once; a report counts in full."""
    plan = make_plan()
    back_end.create_task("clicks", plan.data, optimizer=AVERAGING)
    back_end.open_round("clicks", seconds=60)
    transport = InProcessTransport(back_end)
    transport.plan(plan.sha256)
    transport.plan(plan.sha256)
    assert transport.traffic.bytes_down == len(plan.data)
    token = transport.enrol(ENROLMENT_KEY, EnrolmentRequest(user="ada", sdk="1")).token
    assignment = transport.check_in(token, "clicks", 1, CHECK_IN)
    assert isinstance(assignment, Assignment)
    report = seal_update(np.ones(5), assignment, plan)
    before = transport.traffic
    transport.upload(assignment.lease, report)
    assert (transport.traffic - before).bytes_up == len(report.data)
    assert (transport.traffic - before).requests == 1
