"""Several gateways, each a process, over one PostgreSQL and one trusted tier; some are killed."""

from __future__ import annotations

import itertools
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

import numpy as np
import pytest
from sqlalchemy import create_engine, text

from pocketfl.errors import TransportError
from pocketfl.protocol import Assignment, EnrolmentRequest
from pocketfl.transport import HttpTransport
from pocketfl_server.database import Database
from pocketfl_server.local import LocalDeployment
from pocketfl_server.operator_client import OperatorClient
from pocketfl_server.records import Funnel, Schedule

from .conftest import AVERAGING, CHECK_IN, seal_update

pytestmark = pytest.mark.several_gateways

DEVICES = 48


def one_hot(index: int) -> np.ndarray:
    update = np.zeros(DEVICES)
    update[index] = 0.5
    return update


@contextmanager
def deploy(tmp_path, database_url, plan_keys, plan, *, seconds: float) -> Iterator[LocalDeployment]:
    with LocalDeployment(
        tmp_path, plan_keys=plan_keys, database_url=database_url, gateways=3
    ) as running:
        running.operator.create_task("clicks", plan.data, optimizer=AVERAGING)
        running.operator.open_round("clicks", seconds=seconds)
        yield running


def report_through(running: LocalDeployment, plan, index: int) -> bool:
    """What a device does: it asks again when its gateway dies, and reaches another one.

    Returns whether it got a receipt.
    """
    with closing(HttpTransport(running.url)) as transport:
        request = EnrolmentRequest(user=f"user-{index}", sdk="1")
        while True:
            try:
                token = transport.enrol(running.enrolment_key, request).token
                answer = transport.check_in(token, "clicks", 1, CHECK_IN)
            except TransportError as error:
                assert error.status is None  # it enrols anew: no other request is not idempotent
            else:
                break
        if not isinstance(answer, Assignment):
            return False  # the gateway that had given the lease died before it could say so
        transport.upload(answer.lease, seal_update(one_hot(index), answer, plan))
        return True


def until_finished(running: LocalDeployment) -> tuple[np.ndarray, Funnel]:
    """Wait for the round's own end, told by a gateway that lives; its model and its counts."""
    deadline = time.monotonic() + 120
    with OperatorClient(running.url, running.operator_key) as operator:
        while operator.round("clicks", 1).state != "finished":
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert [model.version for model in operator.models("clicks")] == [0, 1]
        return operator.model_parameters("clicks", 1), operator.funnel("clicks", 1)


def test_a_gateway_killed_among_reports_loses_and_doubles_none(
    tmp_path, database_url, plan_keys, make_plan
) -> None:
    """Every report with a receipt is in the sum exactly once, and the others close the round."""
    plan = make_plan(
        privacy="none", parameters=DEVICES, population=DEVICES, cohort_floor=1, name="counted"
    )
    with deploy(tmp_path, database_url, plan_keys, plan, seconds=600) as running:
        received: dict[int, bool] = {}
        failed: list[BaseException] = []

        def work(numbers: range) -> None:
            try:
                for index in numbers:
                    received[index] = report_through(running, plan, index)
            except BaseException as error:
                failed.append(error)

        threads = [threading.Thread(target=work, args=(range(n, DEVICES, 4),)) for n in range(4)]
        for thread in threads:
            thread.start()
        while len(received) < DEVICES // 3 and not failed:
            time.sleep(0.002)
        running.stop_process("gateway-2", kill=True)
        for thread in threads:
            thread.join()
        assert not failed, failed
        with OperatorClient(running.url, running.operator_key) as operator:
            operator.close_round("clicks", 1)
        parameters, funnel = until_finished(running)
        # The server divides by the expected cohort, which is everybody.
        counted = np.rint(parameters * DEVICES / 0.5 * 64) / 64
        expected = [float(received[index]) for index in range(DEVICES)]
        np.testing.assert_allclose(counted, expected, atol=0.05)
        assert funnel.accepted == sum(received.values()) >= DEVICES - 4


def test_a_gateway_killed_while_it_ends_a_round_is_replaced(
    tmp_path, database_url, plan_keys, make_plan
) -> None:
    """One gateway has the lock and waits for the trusted tier; when it dies, another goes on."""
    plan = make_plan(privacy="none", parameters=DEVICES, population=DEVICES, cohort_floor=1)
    with deploy(tmp_path, database_url, plan_keys, plan, seconds=15) as running:
        for index in range(6):
            assert report_through(running, plan, index)
        trusted = running.processes["trusted"]
        trusted.send_signal(signal.SIGSTOP)
        leader = leader_of(database_url)
        name = next(n for n, p in running.processes.items() if p.pid == leader)
        running.stop_process(name, kill=True)
        successor = leader_of(database_url, other_than=leader)
        assert successor in [process.pid for process in running.processes.values()]
        trusted.send_signal(signal.SIGCONT)
        parameters, funnel = until_finished(running)
        np.testing.assert_allclose(parameters[:6] * DEVICES, 0.5, atol=0.002)
        np.testing.assert_array_equal(parameters[6:], 0)
        assert funnel.accepted == 6


@pytest.mark.slow
def test_a_started_task_goes_on_while_gateways_are_killed(
    tmp_path, database_url, plan_keys, make_plan
) -> None:
    """One after the other is killed; the last one opens and ends every round, each once."""
    plan = make_plan(privacy="none", cohort_floor=1)
    with LocalDeployment(
        tmp_path, plan_keys=plan_keys, database_url=database_url, gateways=3
    ) as running:
        running.operator.create_task("clicks", plan.data, optimizer=AVERAGING)
        running.operator.start("clicks", Schedule(round_seconds=2, rounds=5))

        def until(number: int, *, ended: bool = False) -> None:
            deadline = time.monotonic() + 120
            while True:
                with OperatorClient(running.url, running.operator_key) as operator:
                    rounds = operator.rounds("clicks")
                if len(rounds) >= number and (not ended or rounds[number - 1].ended_at):
                    break
                assert time.monotonic() < deadline
                time.sleep(0.1)

        for number, name in ((2, "gateway"), (3, "gateway-2")):
            until(number)
            running.stop_process(name, kill=True)
        until(5, ended=True)
        deadline = time.monotonic() + 120
        with OperatorClient(running.url, running.operator_key) as operator:
            while (record := operator.schedule("clicks")).state != "ended":
                assert time.monotonic() < deadline
                time.sleep(0.1)
            time.sleep(2.5)  # a sixth would have opened
            rounds = operator.rounds("clicks")
        assert (record.state, record.reason) == ("ended", "all_rounds_opened")
        assert record.opened == 5
        assert [(r.round, r.reason) for r in rounds] == [
            (number, "floor_not_reached") for number in range(1, 6)
        ]
        for earlier, later in itertools.pairwise(rounds):
            assert earlier.ended_at is not None and later.opened_at >= earlier.ended_at


def leader_of(database_url: str, *, other_than: int = os.getpid()) -> int:
    """Return the process id of the gateway that holds a lock, once there is one."""
    engine = create_engine(database_url)
    holders = text(
        "SELECT application_name FROM pg_locks JOIN pg_stat_activity USING (pid) "
        "WHERE locktype = 'advisory' AND granted AND application_name LIKE 'pocketfl gateway %'"
    )
    deadline = time.monotonic() + 120
    try:
        while time.monotonic() < deadline:
            with engine.connect() as connection:
                pids = [int(row[0].split()[-1]) for row in connection.execute(holders)]
            if pids and other_than not in pids:
                return pids[0]
            time.sleep(0.05)
    finally:
        engine.dispose()
    raise AssertionError("no gateway took the lock")


def test_a_lock_is_one_gateway_s(database_url) -> None:
    """Two gateways never have the same lock; another name, or its holder's end, leaves it free."""
    first, second = Database(database_url), Database(database_url)
    try:
        with first.exclusively("end clicks") as mine:
            assert mine
            with second.exclusively("end clicks") as too:
                assert not too
            with second.exclusively("end views") as other:
                assert other
        with second.exclusively("end clicks") as now:
            assert now
    finally:
        first.close()
        second.close()
