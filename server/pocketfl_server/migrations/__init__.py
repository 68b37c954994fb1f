"""The back end's schema, revision by revision: a database of any release becomes one of now.

A database is asked for its revision at every start, and Alembic is loaded only where something is to
be done. A new database gets all tables at once; a test sees to it that the revisions lead to the same.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from sqlalchemy import Connection, MetaData, inspect, text

from pocketfl_server.errors import DatabaseUnusableError

HEAD: Final = "0010"
"""The newest revision; each is the number of the one before plus one."""

_REVISIONS: Final = "alembic_version"
_BEFORE_ALEMBIC: Final = "pocketfl_schema_version"
"""Where the first releases kept a number; it is that of the revision."""
_READ_REVISIONS: Final = text(f"SELECT version_num FROM {_REVISIONS}")  # noqa: S608
_READ_NUMBERS: Final = text(f"SELECT version FROM {_BEFORE_ALEMBIC}")  # noqa: S608


def prepare_schema(connection: Connection, metadata: MetaData, *, shown: str) -> None:
    """Create the tables of a new database, migrate an older one, leave one of now as it is.

    Parameters
    ----------
    connection : Connection
        In a transaction: all of it happens, or nothing.
    metadata : MetaData
        The tables of now.
    shown : str
        The database's name for messages.

    Raises
    ------
    DatabaseUnusableError
        If the database is somebody else's, or of a later release.
    """
    present = set(inspect(connection).get_table_names())
    if not present:
        metadata.create_all(connection)
        _stamp(connection, HEAD)
        return
    found = _revision(connection, present, shown=shown)
    if not (len(found) == len(HEAD) and found.isdecimal() and "0001" <= found <= HEAD):
        raise DatabaseUnusableError(
            f"the database {shown} has schema revision {found}; this pocketfl knows those up to "
            f"{HEAD}. A later pocketfl has migrated it: use that one, or put back the copy from before"
        )
    if _BEFORE_ALEMBIC in present:
        _stamp(connection, found)
        connection.execute(text(f"DROP TABLE {_BEFORE_ALEMBIC}"))
    if found != HEAD:
        upgrade(connection, HEAD)


def upgrade(connection: Connection, revision: str) -> None:
    """Run the migrations up to a revision on a connection that is in a transaction."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, revision)


def _revision(connection: Connection, present: set[str], *, shown: str) -> str:
    if _REVISIONS in present:
        revisions = connection.execute(_READ_REVISIONS).scalars().all()
        return revisions[0] if len(revisions) == 1 else "unknown"
    if _BEFORE_ALEMBIC not in present:
        raise DatabaseUnusableError(
            f"the database {shown} holds other tables ({sorted(present)[0]!r} is one); give PocketFL a "
            "database of its own"
        )
    numbers = connection.execute(_READ_NUMBERS).scalars().all()
    return f"{numbers[0]:04}" if len(numbers) == 1 else "unknown"


def _stamp(connection: Connection, revision: str) -> None:
    connection.execute(
        text(
            f"CREATE TABLE IF NOT EXISTS {_REVISIONS} ("
            "version_num VARCHAR(32) NOT NULL, "
            f"CONSTRAINT {_REVISIONS}_pkc PRIMARY KEY (version_num))"
        )
    )
    connection.execute(
        text(f"INSERT INTO {_REVISIONS} (version_num) VALUES (:revision)"),  # noqa: S608
        {"revision": revision},
    )
