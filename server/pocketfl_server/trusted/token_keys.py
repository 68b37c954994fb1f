"""The directory of token keys in the ledger: for each task one key for each epoch, and none exchanged.

What devices check is its head; see :mod:`pocketfl.credentials.directory`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Final

from pocketfl.credentials.directory import empty_directory, extend
from pocketfl.errors import PocketFLError
from pocketfl.protocol import LedgerHead
from pocketfl_server.trusted.messages import TokenKeyDigest

TABLE: Final = """
    CREATE TABLE token_keys(
        task TEXT NOT NULL REFERENCES tasks(task),
        sequence INTEGER NOT NULL,
        first_round INTEGER NOT NULL,
        last_round INTEGER NOT NULL,
        sha256 TEXT NOT NULL,
        digest TEXT NOT NULL,
        PRIMARY KEY(task, sequence)
    ) WITHOUT ROWID
    """


class TokenKeysConflictError(PocketFLError):
    """The directory has other token keys for these rounds; nothing was recorded."""


def enter(
    connection: sqlite3.Connection, task: str, keys: Sequence[TokenKeyDigest]
) -> tuple[LedgerHead, LedgerHead]:
    """Enter keys into a task's directory; those that are in it change nothing.

    Parameters
    ----------
    connection : sqlite3.Connection
        In a transaction, which is to be undone if this raises.
    task : str
        Name of the task.
    keys : sequence of TokenKeyDigest
        At least one, by their rounds.

    Returns
    -------
    tuple of (LedgerHead, LedgerHead)
        The directory's heads before the first and after the last of them.

    Raises
    ------
    TokenKeysConflictError
        If another key is on record for one of the rounds, or there are keys between these.
    """
    heads: list[LedgerHead] = []
    for key in keys:
        end, last_round = newest(connection, task)
        before, after = _around(connection, task, key.first_round) or (end, None)
        entered = extend(
            before,
            first_round=key.first_round,
            last_round=key.last_round,
            key_sha256=key.sha256,
        )
        is_another = key.first_round <= last_round if after is None else entered != after
        if is_another or (heads and heads[-1] != before):
            raise TokenKeysConflictError(
                f"another token key is on record for rounds {key.first_round} to {key.last_round}, or "
                "between these and the ones before"
            )
        if after is None:
            connection.execute(
                "INSERT INTO token_keys VALUES (?, ?, ?, ?, ?, ?)",
                (
                    task,
                    entered.sequence,
                    key.first_round,
                    key.last_round,
                    key.sha256,
                    entered.digest,
                ),
            )
        heads += [entered] if heads else [before, entered]
    return heads[0], heads[-1]


def newest(connection: sqlite3.Connection, task: str) -> tuple[LedgerHead, int]:
    """Return the head of a task's directory, and the last round that it has a key for."""
    row = connection.execute(
        "SELECT sequence, digest, last_round FROM token_keys "
        "WHERE task = ? ORDER BY sequence DESC LIMIT 1",
        (task,),
    ).fetchone()
    if row is None:
        return empty_directory(task), 0
    return LedgerHead(sequence=row[0], digest=row[1]), int(row[2])


def _around(
    connection: sqlite3.Connection, task: str, first_round: int
) -> tuple[LedgerHead, LedgerHead] | None:
    """Return the directory's heads before and after an epoch's key, or None if it has none."""
    row = connection.execute(
        "SELECT sequence, digest FROM token_keys WHERE task = ? AND first_round = ?",
        (task, first_round),
    ).fetchone()
    if row is None:
        return None
    before = connection.execute(
        "SELECT sequence, digest FROM token_keys WHERE task = ? AND sequence = ?",
        (task, row[0] - 1),
    ).fetchone()
    after = LedgerHead(sequence=row[0], digest=row[1])
    if before is None:
        return empty_directory(task), after
    return LedgerHead(sequence=before[0], digest=before[1]), after
