"""The trusted tier is killed before each statement to its ledger and around each entry of its witness.

SQLite makes a transaction durable or undoes it, so that between any two durable steps there is a
statement or the witness. After a restart the back end does what it always does when it heard no answer:
it asks again.
"""

from __future__ import annotations

import json
import os
import signal
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from pocketfl.credentials.directory import empty_directory
from pocketfl.plan import AsynchronousSpec
from pocketfl_server.trusted.aggregator import Aggregator
from pocketfl_server.trusted.messages import SealedEntry, TokenKeyDigest, decode_batch, encode_batch
from pocketfl_server.trusted.refusals import Conflict
from pocketfl_server.trusted.releases import encode_release
from pocketfl_server.trusted.witness import FileWitness

REPORTS = 5

Run = Callable[[Path, list[str], Callable[..., None]], None]


class Steps:
    """Counts steps, and kills this process before one of them."""

    def __init__(self, last: int | None) -> None:
        self.count = 0
        self._last = last

    def __call__(self, *_: object) -> None:
        self.count += 1
        if self.count == self._last:
            os.kill(os.getpid(), signal.SIGKILL)


class WatchedWitness(FileWitness):
    """The reference witness; its appends are steps."""

    def __init__(self, path: Path, step: Callable[..., None]) -> None:
        super().__init__(path)
        self._step = step

    def append(self, head, *, log=None) -> None:
        self._step()
        super().append(head, log=log)
        self._step()


def note(folder: Path, what: str, content: bytes = b"") -> None:
    """Write down what the back end has been told: files outlive a killed process."""
    (folder / f"told-{what}").write_bytes(content)


@contextmanager
def watched(folder: Path, plan_keys: list[str], step: Callable[..., None]) -> Iterator[Aggregator]:
    """A tier whose statements and witness are steps."""
    witness = WatchedWitness(folder / "witness", step)
    with Aggregator(folder / "ledger", plan_keys=plan_keys, witness=witness) as tier:
        tier._ledger._connection.set_trace_callback(step)
        yield tier


def restarted(folder: Path, plan_keys: list[str]) -> Aggregator:
    """The tier after the crash, with the witness that saw it."""
    return Aggregator(
        folder / "ledger", plan_keys=plan_keys, witness=FileWitness(folder / "witness")
    )


def batch_of(folder: Path, number: int) -> tuple[SealedEntry, ...]:
    """What devices uploaded for a round."""
    return decode_batch((folder / f"batch{number}").read_bytes())


def go_through(folder: Path, plan_keys: list[str], step: Callable[..., None]) -> None:
    """One round that is released, and one that is abandoned."""
    with watched(folder, plan_keys, step) as tier:
        for number in (1, 2):
            tier.submit("clicks", number, number - 1, batch_of(folder, number))
            note(folder, f"accepted{number}")
            step()
            if number == 1:
                note(folder, "released", encode_release(tier.release("clicks", 1, 0)))
            else:
                tier.abandon("clicks", 2)
                note(folder, "abandoned")
            step()


def go_through_asynchronous(folder: Path, plan_keys: list[str], step: Callable[..., None]) -> None:
    """Two releases of asynchronous rounds; the second is also handed what the first has counted."""
    with watched(folder, plan_keys, step) as tier:
        for number in (1, 2):
            tier.submit("clicks", number, number - 1, batch_of(folder, number))
            note(folder, f"accepted{number}")
            step()
            release = encode_release(tier.release("clicks", number, number - 1))
            note(folder, f"released{number}", release)
            step()


def killed_before(number: int, folder: Path, plan_keys: list[str], run: Run) -> bool:
    """Whether a child was killed before its step of that number, and did not come to its end."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            run(folder, plan_keys, Steps(number))
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(status) == 0
    return False


def kill_before_every_step(
    tmp_path: Path,
    plan_keys: list[str],
    *,
    prepare: Callable[[Path], None],
    run: Run,
    check: Callable[[Path, list[str]], object],
) -> None:
    """Kill a child before each step of a run that is prepared anew, and check what it left."""
    whole = Steps(None)
    prepare(tmp_path / "whole")
    run(tmp_path / "whole", plan_keys, whole)
    reached = Counter[object]([check(tmp_path / "whole", plan_keys)])
    for number in range(1, whole.count + 1):
        folder = tmp_path / str(number)
        prepare(folder)
        assert killed_before(number, folder, plan_keys, run), number
        reached[check(folder, plan_keys)] += 1
    print(json.dumps({"killed": whole.count, "had come to": dict(reached)}, default=str))
    # Each of three stages was met several times, and there is no step after the last.
    assert len(reached) == 3
    assert min(reached.values()) >= 3
    prepare(tmp_path / "end")
    assert not killed_before(whole.count + 1, tmp_path / "end", plan_keys, run)


def check(folder: Path, plan_keys: list[str]) -> str:
    """Restart, check what may never happen, ask again, and say how far the killed run had come."""

    def told(what: str) -> bool:
        return (folder / f"told-{what}").exists()

    with restarted(folder, plan_keys) as tier:
        stored = tier._ledger.release("clicks", 1)
        held = tier._ledger.report_count("clicks", 1)
        charged = tier.describe("clicks").spent.releases
        # Never a release that is not charged, nor a charge without one.
        assert charged == (0 if stored is None else 1)
        # Never a lost report of those that the back end may have forgotten.
        if told("accepted1"):
            assert held == (REPORTS if stored is None else 0)
        if told("released"):
            assert (folder / "told-released").read_bytes() == stored
        if stored is None:
            tier.submit("clicks", 1, 0, batch_of(folder, 1))
        release = tier.release("clicks", 1, 0)
        assert release.reports == REPORTS
        # Never a second release: the same noise for whoever asks again.
        assert stored in (None, encode_release(release))
        assert encode_release(tier.release("clicks", 1, 0)) == encode_release(release)
        assert tier.describe("clicks").spent.releases == 1
        if told("abandoned"):
            with pytest.raises(Conflict):
                tier.release("clicks", 2, 1)
        elif told("accepted2"):
            record = tier._ledger.round("clicks", 2)
            assert record is not None
            kept = {"open": REPORTS, "abandoned": 0}[record.state]
            assert tier._ledger.report_count("clicks", 2) == kept
    return "released" if stored is not None else ("accepted" if held else "nothing")


@pytest.mark.slow
def test_killed_before_every_step(tmp_path, make_plan, plan_keys, sealed_vector) -> None:
    """Never a second release, never a lost accepted report, never an uncharged one."""

    def prepare(folder: Path) -> None:
        folder.mkdir()
        with Aggregator(folder / "ledger", plan_keys=plan_keys) as tier:
            key = tier.register("clicks", plan.data)
        for number in (1, 2):
            entries = [
                sealed_vector(
                    [i, 1, 0],
                    key=key,
                    lease=f"lease-{number}-{i:012d}",
                    round=number,
                    model_version=number - 1,
                )
                for i in range(REPORTS)
            ]
            (folder / f"batch{number}").write_bytes(encode_batch(entries))

    plan = make_plan()
    kill_before_every_step(tmp_path, plan_keys, prepare=prepare, run=go_through, check=check)


def check_asynchronous(folder: Path, plan_keys: list[str]) -> int:
    """Restart, check what may never happen, ask again; say how many releases there had been."""
    with restarted(folder, plan_keys) as tier:
        stored = {number: tier._ledger.release("clicks", number) for number in (1, 2)}
        done = sum(release is not None for release in stored.values())
        # By rounds that are one apart each release is charged as one participation.
        assert tier.describe("clicks").spent.releases == done
        assert tier.describe("clicks").last_released_round == done
        for number in (1, 2):
            accepted = (folder / f"told-accepted{number}").exists()
            if accepted and stored[number] is None:
                assert tier._ledger.report_count("clicks", number) == REPORTS
            told = folder / f"told-released{number}"
            assert not told.exists() or told.read_bytes() == stored[number]
        for number in (1, 2):
            if stored[number] is None:
                tier.submit("clicks", number, number - 1, batch_of(folder, number))
            release = tier.release("clicks", number, number - 1)
            assert release.reports == REPORTS
            assert stored[number] in (None, encode_release(release))
        assert tier.describe("clicks").spent.releases == 2
    return done


@pytest.mark.slow
def test_asynchronous_rounds_killed_before_every_step(
    tmp_path, make_plan, plan_keys, sealed_vector
) -> None:
    """The same three, and no report is in two releases: what was counted stays on record."""

    def prepare(folder: Path) -> None:
        folder.mkdir()
        with Aggregator(folder / "ledger", plan_keys=plan_keys) as tier:
            key = tier.register("clicks", plan.data)
        batches: list[list[SealedEntry]] = []
        for number in (1, 2):
            batches.append([])
            for device in range(REPORTS):
                # In the second release, one report is late by a round.
                origin = 1 if device == 0 else number
                made = sealed_vector(
                    [device, 1, 0],
                    key=key,
                    lease=f"lease-{number}-{device:012d}",
                    round=origin,
                    model_version=origin - 1,
                )
                batches[-1].append(
                    SealedEntry(lease=made.lease, sealed=made.sealed, origin=(origin, origin - 1))
                )
        # One of the first release comes again with the second.
        batches[1].append(batches[0][0])
        for number, entries in enumerate(batches, start=1):
            (folder / f"batch{number}").write_bytes(encode_batch(entries))

    spec = AsynchronousSpec(max_staleness=1, min_separation=2)
    plan = make_plan(asynchronous=spec)
    kill_before_every_step(
        tmp_path,
        plan_keys,
        prepare=prepare,
        run=go_through_asynchronous,
        check=check_asynchronous,
    )


TOKEN_KEYS = [
    TokenKeyDigest(first_round=n, last_round=n + 1, sha256=f"{n:064x}") for n in (1, 3, 5)
]


def publish_keys(folder: Path, plan_keys: list[str], step: Callable[..., None]) -> None:
    """The keys of two epochs are announced, then that of a third."""
    with watched(folder, plan_keys, step) as tier:
        for number, keys in ((2, TOKEN_KEYS[:2]), (3, TOKEN_KEYS)):
            published = tier.publish_token_keys("clicks", keys)
            note(folder, f"published{number}", published.start.digest.encode())
            step()


def check_keys(folder: Path, plan_keys: list[str]) -> int:
    """Restart with the witness, publish again; say how many keys the directory had."""
    log = "token keys of clicks"
    witnessed = FileWitness(folder / "witness").newest(log=log)
    with restarted(folder, plan_keys) as tier:
        head = tier._ledger.token_key_heads()["clicks"]
        assert witnessed is None or witnessed.sequence <= head.sequence
        for number in (2, 3):
            # What devices may have seen is in the ledger, and was in the witness before.
            if (folder / f"told-published{number}").exists():
                assert witnessed is not None
                assert number <= witnessed.sequence
        for key in TOKEN_KEYS[: head.sequence]:
            with pytest.raises(Conflict):
                tier.publish_token_keys("clicks", [replace(key, sha256="f" * 64)])
        assert tier.publish_token_keys("clicks", TOKEN_KEYS).start == empty_directory("clicks")
        end = tier._ledger.token_key_heads()["clicks"]
        assert end.sequence == 3
        assert FileWitness(folder / "witness").newest(log=log) == end
    return head.sequence


@pytest.mark.slow
def test_token_keys_killed_before_every_step(tmp_path, make_plan, plan_keys) -> None:
    """Never two keys for an epoch of which devices may have seen one, nor one without its witness."""

    def prepare(folder: Path) -> None:
        folder.mkdir()
        with Aggregator(folder / "ledger", plan_keys=plan_keys) as tier:
            tier.register("clicks", plan.data)

    plan = make_plan()
    kill_before_every_step(tmp_path, plan_keys, prepare=prepare, run=publish_keys, check=check_keys)
