"""What Alembic runs: migrates the connection that it is given, or the environment's database."""

from __future__ import annotations

import os

from alembic import context
from sqlalchemy import Connection, create_engine

from pocketfl_server.database import metadata


def _migrate(connection: Connection) -> None:
    # SQLite changes a column by copying its table.
    context.configure(connection=connection, target_metadata=metadata, render_as_batch=True)
    with context.begin_transaction():
        context.run_migrations()


_given: Connection | None = context.config.attributes.get("connection")
if _given is not None:
    _migrate(_given)
else:
    with create_engine(os.environ["POCKETFL_DATABASE_URL"]).begin() as _connection:
        _migrate(_connection)
