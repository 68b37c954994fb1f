"""Shared transactions: what many requests write at about the same time becomes durable at once.

Making a transaction durable costs a flush of the disk, whether it holds one row or a hundred. Requests
hand their small operations in; while one batch is being committed, the next one gathers.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, TypeVar

from sqlalchemy import Connection

from pocketfl_server.database import Database
from pocketfl_server.errors import Refusal

T = TypeVar("T")
Operation: TypeAlias = Callable[[Connection], Any]
"""Works on an open transaction. One that raises a refusal has written nothing before."""

MAX_OPERATIONS: Final = 256


@dataclass(frozen=True)
class _Outcome:
    value: Any = None
    error: BaseException | None = None


@dataclass(frozen=True)
class _Request:
    operation: Operation
    future: asyncio.Future[Any]
    durable: bool


class GroupCommit:
    """Runs operations of one event loop, in the order in which they came, on a thread of its own.

    Parameters
    ----------
    database : Database
        Where they write.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._pending: deque[_Request] = deque()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="group-commit")
        self._committing = False

    async def run(self, operation: Callable[[Connection], T], *, durable: bool = True) -> T:
        """Return what the operation returned once its transaction is committed.

        Parameters
        ----------
        operation : callable
            Works on an open transaction.
        durable : bool
            Whether the commit has to wait for the disk; it does if any of the batch asks for it.

        Raises
        ------
        Refusal
            What the operation refused with; other operations of the same batch are unaffected.
        """
        if not (durable or self._pending or self._committing) and self._database.idle_in_process:
            # Nobody to share with and no disk to wait for: quicker done than handed to a thread.
            with self._database.writing(durable=False) as connection:
                return operation(connection)
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._pending.append(_Request(operation, future, durable))
        if not self._committing:
            self._start(loop)
        return await future

    def close(self) -> None:
        """Wait for the batch that is being committed."""
        self._thread.shutdown(wait=True)

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        count = min(len(self._pending), MAX_OPERATIONS)
        batch = [self._pending.popleft() for _ in range(count)]
        self._committing = True
        self._thread.submit(self._commit_and_tell, batch, loop)

    def _commit_and_tell(
        self,
        batch: list[_Request],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        outcomes = commit_together(
            self._database,
            [request.operation for request in batch],
            durable=any(request.durable for request in batch),
        )
        loop.call_soon_threadsafe(self._tell, batch, outcomes, loop)

    def _tell(
        self,
        batch: list[_Request],
        outcomes: list[_Outcome],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._committing = False
        if self._pending:
            self._start(loop)
        for request, outcome in zip(batch, outcomes, strict=True):
            if request.future.cancelled():
                continue
            if outcome.error is not None:
                request.future.set_exception(outcome.error)
            else:
                request.future.set_result(outcome.value)


def commit_together(
    database: Database, operations: list[Operation], *, durable: bool
) -> list[_Outcome]:
    """Run operations in one transaction, or each in its own if that transaction fails."""
    try:
        with database.writing(durable=durable) as connection:
            return [_attempt(operation, connection) for operation in operations]
    except Exception as error:
        if len(operations) == 1:
            return [_Outcome(error=error)]
    # Something unforeseen undid the transaction. Alone, only the guilty operation fails.
    return [commit_together(database, [one], durable=durable)[0] for one in operations]


def _attempt(operation: Operation, connection: Connection) -> _Outcome:
    try:
        return _Outcome(value=operation(connection))
    except Refusal as refusal:
        return _Outcome(error=refusal)
