"""A witness in another trust domain: it remembers how far the ledger had come when the ledger forgets.

Whoever can put back an old copy of the ledger's file puts back the counter with it. A witness only ever
appends, so a trusted tier that starts behind its witness knows that it was rolled back. The file here
is the reference: it protects only as far as its disk is out of the operator's hands.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final, Protocol

from pocketfl.decoding import decode_json, encode_json
from pocketfl.errors import DecodeError, PocketFLError
from pocketfl.protocol import LedgerHead

_LINE_LIMIT: Final = 1024
_FIRST: Final = sha256(b"pocketfl witness 1").hexdigest()


class WitnessError(PocketFLError):
    """The witness cannot be used, or says that the ledger was rolled back."""


class Witness(Protocol):
    """Append-only logs of heads: that of the ledger's releases, and one for each task's token keys."""

    def newest(self, *, log: str | None = None) -> LedgerHead | None:
        """Return a log's last head, or None if there is none yet; by default that of releases.

        Raises
        ------
        WitnessError
            If the log cannot be read or is not sound.
        """

    def append(self, head: LedgerHead, *, log: str | None = None) -> None:
        """Add a head to a log; the last one again changes nothing. Durable on return.

        Raises
        ------
        WitnessError
            If it is older than the last one or another of the same age, or cannot be written.
        """


@dataclass(frozen=True, kw_only=True)
class _Line:
    """A head in the file; the log of releases has no name there."""

    sequence: int
    digest: str
    log: str | None = None

    def __post_init__(self) -> None:
        self.head()

    def head(self) -> LedgerHead:
        return LedgerHead(sequence=self.sequence, digest=self.digest)


class FileWitness:
    """A file with one line per head, each line chained to the one before by its SHA-256.

    Parameters
    ----------
    path : str or Path
        Made if it does not exist. On a file system that allows it, ``chattr +a`` makes it append-only
        for everybody but root.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def newest(self, *, log: str | None = None) -> LedgerHead | None:
        """Return a log's last head after checking the whole chain."""
        heads = self.heads(log=log)
        return heads[-1] if heads else None

    def heads(self, *, log: str | None = None) -> list[LedgerHead]:
        """Return every head of a log in order; by default those of releases.

        Raises
        ------
        WitnessError
            If a line is damaged, missing or out of order.
        """
        return self._read()[0].get(log, [])

    def append(self, head: LedgerHead, *, log: str | None = None) -> None:
        """Add a head to a log; the last one again changes nothing."""
        logs, link = self._read()
        last = logs[log][-1] if log in logs else None
        if head == last:
            return
        if last is not None and head.sequence <= last.sequence:
            raise WitnessError(_rolled_back(self.path, last, head))
        record = encode_json(_Line(sequence=head.sequence, digest=head.digest, log=log))
        line = _chain(link, record).encode() + b" " + record + b"\n"
        try:
            descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            try:
                os.write(descriptor, line)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise WitnessError(
                f"the witness {self.path} cannot be written: {error.strerror}"
            ) from None

    def _read(self) -> tuple[dict[str | None, list[LedgerHead]], str]:
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return {}, _FIRST
        except OSError as error:
            raise WitnessError(
                f"the witness {self.path} cannot be read: {error.strerror}"
            ) from None
        logs: dict[str | None, list[LedgerHead]] = {}
        link = _FIRST
        for number, line in enumerate(content.splitlines(keepends=True), start=1):
            damaged = WitnessError(
                f"the witness {self.path} is damaged in line {number}; restore it from where it was "
                "copied to, or start a new one and accept that a rollback before it goes unnoticed"
            )
            stated, _, record = line.rstrip(b"\n").partition(b" ")
            if not line.endswith(b"\n") or stated.decode("latin-1") != _chain(link, record):
                raise damaged
            try:
                found = decode_json(_Line, record, what="head", limit=_LINE_LIMIT)
            except DecodeError:
                raise damaged from None
            heads = logs.setdefault(found.log, [])
            if heads and found.sequence <= heads[-1].sequence:
                raise damaged
            heads.append(found.head())
            link = stated.decode("latin-1")
        return logs, link


def check_against(witness: Witness, head: LedgerHead, *, log: str | None = None) -> None:
    """Refuse a ledger that is behind its witness or has another history; bring a late witness up.

    Parameters
    ----------
    witness : Witness
        What it is held against.
    head : LedgerHead
        Of the ledger.
    log : str, optional
        Which of the ledger's heads this is; by default that of its releases.

    Raises
    ------
    WitnessError
        If the ledger was rolled back or replaced.
    """
    last = witness.newest(log=log)
    if last is None and log is not None and head.sequence == 0:
        return
    if last is not None and (
        head.sequence < last.sequence
        or (head.sequence == last.sequence and head.digest != last.digest)
    ):
        raise WitnessError(_rolled_back("its log", last, head))
    witness.append(head, log=log)


def _chain(link: str, record: bytes) -> str:
    return sha256(link.encode() + record).hexdigest()


def _rolled_back(where: object, last: LedgerHead, head: LedgerHead) -> str:
    return (
        f"the ledger has {head.sequence} entries, but its witness ({where}) has seen "
        f"{last.sequence} with the digest {last.digest[:16]}...: the ledger was rolled back or "
        "replaced, and would forget what was spent; bring back the newest ledger"
    )
