"""Shared transactions: one flush for many, and nobody pays for another's failure."""

from __future__ import annotations

import asyncio
import threading

import pytest
from sqlalchemy.exc import IntegrityError

from pocketfl_server.database import Database, devices
from pocketfl_server.errors import Conflict
from pocketfl_server.group_commit import GroupCommit


def insert(number: int):
    def operation(connection) -> int:
        token = number.to_bytes(32, "big")
        row = {"token_sha256": token, "user": f"u{number}", "sdk": "1", "enrolled_day": 1}
        connection.execute(devices.insert(), row)
        return number

    return operation


def refuse(connection) -> None:
    raise Conflict("no")


@pytest.fixture
def database(database_url):
    database = Database(database_url)
    yield database
    database.close()


def users(database: Database) -> set[str]:
    with database.reading() as connection:
        return {row.user for row in connection.execute(devices.select())}


def run(database: Database, operations: list) -> list:
    async def together() -> list:
        group = GroupCommit(database)
        try:
            return await asyncio.gather(*map(group.run, operations), return_exceptions=True)
        finally:
            group.close()

    return asyncio.run(together())


def test_everybody_gets_their_own_answer(database) -> None:
    """More operations than fit one batch, answered in order."""
    assert run(database, [insert(number) for number in range(600)]) == list(range(600))
    assert len(users(database)) == 600


def test_operations_share_transactions(database, monkeypatch) -> None:
    """What gathers while one batch commits is committed by the next, not one by one."""
    transactions = []
    writing = Database.writing

    def counted(self, *, durable):
        transactions.append(threading.current_thread().name)
        return writing(self, durable=durable)

    monkeypatch.setattr(Database, "writing", counted)
    assert run(database, [insert(number) for number in range(100)]) == list(range(100))
    assert len(transactions) == 2  # the first alone, all others together
    assert all(name.startswith("group-commit") for name in transactions)


def test_a_refusal_concerns_only_its_own_request(database) -> None:
    """The rest of the batch is committed."""
    first, refusal, last = run(database, [insert(1), refuse, insert(2)])
    assert (first, last) == (1, 2)
    assert isinstance(refusal, Conflict)
    assert users(database) == {"u1", "u2"}


def test_an_unforeseen_failure_concerns_only_its_own_request(database) -> None:
    """The transaction is lost, and each operation gets one of its own."""
    answers = run(database, [insert(0), insert(1), insert(1), insert(2)])
    assert answers[:2] == [0, 1]
    assert isinstance(answers[2], IntegrityError)
    assert answers[3] == 2
    assert users(database) == {"u0", "u1", "u2"}


def test_an_answer_means_that_it_is_committed(database) -> None:
    """When the request is answered, another connection sees what it wrote."""

    async def check() -> None:
        group = GroupCommit(database)
        for number in range(5):
            await group.run(insert(number))
            assert f"u{number}" in users(database)
        group.close()

    asyncio.run(check())


def test_a_request_that_went_away_disturbs_nobody(database) -> None:
    """A cancelled waiter does not stop the others of its batch from being answered."""

    async def check() -> list[int]:
        group = GroupCommit(database)
        waiting = [asyncio.ensure_future(group.run(insert(number))) for number in range(10)]
        await asyncio.sleep(0)
        waiting[5].cancel()
        answers = await asyncio.gather(*waiting[:5], *waiting[6:])
        group.close()
        return answers

    assert asyncio.run(check()) == [0, 1, 2, 3, 4, 6, 7, 8, 9]


def test_one_promise_makes_the_whole_batch_durable(database, monkeypatch) -> None:
    """A batch waits for the disk if anything in it has to, and only then."""
    asked = []
    writing = Database.writing

    def noted(self, *, durable):
        asked.append(durable)
        return writing(self, durable=durable)

    async def check() -> None:
        group = GroupCommit(database)
        for durable in ([False, False], [False, True]):
            waiting = [
                group.run(insert(len(asked) * 10 + index), durable=wanted)
                for index, wanted in enumerate([True, *durable])
            ]
            await asyncio.gather(*waiting)
        group.close()

    monkeypatch.setattr(Database, "writing", noted)
    asyncio.run(check())
    assert asked == [True, False, True, True]


def test_a_lone_prompt_request_waits_for_no_thread(database, monkeypatch) -> None:
    """With an idle database in this process it is done at once; any other goes to the thread."""
    threads = []
    writing = Database.writing

    def noted(self, *, durable):
        threads.append(threading.current_thread() is threading.main_thread())
        return writing(self, durable=durable)

    async def check() -> None:
        group = GroupCommit(database)
        assert await group.run(insert(1), durable=False) == 1
        with pytest.raises(Conflict):
            await group.run(refuse, durable=False)
        assert await group.run(insert(2)) == 2
        group.close()

    monkeypatch.setattr(Database, "writing", noted)
    asyncio.run(check())
    assert threads == [database.in_process, database.in_process, False]
    assert users(database) == {"u1", "u2"}


def test_a_prompt_request_never_holds_up_the_others_behind_a_long_transaction(database) -> None:
    """While somebody else writes, the event loop goes on, and the request is done afterwards."""

    async def check() -> None:
        group = GroupCommit(database)
        with database.writing() as connection:
            waiting = asyncio.ensure_future(group.run(insert(1), durable=False))
            for _ in range(20):
                await asyncio.sleep(0.001)  # would never come back if the loop waited for us
            insert(2)(connection)
        assert await asyncio.wait_for(waiting, 30) == 1
        group.close()

    asyncio.run(check())
    assert users(database) == {"u1", "u2"}
