"""The device's file: made once, recognised, never overwritten when it is not ours."""

import sqlite3
import subprocess
import sys
import threading

import pytest

from pocketfl.database import APPLICATION_ID, LOST_AT_STATE, LOST_STATE, Database, Tables
from pocketfl.device.sessions import TABLES as SESSION_TABLES
from pocketfl.errors import StoreError
from pocketfl.ledger.tables import LEDGER


def test_state_survives_closing(tmp_path):
    """What was written is there after the file is opened again."""
    with Database(tmp_path / "a.db") as database:
        database.write_state("token", b"\x00secret")
        database.write_state("token", b"second")
    with Database(tmp_path / "a.db") as database:
        assert database.read_state("token") == b"second"
        database.delete_state("token")
        assert database.read_state("token") is None


def test_file_is_in_wal_mode_and_carries_our_marks(tmp_path):
    """The journal mode and the two header numbers are those that a cheap open relies on."""
    Database(tmp_path / "a.db").close()
    plain = sqlite3.connect(tmp_path / "a.db")
    assert plain.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert plain.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)
    assert plain.execute("PRAGMA user_version").fetchone() == (2,)
    plain.close()


def test_every_connection_is_durable_enough(tmp_path):
    """New and reopened connections both run at synchronous=NORMAL."""
    for _ in range(2):
        with Database(tmp_path / "a.db") as database:
            assert database.query("PRAGMA synchronous") == [(1,)]


def test_simulated_fleets_need_not_wait_for_the_disk(tmp_path):
    """Turning durability off changes that one setting, and the file is an ordinary one afterwards."""
    for _ in range(2):
        with Database(tmp_path / "a.db", durable=False) as database:
            assert database.query("PRAGMA synchronous") == [(0,)]
            database.write_state("a", b"1")
    with Database(tmp_path / "a.db") as database:
        assert database.query("PRAGMA synchronous") == [(1,)]
        assert database.read_state("a") == b"1"


def test_reopening_runs_no_ddl(tmp_path):
    """Opening a file that is ours changes not a byte of it."""
    Database(tmp_path / "a.db").close()
    before = (tmp_path / "a.db").read_bytes()
    Database(tmp_path / "a.db").close()
    assert (tmp_path / "a.db").read_bytes() == before


def test_failed_transaction_leaves_nothing(tmp_path):
    """An exception in the block undoes all of it, and the next transaction works."""
    with Database(tmp_path / "a.db") as database:
        with pytest.raises(RuntimeError, match="stop"), database.transaction():
            database.write_state("a", b"1")
            raise RuntimeError("stop")
        assert database.read_state("a") is None
        database.write_state("a", b"2")
        assert database.read_state("a") == b"2"


def test_inner_transaction_belongs_to_the_outer_one(tmp_path):
    """What an inner block wrote is undone when the outer one fails."""
    with Database(tmp_path / "a.db") as database:
        with pytest.raises(RuntimeError), database.transaction():
            with database.transaction():
                database.write_state("a", b"1")
            raise RuntimeError
        assert database.read_state("a") is None


def test_sql_errors_become_store_errors(tmp_path):
    """A constraint that fails inside a transaction comes out as our error and undoes the block."""
    with Database(tmp_path / "a.db") as database:
        with pytest.raises(StoreError, match="NOT NULL"), database.transaction() as connection:
            database.write_state("a", b"1")
            connection.execute("INSERT INTO device_state(name, value) VALUES('b', NULL)")
        assert database.read_state("a") is None


def test_snapshot_sees_one_state(tmp_path):
    """Queries of one snapshot agree although another connection writes between them."""
    with Database(tmp_path / "a.db") as database, Database(tmp_path / "a.db") as other:
        other.write_state("a", b"1")
        with database.snapshot():
            assert database.read_state("a") == b"1"
            other.write_state("a", b"2")
            assert database.read_state("a") == b"1"
        assert database.read_state("a") == b"2"


@pytest.mark.parametrize(
    "content",
    [b"not a database at all, only some text" * 200, b"SQLite format 3\x00" + b"\xff" * 5000],
    ids=["text", "broken header"],
)
def test_file_that_is_no_database_is_refused_and_kept(tmp_path, content):
    """Garbage gives a clear error and stays as it is."""
    path = tmp_path / "a.db"
    path.write_bytes(content)
    with pytest.raises(StoreError, match="damaged or no database"):
        Database(path)
    assert path.read_bytes() == content


def test_truncated_file_is_refused_and_kept(tmp_path):
    """A file that lost its end is called damaged when it is opened, and is not written."""
    path = tmp_path / "a.db"
    Database(path).close()
    content = path.read_bytes()[:8192]
    path.write_bytes(content)
    with pytest.raises(StoreError, match="damaged"):
        Database(path)
    assert path.read_bytes() == content


def test_damage_inside_the_file_is_a_store_error(tmp_path):
    """Pages overwritten behind an intact header are reported by the query that meets them."""
    path = tmp_path / "a.db"
    with Database(path) as database:
        database.write_state("a", b"x" * 20_000)
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xaa" * (len(content) - 4096)
    path.write_bytes(content)
    with Database(path) as database, pytest.raises(StoreError, match="damaged"):
        database.read_state("a")


def test_database_of_another_app_is_refused_and_kept(tmp_path):
    """A sound SQLite file with somebody else's tables is not touched."""
    path = tmp_path / "a.db"
    foreign = sqlite3.connect(path)
    foreign.execute("CREATE TABLE theirs(x)")
    foreign.commit()
    foreign.close()
    before = path.read_bytes()
    with pytest.raises(StoreError, match="something else"):
        Database(path)
    assert path.read_bytes() == before


def test_newer_schema_is_refused(tmp_path):
    """A file of a newer version says so instead of being read wrongly."""
    path = tmp_path / "a.db"
    Database(path).close()
    plain = sqlite3.connect(path)
    plain.execute("PRAGMA user_version=3")
    plain.close()
    with pytest.raises(StoreError, match="newer version"):
        Database(path)


def test_missing_folder_is_a_clear_error(tmp_path):
    """The path is in the message when it cannot be opened."""
    with pytest.raises(StoreError, match="nowhere"):
        Database(tmp_path / "nowhere" / "a.db")


def test_closed_database_says_so(tmp_path):
    """Use after close is our error, not one of the library."""
    database = Database(tmp_path / "a.db")
    database.close()
    with pytest.raises(StoreError, match="closed"):
        database.read_state("a")


def test_locked_database_says_so(tmp_path):
    """A writer that waits longer than its timeout for another one is told why."""
    with (
        Database(tmp_path / "a.db") as holder,
        Database(tmp_path / "a.db", busy_timeout=0) as other,
    ):
        with holder.transaction(), pytest.raises(StoreError, match="locked"):
            other.write_state("a", b"1")
        other.write_state("a", b"1")


def test_threads_share_one_connection(tmp_path):
    """Read-modify-write transactions of several threads lose no update."""
    with Database(tmp_path / "a.db") as database:
        database.write_state("n", b"0")

        def add() -> None:
            for _ in range(50):
                with database.transaction():
                    value = database.read_state("n")
                    assert value is not None
                    database.write_state("n", str(int(value) + 1).encode())

        threads = [threading.Thread(target=add) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert database.read_state("n") == b"200"


def test_processes_may_create_the_same_file_at_once(tmp_path):
    """Racing first opens all succeed, and none undoes another's write."""
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from pocketfl.database import Database\n"
        "for number in range(20):\n"
        "    with Database(Path(sys.argv[1]) / f'{number}.db') as database:\n"
        "        database.write_state(sys.argv[2], b'here')\n"
    )
    names = [f"n{i}" for i in range(4)]
    racers = [
        subprocess.Popen([sys.executable, "-c", script, str(tmp_path), name]) for name in names
    ]
    assert [racer.wait(timeout=120) for racer in racers] == [0] * len(racers)
    for number in range(20):
        with Database(tmp_path / f"{number}.db") as database:
            assert all(database.read_state(name) == b"here" for name in names)


NOTES = Tables(name="notes", steps=(("CREATE TABLE notes(text TEXT)",),))
LONGER_NOTES = Tables(
    name="notes", steps=(*NOTES.steps, ("ALTER TABLE notes ADD COLUMN author TEXT",))
)


def test_module_tables_are_made_once_and_brought_up_to_date(tmp_path):
    """A newer module adds its steps to what an older one wrote, and loses none of it."""
    with Database(tmp_path / "a.db") as database:
        database.ensure(NOTES)
        with database.transaction() as connection:
            connection.execute("INSERT INTO notes VALUES('kept')")
        database.ensure(NOTES)
        database.ensure(LONGER_NOTES)
        assert database.query("SELECT text, author FROM notes") == [("kept", None)]


def test_module_tables_of_a_newer_version_are_refused(tmp_path):
    """An older app does not write into tables that it does not know."""
    with Database(tmp_path / "a.db") as database:
        database.ensure(LONGER_NOTES)
        with pytest.raises(StoreError, match=r"notes tables.*newer version"):
            database.ensure(NOTES)


def test_failed_step_leaves_the_version_before(tmp_path):
    """A step happens as a whole or not at all."""
    broken = Tables(name="notes", steps=(*NOTES.steps, ("CREATE TABLE more(x)", "NONSENSE")))
    with Database(tmp_path / "a.db") as database:
        database.ensure(NOTES)
        with pytest.raises(StoreError, match="syntax error"):
            database.ensure(broken)
        assert not database.query("SELECT 1 FROM sqlite_schema WHERE name = 'more'")
        database.ensure(LONGER_NOTES)


@pytest.mark.parametrize("gone", ["ledger_entries", "ledger_refusals"])
def test_a_table_that_damage_took_along_is_made_again(tmp_path, gone):
    """The module starts afresh, the others stay, and the loss is on record, once."""
    with Database(tmp_path / "a.db") as database:
        for tables in (LEDGER, SESSION_TABLES):
            database.ensure(tables)
        database.query("INSERT INTO ledger_tasks VALUES('clicks', 3)")
        database.query(f"DROP TABLE {gone}")
    with Database(tmp_path / "a.db") as database:
        for tables in (LEDGER, SESSION_TABLES):
            database.ensure(tables)
        assert database.query(f"SELECT * FROM {gone}") == []
        assert database.query("SELECT * FROM ledger_tasks") == []
        lost = database.read_state(LOST_STATE)
        assert set(lost.decode().split("\n")) == set(LEDGER.made)
        found_at = database.read_state(LOST_AT_STATE)
    with Database(tmp_path / "a.db") as database:
        database.ensure(LEDGER)
        assert database.read_state(LOST_AT_STATE) == found_at
