"""Revoked consent: the key, the examples and all that was made of them go; others stay."""

import subprocess
import sys

import pytest

from pocketfl.database import Tables
from pocketfl.errors import StoreError
from pocketfl.store import Collection, ExampleStore, Field, derived_state
from pocketfl.store import examples as examples_module

FIELDS = {"text": Field("str")}
SESSIONS = Tables(
    name="sessions",
    steps=(
        (
            "CREATE TABLE sessions(task TEXT, collection TEXT, report BLOB)",
            "CREATE TABLE checkpoints(task TEXT, collection TEXT, parameters BLOB)",
        ),
    ),
)


@pytest.fixture
def store(tmp_path):
    with ExampleStore(tmp_path / "a.db") as opened:
        for name in ("notes", "notes_2"):
            opened.create_collection(Collection(name, FIELDS))
            opened.append(name, [{"text": f"canary of {name}"}] * 30)
        yield opened


def everything(folder):
    return b"".join(
        path.read_bytes() for path in sorted(folder.iterdir()) if not path.name.endswith("-key")
    )


def test_key_and_examples_are_gone_from_file_and_log(store, tmp_path):
    """No byte of the wrapped key or of a row is left in the file, and the log is empty."""
    ((key,),) = store.database.query("SELECT wrapped_key FROM collections WHERE name = 'notes'")
    rows = store.database.query("SELECT payload FROM examples WHERE collection = 1")
    assert key in everything(tmp_path)
    erased = store.revoke("notes")
    assert (erased.examples, erased.sessions) == (30, 0)
    content = everything(tmp_path)
    assert key not in content
    assert key[12:28] not in content
    assert all(payload[:16] not in content for (payload,) in rows)
    assert (tmp_path / "a.db-wal").stat().st_size == 0
    assert [collection.name for collection in store.collections()] == ["notes_2"]
    assert store.count("notes_2") == 30
    assert len(store.select("notes_2", limit=99, seed=0)) == 30


def test_everything_derived_goes_along(store, tmp_path):
    """Checkpoints, pending reports and personal parameters of this collection go, of others stay."""
    database = store.database
    database.ensure(SESSIONS)
    with database.transaction() as connection:
        for name in ("notes", "notes_2"):
            secret = f"secret of {name}".encode()
            connection.execute("INSERT INTO sessions VALUES('t', ?, ?)", (name, secret))
            connection.execute("INSERT INTO checkpoints VALUES('t', ?, ?)", (name, secret))
            database.write_state(derived_state(name, "personal"), secret)
        database.write_state("enrolment.token", b"kept")
    erased = store.revoke("notes")
    assert erased.derived == 3
    for table in ("sessions", "checkpoints"):
        assert database.query(f"SELECT collection FROM {table}") == [("notes_2",)]
    assert database.read_state(derived_state("notes", "personal")) is None
    assert database.read_state(derived_state("notes_2", "personal")) == b"secret of notes_2"
    assert database.read_state("enrolment.token") == b"kept"
    content = everything(tmp_path)
    assert b"secret of notes_2" in content
    assert b"secret of notes\x00" not in content.replace(b"secret of notes_2", b"")
    assert b"secret of notes" not in content.replace(b"secret of notes_2", b"")


def test_running_sessions_are_cancelled_first(store):
    """A session on the collection is told to stop while its data is still there; others go on."""
    told = []
    with (
        store.session("notes", lambda: told.append(("notes", store.count("notes")))),
        store.session("notes_2", lambda: told.append(("notes_2", 0))),
    ):
        assert store.revoke("notes").sessions == 1
    assert told == [("notes", 30)]
    store.create_collection(Collection("notes", FIELDS))
    assert store.revoke("notes").sessions == 0


def test_other_processes_notice(store, tmp_path):
    """A connection that had the collection open can neither read nor append afterwards."""
    with ExampleStore(tmp_path / "a.db") as other:
        assert len(other.select("notes", limit=5, seed=0)) == 5
        store.revoke("notes")
        for call in (
            lambda: other.append("notes", [{"text": "late"}]),
            lambda: other.select("notes", limit=5, seed=0),
            lambda: other.count("notes"),
            lambda: other.collection("notes"),
        ):
            with pytest.raises(StoreError, match="no collection 'notes'"):
                call()
        store.create_collection(Collection("notes", FIELDS))
        other.append("notes", [{"text": "new consent"}])
        assert store.select("notes", limit=5, seed=0).columns == {"text": ["new consent"]}


def test_revoking_again_is_no_error(store):
    """A revocation may be repeated, also of a collection that never was."""
    store.revoke("notes")
    for name in ("notes", "never"):
        assert store.revoke(name).examples == 0


def test_numbers_are_never_used_again(store):
    """A collection made anew cannot come to own what a dying process left of the old one."""
    store.revoke("notes_2")
    store.create_collection(Collection("notes_2", FIELDS))
    assert store.database.query("SELECT id FROM collections ORDER BY id") == [(1,), (3,)]
    store.append("notes_2", [{"text": "new"}])
    assert store.database.query("SELECT max(id) FROM examples") == [(61,)]


def test_a_transaction_cannot_be_undone_around_it(store):
    """Within a transaction, revoke() is refused before anything happens to the examples."""
    with pytest.raises(StoreError, match="transaction"), store.database.transaction():
        store.revoke("notes")
    assert store.count("notes") == 30


def test_a_process_that_dies_leaves_nothing_readable(tmp_path):
    """Killed between the key and the rows, the next revoke() or evict() deletes the rest."""
    script = (
        "import os, signal, sys\n"
        "from pocketfl.store import Collection, ExampleStore, Field, examples\n"
        "def die(database, step): os.kill(os.getpid(), signal.SIGKILL)\n"
        "store = ExampleStore(sys.argv[1])\n"
        "store.create_collection(Collection('notes', {'text': Field('str')}))\n"
        "store.append('notes', [{'text': 'x'}] * 50)\n"
        "examples.finish_revocations = die\n"
        "store.revoke('notes')\n"
    )
    died = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "a.db")], check=False, timeout=200
    )
    assert died.returncode == -9
    with ExampleStore(tmp_path / "a.db") as store:
        assert store.collections() == ()
        assert store.database.query("SELECT count(*) FROM examples") == [(50,)]
        assert store.evict() == 50
        assert store.database.query("SELECT count(*) FROM revoked_collections") == [(0,)]


def test_rows_are_deleted_in_steps(store, monkeypatch):
    """However large a collection was, no transaction deletes more than its step."""
    monkeypatch.setattr(examples_module, "EVICTION_STEP", 7)
    assert store.revoke("notes").examples == 30
    assert store.database.query("SELECT count(*) FROM examples") == [(30,)]
