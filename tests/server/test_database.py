"""The database is ours, of our version, and durable; anything else is refused with its reason."""

from __future__ import annotations

import sqlite3
import threading

import pytest
from sqlalchemy import create_engine, text

from pocketfl_server.database import Database, devices
from pocketfl_server.errors import DatabaseUnusableError


def test_somebody_else_s_database_is_left_alone(database_url) -> None:
    """A database with other tables is refused, and not a table is added."""
    engine = create_engine(database_url)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE customers (id INTEGER)"))
    with pytest.raises(DatabaseUnusableError, match="'customers'"):
        Database(database_url)
    engine.dispose()


def test_a_file_that_is_no_database_is_refused(tmp_path) -> None:
    """The file is named, its contents are kept."""
    path = tmp_path / "notes.txt"
    path.write_text("not a database " * 100)
    with pytest.raises(DatabaseUnusableError, match=r"notes\.txt"):
        Database(f"sqlite:///{path}")
    assert path.read_text().startswith("not a database")


@pytest.mark.parametrize(
    "url", ["sqlite://", "sqlite:///:memory:", "mysql://host/db", "no url at all", ""]
)
def test_urls_that_cannot_serve_are_refused(url) -> None:
    """In memory nothing is durable; other databases are not tested."""
    with pytest.raises(DatabaseUnusableError):
        Database(url)


def test_a_password_stays_out_of_messages() -> None:
    """What is printed about a database that cannot be reached names it without its secret."""
    url = "postgresql+psycopg://user:hunter2@127.0.0.1:1/none"
    with pytest.raises(DatabaseUnusableError) as caught:
        Database(url)
    assert "hunter2" not in str(caught.value)


def test_a_promise_waits_for_the_disk(database_url) -> None:
    """A durable commit is flushed; one that promises nothing need not be, and neither sticks."""
    database = Database(database_url)
    if database.in_process:
        setting, waits, waits_not = "PRAGMA synchronous", 2, 1
    else:
        setting, waits, waits_not = "SHOW synchronous_commit", "on", "off"
    for durable in (True, False, True, False):
        with database.writing(durable=durable) as connection:
            assert connection.exec_driver_sql(setting).scalar() == (waits if durable else waits_not)
    database.close()


def test_sqlite_checks_references_and_logs_ahead(tmp_path) -> None:
    """Readers never wait for the writer, and no row refers to nothing."""
    database = Database(f"sqlite:///{tmp_path / 'back_end.db'}")
    with database.writing() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
        with database.reading() as reader:
            assert reader.execute(devices.select()).all() == []
    database.close()


def test_a_failing_transaction_leaves_no_trace(database_url) -> None:
    """Whatever raises, nothing of the transaction is kept."""
    database = Database(database_url)
    row = {"token_sha256": b"x" * 32, "user": "ada", "sdk": "1", "enrolled_day": 1}
    with pytest.raises(RuntimeError), database.writing() as connection:
        connection.execute(devices.insert(), row)
        raise RuntimeError
    with database.reading() as connection:
        assert connection.execute(devices.select()).all() == []
    database.close()


def test_many_threads_write_without_losing_anything(database_url) -> None:
    """Writers queue; none is turned away by another's lock."""
    database = Database(database_url)
    failures = []

    def write(thread: int) -> None:
        try:
            for index in range(20):
                with database.writing() as connection:
                    token = bytes([thread, index]) * 16
                    row = {"token_sha256": token, "user": "a", "sdk": "1", "enrolled_day": 1}
                    connection.execute(devices.insert(), row)
        except Exception as error:  # handed to the main thread
            failures.append(error)

    threads = [threading.Thread(target=write, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    with database.reading() as connection:
        assert len(connection.execute(devices.select()).all()) == 160
    database.close()


def test_parameters_of_statements_stay_out_of_errors(database_url) -> None:
    """A failing statement does not quote a token, a user or a report."""
    database = Database(database_url)
    row = {"token_sha256": b"x" * 32, "user": "secret-user", "sdk": "1", "enrolled_day": 1}
    with pytest.raises(Exception, match=r"(?i)unique") as caught, database.writing() as connection:
        connection.execute(devices.insert(), row)
        connection.execute(devices.insert(), row)
    assert "secret-user" not in str(caught.value)
    database.close()


def test_the_file_is_an_ordinary_sqlite_database(tmp_path) -> None:
    """Anybody's tools can look into it."""
    path = tmp_path / "back_end.db"
    Database(f"sqlite:///{path}").close()
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()
