"""A database of any earlier release becomes one of now and keeps its rows; a later one is refused."""

from __future__ import annotations

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import MetaData, create_engine, inspect, text

from pocketfl_server import migrations
from pocketfl_server.database import Database, metadata
from pocketfl_server.errors import DatabaseUnusableError

REVISIONS = [f"{number:04}" for number in range(1, int(migrations.HEAD) + 1)]


def schema_of(connection) -> dict[str, object]:
    """Tables, columns, keys and indexes as the database itself describes them."""
    found = inspect(connection)
    return {
        name: (
            [(c["name"], str(c["type"]), c["nullable"]) for c in found.get_columns(name)],
            sorted(found.get_pk_constraint(name)["constrained_columns"]),
            sorted(map(repr, (i["column_names"] + [i["unique"]] for i in found.get_indexes(name)))),
            sorted(repr(k["constrained_columns"]) for k in found.get_foreign_keys(name)),
        )
        for name in sorted(found.get_table_names())
    }


def test_revisions_are_numbered_up_to_the_newest() -> None:
    """Alembic reads the same line of revisions as this program does."""
    config = Config()
    config.set_main_option("script_location", migrations.__path__[0])
    script = ScriptDirectory.from_config(config)
    assert script.get_heads() == [migrations.HEAD]
    assert sorted(found.revision for found in script.walk_revisions()) == REVISIONS


@pytest.mark.parametrize("before_alembic", [False, True])
def test_every_release_leads_to_the_tables_of_now(database_url, before_alembic, tmp_path) -> None:
    """From each revision on: the same schema as a new database's, with the rows that were there."""
    new = Database(database_url)
    with new.reading() as connection:
        expected = schema_of(connection)
    new.close()
    for revision in REVISIONS:
        engine = create_engine(database_url)
        with engine.begin() as connection:
            everything = MetaData()
            everything.reflect(connection)
            everything.drop_all(connection)
            migrations.upgrade(connection, revision)
            connection.execute(
                text("INSERT INTO devices VALUES (:t, 'ada', '1', 20000)"), {"t": b"x" * 32}
            )
            connection.execute(
                text(
                    "INSERT INTO tasks (name, plan_sha256, privacy, state, optimizer, key_id, "
                    "public_key, created_at) VALUES ('t', 'p', 'none', 'active', '', 'k', 'q', 1.0)"
                )
            )
            had_tokens = "0004" <= revision < "0009"
            if had_tokens:
                values = {"key": b"public", "device": b"x" * 32}
                connection.execute(
                    text("INSERT INTO token_keys VALUES ('t', 3, :key, :key)"), values
                )
                connection.execute(
                    text("INSERT INTO issued_tokens VALUES ('t', 3, :device, :device)"), values
                )
            if before_alembic:
                connection.execute(text("DROP TABLE alembic_version"))
                connection.execute(text("CREATE TABLE pocketfl_schema_version (version INTEGER)"))
                number = {"number": int(revision)}
                connection.execute(
                    text("INSERT INTO pocketfl_schema_version VALUES (:number)"), number
                )
        engine.dispose()
        database = Database(database_url)
        with database.writing() as connection:
            assert schema_of(connection) == expected, revision
            assert compare_metadata(MigrationContext.configure(connection), metadata) == []
            rows = connection.execute(text("SELECT version_num FROM alembic_version")).all()
            assert rows == [(migrations.HEAD,)]
            assert connection.execute(text("SELECT sdk FROM devices")).all() == [("1",)]
            assert connection.execute(text("SELECT name FROM tasks")).all() == [("t",)]
            # Until then every anonymous token was for one round.
            for table in ("token_keys", "issued_tokens"):
                epochs = text(f"SELECT task, first_round, last_round FROM {table}")
                assert connection.execute(epochs).all() == ([("t", 3, 3)] if had_tokens else [])
        database.close()


def test_a_database_of_a_later_release_is_left_alone(database_url) -> None:
    """Whatever it holds is not guessed at, and the message says what to do."""
    Database(database_url).close()
    engine = create_engine(database_url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        before = schema_of(connection)
    with pytest.raises(DatabaseUnusableError, match=r"revision 9999.*A later pocketfl"):
        Database(database_url)
    with engine.begin() as connection:
        assert schema_of(connection) == before
        assert connection.execute(text("SELECT * FROM alembic_version")).all() == [("9999",)]
    engine.dispose()


def test_a_migration_that_fails_changes_nothing(database_url, monkeypatch) -> None:
    """All of a migration happens, or nothing of it does."""
    engine = create_engine(database_url)
    with engine.begin() as connection:
        migrations.upgrade(connection, "0001")
    upgrade = migrations.upgrade

    def half(connection, revision) -> None:
        upgrade(connection, "0002")
        raise RuntimeError("the power fails")

    monkeypatch.setattr(migrations, "upgrade", half)
    with pytest.raises(RuntimeError, match="power"):
        Database(database_url)
    with engine.begin() as connection:
        assert connection.execute(text("SELECT * FROM alembic_version")).all() == [("0001",)]
        assert "pauses" not in inspect(connection).get_table_names()
    engine.dispose()
