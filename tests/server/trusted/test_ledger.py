"""The ledger keeps its secrets to its owner, and forgets what was released."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys

import pytest

from pocketfl_server.trusted.ledger import (
    Charge,
    LeaseTakenError,
    Ledger,
    LedgerError,
    RoundFullError,
    TaskRecord,
)

CHARGE = Charge(sampling_probability=0.1, noise_multiplier=1.0)
RECORD = TaskRecord(task="clicks", plan=b"plan", private_key=b"k" * 32, public_key=b"p" * 32)


def filled(path, sealed=b"sealed"):
    ledger = Ledger(path)
    ledger.add_task(RECORD, manifest_sha256="m")
    ledger.add_reports(
        "clicks", 1, model_version=0, reports=[("lease", b"hash", sealed, None)], capacity=9
    )
    return ledger


def test_files_are_the_owners_alone(tmp_path):
    """The ledger and its log have mode 0600 whatever the umask is."""
    before = os.umask(0)
    try:
        with filled(tmp_path / "ledger"):
            modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in tmp_path.iterdir()}
    finally:
        os.umask(before)
    assert set(modes) == {"ledger", "ledger-wal"}
    assert set(modes.values()) == {0o600}


def test_a_ledger_that_others_can_read_is_refused(tmp_path):
    """Loose rights on an existing ledger are an error that names the remedy."""
    filled(tmp_path / "ledger").close()
    (tmp_path / "ledger").chmod(0o640)
    with pytest.raises(LedgerError, match="chmod 600"):
        Ledger(tmp_path / "ledger")


def test_writes_wait_for_the_disk(tmp_path):
    """Write-ahead log, full synchronisation, overwriting deletes, foreign keys: all in force."""
    with Ledger(tmp_path / "ledger") as ledger:
        pragma = {
            name: ledger._connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("journal_mode", "synchronous", "secure_delete", "foreign_keys")
        }
    assert pragma == {
        "journal_mode": "wal",
        "synchronous": 2,
        "secure_delete": 1,
        "foreign_keys": 1,
    }


def test_one_process_at_a_time(tmp_path):
    """A second process is kept out while the first lives, and let in once it is gone."""
    path = tmp_path / "ledger"
    attempt = [
        sys.executable,
        "-c",
        "import sys; from pocketfl_server.trusted.ledger import Ledger, LedgerError\n"
        "try: Ledger(sys.argv[1]).close()\n"
        "except LedgerError as error: sys.exit(str(error))",
        str(path),
    ]
    with filled(path):
        second = subprocess.run(attempt, capture_output=True, text=True, check=False)
        assert "in use by another process" in second.stderr
        with pytest.raises(LedgerError, match="in use"):
            Ledger(path)
    assert subprocess.run(attempt, check=False).returncode == 0


@pytest.mark.parametrize(
    "content", [b"not a database at all" * 100, b"SQLite format 3\0" + b"x" * 4096]
)
def test_damaged_files_are_named(tmp_path, content):
    """Garbage is refused and left as it is."""
    path = tmp_path / "ledger"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(LedgerError, match="ledger"):
        Ledger(path)
    assert path.read_bytes() == content


def test_other_databases_are_not_touched(tmp_path):
    """Somebody else's SQLite file is refused, and a newer ledger too."""
    path = tmp_path / "other"
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE t(x)")
    path.chmod(0o600)
    with pytest.raises(LedgerError, match="something else"):
        Ledger(path)
    newer = tmp_path / "newer"
    filled(newer).close()
    connection = sqlite3.connect(newer)
    connection.execute("PRAGMA user_version=99")
    connection.close()
    with pytest.raises(LedgerError, match="version 99"):
        Ledger(newer)


def test_a_directory_that_is_missing_is_named(tmp_path):
    """The error says which file could not be made."""
    with pytest.raises(LedgerError, match="nowhere"):
        Ledger(tmp_path / "nowhere" / "ledger")


def test_the_first_report_of_a_lease_stays(tmp_path):
    """Other bytes or too many leases undo the whole call; the same bytes are fine."""
    with filled(tmp_path / "ledger") as ledger:
        again = [("new", b"new", b"new", None), ("lease", b"hash", b"sealed", None)]
        ledger.add_reports("clicks", 1, model_version=0, reports=again, capacity=2)
        assert ledger.report_count("clicks", 1) == 2
        other = [("newer", b"newer", b"newer", None), ("lease", b"other", b"other", None)]
        with pytest.raises(LeaseTakenError):
            ledger.add_reports("clicks", 1, model_version=0, reports=other, capacity=9)
        more = [("newest", b"newest", b"newest", None)]
        with pytest.raises(RoundFullError, match="3 reports, 2 at most"):
            ledger.add_reports("clicks", 1, model_version=0, reports=more, capacity=2)
        kept = list(ledger.pages("clicks", 1, at_once=10))
        assert kept == [[("lease", b"sealed"), ("new", b"new")]]


@pytest.mark.parametrize("way", ["release", "abandon"])
def test_reports_are_gone_from_the_disk(tmp_path, way):
    """After release or abandonment no file of the ledger has the sealed bytes any more."""
    marker = b"canary-0123456789" * 40
    with filled(tmp_path / "ledger", sealed=marker) as ledger:
        on_disk = b"".join(p.read_bytes() for p in tmp_path.iterdir())
        assert marker[:34] in on_disk
        if way == "release":
            ledger.commit_release("clicks", 1, release=b"noised", charge=CHARGE)
            assert ledger.release("clicks", 1) == b"noised"
            assert ledger.releases("clicks") == (1, 1)
        else:
            ledger.abandon("clicks", 1)
            assert ledger.releases("clicks") == (0, 0)
        assert ledger.report_count("clicks", 1) == 0
        on_disk = b"".join(p.read_bytes() for p in tmp_path.iterdir())
        assert marker[:34] not in on_disk


def test_a_round_is_released_once(tmp_path):
    """The database itself refuses a second release of a round, and keeps the first."""
    with filled(tmp_path / "ledger") as ledger:
        ledger.commit_release("clicks", 1, release=b"first", charge=CHARGE)
        with pytest.raises(sqlite3.IntegrityError):
            ledger.commit_release("clicks", 1, release=b"second", charge=CHARGE)
        assert ledger.release("clicks", 1) == b"first"


def test_a_crash_before_the_log_was_cut_is_made_good(tmp_path, monkeypatch):
    """Opening the ledger again removes sealed bytes that a crash left in the write-ahead log."""
    marker = b"canary-0123456789" * 40
    ledger = filled(tmp_path / "ledger", sealed=marker)
    monkeypatch.setattr(Ledger, "_forget", lambda self: None)
    ledger.commit_release("clicks", 1, release=b"noised", charge=CHARGE)
    crashed = tmp_path / "crashed"
    crashed.mkdir(mode=0o700)
    for file in (tmp_path / "ledger", tmp_path / "ledger-wal"):
        (crashed / file.name).write_bytes(file.read_bytes())
        (crashed / file.name).chmod(0o600)
    ledger.close()
    monkeypatch.undo()
    assert marker[:34] in (crashed / "ledger-wal").read_bytes()
    with Ledger(crashed / "ledger") as reopened:
        assert reopened.release("clicks", 1) == b"noised"
        assert marker[:34] not in b"".join(p.read_bytes() for p in crashed.iterdir())


def test_a_full_disk_changes_nothing(tmp_path):
    """A write that does not fit is one clear error; the ledger goes on when there is room again."""
    with filled(tmp_path / "ledger") as ledger:
        pages = ledger._connection.execute("PRAGMA page_count").fetchone()[0]
        ledger._connection.execute(f"PRAGMA max_page_count={pages}")
        with pytest.raises(LedgerError, match="full"):
            ledger.commit_release("clicks", 1, release=bytes(100_000), charge=CHARGE)
        assert (ledger.releases("clicks"), ledger.report_count("clicks", 1)) == ((0, 0), 1)
        ledger._connection.execute("PRAGMA max_page_count=1000000")
        ledger.commit_release("clicks", 1, release=bytes(100_000), charge=CHARGE)
        assert ledger.releases("clicks") == (1, 1)


def test_records_do_not_print_secrets():
    """No repr shows a key or a report."""
    assert "kkkk" not in repr(RECORD)
