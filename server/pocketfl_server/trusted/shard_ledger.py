"""What a ledger remembers of shards: partial sums that were handed over, and such as came in.

A shard that has handed a round's sum over cannot do so again with other reports, nor release it itself:
the sealed sum, the deletion of its reports and the end of the round are one transaction. To a program
that knows nothing of shards such a round is an abandoned one, which is never released, so these tables
need no version of the ledger's own.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Final

from pocketfl.errors import PocketFLError
from pocketfl_server.trusted.ledger import Ledger

_TABLES: Final = (
    """
    CREATE TABLE IF NOT EXISTS handed_over(
        task TEXT NOT NULL REFERENCES tasks(task),
        round INTEGER NOT NULL,
        model_version INTEGER NOT NULL,
        root_key_id TEXT NOT NULL,
        message BLOB NOT NULL,
        PRIMARY KEY(task, round)
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE IF NOT EXISTS partial_sums(
        task TEXT NOT NULL REFERENCES tasks(task),
        round INTEGER NOT NULL,
        shard TEXT NOT NULL,
        key_id TEXT NOT NULL,
        sha256 BLOB NOT NULL,
        message BLOB NOT NULL,
        PRIMARY KEY(task, round, shard),
        UNIQUE(task, round, key_id)
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE IF NOT EXISTS adopted(
        task TEXT NOT NULL REFERENCES tasks(task),
        round INTEGER NOT NULL,
        release BLOB NOT NULL,
        PRIMARY KEY(task, round)
    )
    """,
)


class ShardTakenError(PocketFLError):
    """Another partial sum of the shard, or of its key, is on record; the first stays."""


class ShardLedger:
    """The part of a ledger that is about shards.

    Parameters
    ----------
    ledger : Ledger
        Whose file it shares.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        with ledger._transaction() as connection:
            for statement in _TABLES:
                connection.execute(statement)

    def handed_over(self, task: str, number: int) -> tuple[int, str, bytes] | None:
        """Return model version, key id of the root, and message of what was handed over, or None."""
        with self._ledger._transaction() as connection:
            row = connection.execute(
                "SELECT model_version, root_key_id, message FROM handed_over "
                "WHERE task = ? AND round = ?",
                (task, number),
            ).fetchone()
        return None if row is None else (int(row[0]), str(row[1]), bytes(row[2]))

    def hand_over(
        self, task: str, number: int, *, model_version: int, root_key_id: str, message: bytes
    ) -> None:
        """Keep a sealed partial sum, delete the round's reports, and end the round."""
        with self._ledger._transaction() as connection:
            connection.execute(
                "INSERT INTO handed_over VALUES (?, ?, ?, ?, ?)",
                (task, number, model_version, root_key_id, message),
            )
            connection.execute(
                "INSERT INTO rounds VALUES (?, ?, ?, 'abandoned') ON CONFLICT DO NOTHING",
                (task, number, model_version),
            )
            self._ledger._close_round(connection, task, number, "abandoned")
        self._ledger._forget()

    def add(
        self,
        task: str,
        number: int,
        *,
        model_version: int,
        shard: str,
        key_id: str,
        message: bytes,
    ) -> None:
        """Keep a partial sum that came in, opening the round; the same bytes again change nothing.

        Raises
        ------
        ShardTakenError
            If other bytes are on record for the shard, or its key came under another name.
        """
        digest = sha256(message).digest()
        with self._ledger._transaction() as connection:
            connection.execute(
                "INSERT INTO rounds VALUES (?, ?, ?, 'open') ON CONFLICT DO NOTHING",
                (task, number, model_version),
            )
            added = connection.execute(
                "INSERT INTO partial_sums VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
                (task, number, shard, key_id, digest, message),
            )
            if added.rowcount:
                return
            row = connection.execute(
                "SELECT sha256 FROM partial_sums "
                "WHERE task = ? AND round = ? AND shard = ? AND key_id = ?",
                (task, number, shard, key_id),
            ).fetchone()
            if row is None or row[0] != digest:
                raise ShardTakenError(f"another partial sum of the shard {shard!r} is on record")

    def partial_sums(self, task: str, number: int) -> list[bytes]:
        """Return the messages of a round's partial sums, by shard."""
        with self._ledger._transaction() as connection:
            rows = connection.execute(
                "SELECT message FROM partial_sums WHERE task = ? AND round = ? ORDER BY shard",
                (task, number),
            ).fetchall()
        return [bytes(row[0]) for row in rows]

    def adopt(self, task: str, number: int, *, release: bytes) -> None:
        """Keep the root's release of a round, the first that came, in place of those before it."""
        with self._ledger._transaction() as connection:
            connection.execute(
                "INSERT INTO adopted VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
                (task, number, release),
            )
            connection.execute("DELETE FROM adopted WHERE task = ? AND round < ?", (task, number))

    def adopted(self, task: str, number: int) -> bytes | None:
        """Return what was adopted for a round, or None."""
        with self._ledger._transaction() as connection:
            row = connection.execute(
                "SELECT release FROM adopted WHERE task = ? AND round = ?", (task, number)
            ).fetchone()
        return None if row is None else bytes(row[0])

    def forget(self, task: str, number: int) -> None:
        """Delete the partial sums of rounds that are over."""
        with self._ledger._transaction() as connection:
            connection.execute(
                "DELETE FROM partial_sums WHERE task = ? AND round <= ?", (task, number)
            )
        self._ledger._forget()
