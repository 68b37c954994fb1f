"""What happens to a file that nobody guards: bits rot, a file system loses its tail."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

from tests.chaos.faults import Damage

PAGE_BYTES = 4096


@dataclass(frozen=True, kw_only=True)
class DamagedFile:
    """A store's file as the damage left it.

    Attributes
    ----------
    content : bytes
        Of the main file.
    changed : bool
        False if there was nothing to damage.
    has_log : bool
        Whether there was a write-ahead log beside it.
    """

    content: bytes
    changed: bool
    has_log: bool


def damage(path: Path, how: Damage) -> DamagedFile:
    """Damage a store's file, or its write-ahead log, while no process has it open."""
    generator = random.Random(how.seed)
    log = Path(f"{path}-wal")
    target = log if how.kind == "log" and log.exists() else path
    before = target.read_bytes() if target.exists() else b""
    after = _harm(bytearray(before), how.kind, generator)
    if before:
        target.write_bytes(after)
    content = path.read_bytes() if path.exists() else b""
    return DamagedFile(
        content=content,
        changed=bytes(after) != before,
        has_log=log.exists() and log.stat().st_size > 0,
    )


def _harm(content: bytearray, kind: str, generator: random.Random) -> bytearray:
    size = len(content)
    if size == 0:
        return content
    if kind == "header":
        content[:100] = generator.randbytes(min(100, size))
    elif kind == "garbage":
        content[:] = generator.randbytes(size)
    elif kind == "cut":
        del content[generator.randrange(1, size) :]
    else:
        pages = max(1, size // PAGE_BYTES)
        chosen = generator.sample(range(pages), min(pages, 1 if kind == "page" else 4))
        for page in chosen:
            start = page * PAGE_BYTES + generator.randrange(PAGE_BYTES)
            end = min(size, start + generator.randrange(16, PAGE_BYTES // 2))
            content[start:end] = generator.randbytes(max(0, end - start))
    return content


def find_whole_copy(path: Path, content: bytes) -> Path | None:
    """Return a file beside a store's that holds exactly these bytes."""
    for other in sorted(path.parent.iterdir()):
        if other == path or not other.is_file() or other.stat().st_size != len(content):
            continue
        if other.read_bytes() == content:
            return other
    return None
