"""An audit reads a device's file from outside and changes nothing in it."""

from __future__ import annotations

import json
import re
import sqlite3
from html.parser import HTMLParser

import pytest
from typer.testing import CliRunner

from pocketfl.commands.root import build_app
from pocketfl.database import Database
from pocketfl.errors import StoreDamagedError, StoreError
from pocketfl.receipts import read_audit
from pocketfl.receipts.page import to_html
from pocketfl.store import ExampleStore

from .conftest import CONTRIBUTION, contribution

RUNNER = CliRunner()
HOSTILE = "<script>alert('[red]')</script>"


@pytest.fixture
def filled(open_book, wire, path):
    """A file with three receipts: accepted, rejected for a strange reason, and not settled."""
    book = open_book(wire)
    wire.carry("check_in", up=310, down=420)
    book.prepare(CONTRIBUTION)
    wire.carry("upload", up=540, down=96)
    book.accept(task="clicks", round=3)
    plain = {"noise_multiplier": None, "epsilon": None, "epsilon_so_far": None, "delta": None}
    book.prepare(contribution(task="open", privacy="none", attestation=HOSTILE, **plain))
    book.reject(task="open", round=3, code=HOSTILE)
    book.prepare(contribution(round=4))
    return book, path


def test_an_audit_is_what_the_app_sees(filled) -> None:
    """Read from outside while the app has the file open, it equals the app's own."""
    book, path = filled
    assert read_audit(path) == book.audit()


def test_reading_changes_nothing(filled) -> None:
    """The file's bytes are the same after an audit."""
    _, path = filled
    before = path.read_bytes()
    read_audit(path)
    assert path.read_bytes() == before


def test_a_device_without_receipts_has_an_empty_audit(path) -> None:
    """A file from before the first contribution is no error."""
    Database(path).close()
    audit = read_audit(path)
    assert (audit.receipts, audit.overhead, audit.requests) == ((), (), 0)


def test_other_files_are_refused_with_their_reason(tmp_path, filled) -> None:
    """No such file, no database, another app's database, a newer device's."""
    _, path = filled
    with pytest.raises(StoreError, match="there is no file"):
        read_audit(tmp_path / "none.db")
    (tmp_path / "notes.txt").write_text("not a database " * 100)
    with pytest.raises(StoreError, match="cannot be read"):
        read_audit(tmp_path / "notes.txt")
    sqlite3.connect(tmp_path / "other.db").execute("CREATE TABLE a(b)").connection.close()
    with pytest.raises(StoreError, match="not the file of a PocketFL device"):
        read_audit(tmp_path / "other.db")
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE table_versions SET version = 99 WHERE name = 'receipts'")
    connection.close()
    with pytest.raises(StoreError, match="version 99"):
        read_audit(path)


@pytest.mark.parametrize(
    "damage", ["outcome = 'sold'", "epsilon = 'much'", "report_bytes = x'00'", "round = 1.5"]
)
def test_a_damaged_row_is_named(filled, damage) -> None:
    """A value that no receipt can have is an error and never shown as if it were one."""
    _, path = filled
    with sqlite3.connect(path) as connection:
        connection.execute(f"UPDATE receipts SET {damage} WHERE id = 1")
    connection.close()
    with pytest.raises(StoreError, match=r"is damaged: receipt of round .* of 'clicks'"):
        read_audit(path)


def test_the_table_shows_contributions_and_overhead(filled) -> None:
    """A person reads task, bound, noise, floor, loss, attestation, outcome, and the total."""
    _, path = filled
    result = RUNNER.invoke(build_app(), ["audit", str(path)], env={"COLUMNS": "400"})
    assert result.exit_code == 0, result.output
    (line,) = [line for line in result.stdout.splitlines() if "accepted" in line]
    for part in ("clicks", "120 bytes", "pinned key", "540", "0.5", "1.1", "40", "0.75", "2.5"):
        assert part in line
    assert "check-in" in result.stdout
    assert HOSTILE in result.stdout  # as text: markup would have swallowed the brackets
    assert "in all 2 requests, 850 bytes up, 516 bytes down" in result.stdout


def test_json_is_complete(filled) -> None:
    """A program gets every field, and None where nothing is claimed."""
    book, path = filled
    result = RUNNER.invoke(build_app(), ["audit", str(path), "--json"])
    told = json.loads(result.stdout)
    assert told == book.audit().to_json()
    accepted, rejected, waiting = told["receipts"]
    assert set(accepted) == set(rejected) == set(waiting) >= set(vars(CONTRIBUTION))
    assert [r["outcome"] for r in told["receipts"]] == ["accepted", "rejected", "prepared"]
    assert rejected["epsilon"] is None
    assert told["total"] == {"requests": 2, "bytes_up": 850, "bytes_down": 516}


class Page(HTMLParser):
    """Collects the tags and the text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.append(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data) -> None:
        self.text += data + " "


def test_the_page_is_self_contained_and_escaped(filled, tmp_path) -> None:
    """No script, no address, and what a server named is text."""
    book, path = filled
    target = tmp_path / "audit.html"
    result = RUNNER.invoke(build_app(), ["audit", str(path), "--html", str(target)])
    assert result.exit_code == 0, result.output
    assert target.read_text(encoding="utf-8") == to_html(book.audit())
    page = Page(target.read_text(encoding="utf-8"))
    assert not {"script", "img", "link", "iframe", "a"} & set(page.tags)
    assert page.addresses == []
    assert HOSTILE in page.text
    assert "no differential privacy" in page.text
    assert re.search(r"sent 850 bytes and received 516", page.text)


def test_a_page_that_cannot_be_written_is_an_error(filled, tmp_path) -> None:
    """The message names the file."""
    _, path = filled
    result = RUNNER.invoke(build_app(), ["audit", str(path), "--html", str(tmp_path / "no/a.html")])
    assert isinstance(result.exception, StoreError)
    assert "cannot write" in str(result.exception)


def test_a_clock_that_was_never_set_does_not_stop_an_audit(filled) -> None:
    """A time outside of the calendar is shown as a number."""
    _, path = filled
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE receipts SET prepared_at = 1e18")
    connection.close()
    assert "1e+18 s" in to_html(read_audit(path))


def test_damage_that_only_an_audit_meets_is_put_right_by_the_app(filled) -> None:
    """The audit says so and leaves a mark; the app's next opening saves what can be read."""
    book, path = filled
    ((page,),) = book._database.query("SELECT rootpage FROM sqlite_schema WHERE name = 'receipts'")
    book._database.close()
    content = bytearray(path.read_bytes())
    content[(page - 1) * 4096 : page * 4096] = b"\xaa" * 4096
    path.write_bytes(content)
    with pytest.raises(StoreDamagedError, match="the next time"):
        read_audit(path)
    with ExampleStore(path) as store:
        assert store.quarantine is not None
        assert "receipts" in store.quarantine.lost
    assert read_audit(path).receipts == ()
