"""Everything that this device has sent and received, for a person or a program to look at."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pocketfl.database import APPLICATION_ID, damage_mark
from pocketfl.errors import DecodeError, StoreDamagedError, StoreError
from pocketfl.receipts.receipt import Overhead, Receipt
from pocketfl.receipts.tables import TABLES, Query, read_overhead, read_receipts


@dataclass(frozen=True, kw_only=True)
class Audit:
    """All receipts of a device, and what the protocol cost beside them.

    Attributes
    ----------
    receipts : tuple of Receipt
        Oldest first.
    overhead : tuple of Overhead
        Requests that carried no report, by kind.
    """

    receipts: tuple[Receipt, ...]
    overhead: tuple[Overhead, ...]

    @property
    def bytes_up(self) -> int:
        """Bytes of HTTP that this device sent, all told."""
        return sum(receipt.bytes_up for receipt in self.receipts) + sum(
            item.bytes_up for item in self.overhead
        )

    @property
    def bytes_down(self) -> int:
        """Bytes of HTTP that this device received, all told."""
        return sum(receipt.bytes_down for receipt in self.receipts) + sum(
            item.bytes_down for item in self.overhead
        )

    @property
    def requests(self) -> int:
        """Requests, repeated ones included."""
        uploads = sum(receipt.uploads for receipt in self.receipts)
        return uploads + sum(item.requests for item in self.overhead)

    def to_json(self) -> dict[str, Any]:
        """Return it as what ``json.dumps`` takes; times are Unix seconds."""
        return {
            "receipts": [asdict(receipt) for receipt in self.receipts],
            "overhead": [asdict(item) for item in self.overhead],
            "total": {
                "requests": self.requests,
                "bytes_up": self.bytes_up,
                "bytes_down": self.bytes_down,
            },
        }


def audit_of(query: Query) -> Audit:
    """Return the audit that a database's receipts give."""
    return Audit(receipts=read_receipts(query), overhead=read_overhead(query))


def read_audit(path: str | Path) -> Audit:
    """Read the receipts of a device's file without changing it, also while the app is running.

    Parameters
    ----------
    path : str or Path
        The file that the device's :class:`~pocketfl.store.ExampleStore` was opened with.

    Raises
    ------
    StoreError
        If there is no such file, it is no device's file, or is of a newer version.
    StoreDamagedError
        If it is damaged.
    """
    path = Path(path)
    if not path.is_file():
        raise StoreError(f"there is no file {path}; name the file that the app gives ExampleStore")
    try:
        with closing(
            sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=5.0)
        ) as connection:
            # One moment's state: a report that is being sent meanwhile is in all of it or in none.
            connection.execute("BEGIN")
            return _read(connection, path)
    except (sqlite3.Error, UnicodeDecodeError) as error:
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_CORRUPT:
            # This may be all that ever meets the damage; the app sees to it when it opens the file.
            with suppress(OSError):
                damage_mark(path).touch()
            raise StoreDamagedError(
                f"{path} is damaged and cannot be read ({error}): the app saves what can be read "
                "when it opens its store the next time"
            ) from None
        raise StoreError(f"{path} cannot be read ({error})") from None
    except DecodeError as error:
        raise StoreError(f"{path} is damaged: {error}") from None


def _read(connection: sqlite3.Connection, path: Path) -> Audit:
    def query(sql: str, parameters: Sequence[Any]) -> list[tuple[Any, ...]]:
        return connection.execute(sql, parameters).fetchall()

    if query("PRAGMA application_id", ())[0][0] != APPLICATION_ID:
        raise StoreError(f"{path} is a database, but not the file of a PocketFL device")
    newest = len(TABLES.steps)
    version = 0
    if query("SELECT 1 FROM sqlite_schema WHERE name = 'table_versions'", ()):
        rows = query("SELECT version FROM table_versions WHERE name = ?", (TABLES.name,))
        version = rows[0][0] if rows else 0
    if version == 0:
        return Audit(receipts=(), overhead=())
    if version != newest:
        raise StoreError(
            f"{path} has version {version} of the receipts, this pocketfl reads {newest}: read it "
            "with the version that the app uses"
        )
    return audit_of(query)
