"""Sessions that stop and go on, in one process: bits, leases, verdicts, hooks, revocation."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from pocketfl.device import SessionHooks, contribution
from pocketfl.device.contribution import MAX_TRIES
from pocketfl.device.sessions import ASK_SECONDS
from pocketfl.errors import StoreError, TransportError
from pocketfl.store import ExampleStore
from pocketfl.training import CheckpointPolicy

from .conftest import COLLECTION, NOW, make_plan, unreachable

EVERY_BATCH = CheckpointPolicy(every_seconds=0.0, bytes_per_second=1e12)
STEPS = 10


class Crash(BaseException):
    """The process ends here."""


class Recorder(SessionHooks):
    """Notes what it is told; stops before the batches that a test names."""

    def __init__(self, *, stop_at: int | None = None, crash_at: str | None = None) -> None:
        self.events: list[tuple] = []
        self.asked = 0
        self._stop_at = stop_at
        self._crash_at = crash_at

    def _note(self, name: str, *details: object) -> None:
        self.events.append((name, *details))
        if name == self._crash_at:
            raise Crash

    def should_stop(self) -> bool:
        self.asked += 1
        return self._stop_at is not None and self.asked > self._stop_at

    def spent(self):
        return {"asked": float(self.asked)}

    def began(self, session, *, manifest, resumed, spent) -> None:
        self._note("began", session.round, resumed, dict(spent))

    def opened(self, session, manifest) -> None:
        self._note("opened", manifest.name)

    def checkpointed(self, session, *, spent) -> None:
        self._note("checkpointed")

    def prepared(self, session, report, manifest) -> None:
        self._note("prepared", report.sha256)

    def paused(self) -> None:
        self._note("paused")

    def settled(self, *, task, round, end, code) -> None:  # noqa: A002
        self._note("settled", task, round, end, code)

    @property
    def names(self) -> list[str]:
        return [event[0] for event in self.events]


@pytest.fixture
def updates(monkeypatch) -> list[np.ndarray]:
    """What goes into reports, neither clipped nor rounded."""
    kept: list[np.ndarray] = []
    plain = contribution.make_report

    def make_report(update, **settings):
        kept.append(update.copy())
        return plain(update, **settings)

    monkeypatch.setattr(contribution, "make_report", make_report)
    return kept


@pytest.fixture
def twin(tmp_path, store):
    """Another store with the same examples."""
    with ExampleStore(tmp_path / "twin.db") as opened:
        opened.create_collection(COLLECTION)
        columns = store.select("trips", limit=100, seed=0).columns
        opened.append(
            "trips",
            [
                dict(zip(columns, values, strict=True))
                for values in zip(*columns.values(), strict=True)
            ],
            times=[NOW - 1000 + i for i in range(20)],
        )
        yield opened


def rows_of(store, table: str) -> int:
    return store.database.query(f"SELECT count(*) FROM {table}")[0][0]


@pytest.mark.parametrize("policy", [EVERY_BATCH, CheckpointPolicy()])
@pytest.mark.parametrize("stop_at", [0, 1, 2, 3, 7, STEPS + 1])
def test_a_stopped_session_ends_with_the_same_bits(
    make_device, store, twin, updates, stop_at, policy
) -> None:
    """Told to stop at any batch or between phases, it goes on and ends as if never stopped."""
    assert make_device(store=twin).run_once().status == "completed"
    hooks = Recorder(stop_at=stop_at)
    outcome = make_device(hooks=hooks, checkpoints=policy).run_once()
    assert (outcome.status, outcome.code, outcome.resumable) == ("interrupted", "stopped", True)
    assert hooks.names[-1] == "paused"
    store.append("trips", [{"x": np.ones(2, np.float32), "place": "JFK", "y": 9.0}] * 5)
    outcome = make_device(checkpoints=policy).run_once()
    assert (outcome.status, outcome.resumed) == ("completed", True)
    assert outcome.steps == STEPS
    assert 0 < outcome.step_seconds < outcome.seconds
    assert updates[0].tobytes() == updates[1].tobytes()
    assert (rows_of(store, "sessions"), rows_of(store, "checkpoints")) == (0, 0)


def test_a_stop_before_the_upload_keeps_the_report(make_device, back_end, updates) -> None:
    """What is sealed waits for a better moment, and is not trained again."""
    outcome = make_device(hooks=Recorder(stop_at=STEPS + 2)).run_once()
    assert (outcome.status, outcome.steps) == ("interrupted", STEPS)
    assert back_end.reports == {}
    outcome = make_device().run_once()
    assert (outcome.status, outcome.steps, len(updates)) == ("completed", 0, 1)


def test_a_short_round_writes_no_checkpoint(make_device) -> None:
    """Less than a second of training is repeated rather than written down."""
    hooks = Recorder()
    assert make_device(hooks=hooks).run_once().status == "completed"
    assert hooks.names == ["began", "prepared", "settled"]
    assert hooks.events[-1] == ("settled", "trips", 1, "accepted", "reported")


def test_hooks_hear_of_a_resumed_session_what_it_had_spent(make_device) -> None:
    """What the last checkpoint says comes back with the session, then the plan is known again."""
    make_device(hooks=Recorder(stop_at=5), checkpoints=EVERY_BATCH).run_once()
    hooks = Recorder()
    assert make_device(hooks=hooks).run_once().status == "completed"
    assert hooks.names == ["began", "opened", "prepared", "settled"]
    _, number, resumed, spent = hooks.events[0]
    assert (number, resumed) == (1, True)
    assert spent["asked"] >= 5


@pytest.mark.parametrize("place", ["began", "checkpointed", "prepared", "settled"])
def test_hooks_share_the_transaction_of_the_step(make_device, store, updates, place) -> None:
    """A process that ends inside one leaves neither; the round ends all the same."""
    with pytest.raises(Crash):
        make_device(hooks=Recorder(crash_at=place), checkpoints=EVERY_BATCH).run_once()
    if place == "began":
        assert not store.database.query("SELECT 1 FROM sqlite_schema WHERE name = 'sessions'")
    hooks = Recorder()
    assert make_device(hooks=hooks).run_once().status == "completed"
    assert hooks.events[-1][3] == "accepted"
    assert len({update.tobytes() for update in updates}) == 1


def test_an_expired_session_is_abandoned_and_the_next_round_taken(
    make_device, back_end, store
) -> None:
    """Nothing of it stays, nothing of it is sent, and the same run takes part in the open round."""
    make_device(hooks=Recorder(stop_at=6), checkpoints=EVERY_BATCH).run_once()
    assert rows_of(store, "checkpoints") == 1
    back_end.round, back_end.closes_at, back_end.lease_seconds = 2, NOW + 2000, 2000
    hooks = Recorder()
    outcome = make_device(hooks=hooks, clock=lambda: NOW + 601).run_once()
    assert (outcome.status, outcome.round, outcome.resumed) == ("completed", 2, False)
    assert hooks.events[0] == ("settled", "trips", 1, "abandoned", "lease_expired")
    assert (rows_of(store, "sessions"), rows_of(store, "checkpoints")) == (0, 0)
    assert len(back_end.reports) == 1


@pytest.mark.parametrize(
    ("status", "code", "end", "result"),
    [
        (409, "other_report_for_lease", "accepted", "completed"),
        (410, "lease_expired", "rejected", "failed"),
        (410, "round_closed", "rejected", "failed"),
        (404, "unknown_lease", "rejected", "failed"),
        (422, "wrong_length", "rejected", "failed"),
    ],
)
def test_a_verdict_of_the_back_end_settles_a_report(
    make_device, back_end, status, code, end, result
) -> None:
    """What it says of the lease is final, and known to the device after this one exchange."""
    back_end.failures["after_upload"] = unreachable()
    make_device().run_once()
    back_end.failures = {"upload": TransportError("no", status=status, code=code)}
    hooks = Recorder()
    outcome = make_device(hooks=hooks).run_once()
    assert (outcome.status, outcome.resumable) == (result, False)
    assert hooks.events[-1][3] == end
    assert make_device().pending == ()


@pytest.mark.parametrize("status", [403, 404, 500, 503, 302, None])
def test_an_answer_that_says_nothing_of_the_report_keeps_it(make_device, back_end, status) -> None:
    """A proxy's page or an overloaded server is no verdict: the same bytes are sent again."""
    back_end.failures["upload"] = TransportError("no", status=status)
    device = make_device()
    for _ in range(MAX_TRIES + 2):
        outcome = device.run_once()
        assert (outcome.status, outcome.resumable) == ("failed", True)
    back_end.failures.clear()
    assert device.run_once().status == "completed"


def test_a_report_is_asked_about_after_its_lease_but_not_for_ever(make_device, back_end) -> None:
    """Within a week the back end may still say that it has it; then it is unknown for good."""
    back_end.failures["upload"] = unreachable()
    make_device().run_once()
    late = make_device(clock=lambda: NOW + 600 + ASK_SECONDS - 1)
    assert late.run_once().resumable
    hooks = Recorder()
    outcome = make_device(hooks=hooks, clock=lambda: NOW + 601 + ASK_SECONDS).run_once()
    assert (outcome.status, outcome.resumable) == ("failed", False)
    assert hooks.events[-1] == ("settled", "trips", 1, "unknown", "unreachable")


def test_a_session_that_keeps_taking_the_process_down_is_given_up(make_device, back_end) -> None:
    """Runs that end with the process and bring nothing are counted, over restarts."""
    back_end.failures["parameters"] = Crash()
    for _ in range(MAX_TRIES + 1):
        with pytest.raises(Crash):
            make_device().run_once()
    hooks = Recorder()
    back_end.failures.clear()
    back_end.round = 2
    assert make_device(hooks=hooks).run_once().status == "completed"
    assert hooks.events[0] == ("settled", "trips", 1, "abandoned", "gave_up")


@pytest.mark.parametrize("status", [400, 404])
def test_what_cannot_pass_ends_the_session(make_device, back_end, status) -> None:
    """A server that refuses the parameters for good is not asked for them again."""
    back_end.failures["parameters"] = TransportError("no", status=status, code="not_found")
    hooks = Recorder()
    device = make_device(hooks=hooks)
    outcome = device.run_once()
    assert (outcome.status, outcome.resumable) == ("failed", False)
    assert hooks.events[-1] == ("settled", "trips", 1, "abandoned", "not_found")
    assert device.run_once().code == "abandoned"


def test_todays_limits_hold_for_yesterdays_session(make_device, back_end) -> None:
    """An app that was updated meanwhile to be stricter ends the session."""
    from pocketfl.device import DeviceLimits

    make_device(hooks=Recorder(stop_at=4)).run_once()
    hooks = Recorder()
    outcome = make_device(hooks=hooks, limits=DeviceLimits(max_epsilon=1.0)).run_once()
    assert (outcome.status, outcome.code) == ("ineligible", "plan_refused")
    assert hooks.events[-1][3] == "abandoned"
    assert back_end.reports == {}


def test_a_checkpoint_that_learnt_from_a_deleted_example_is_not_used(
    make_device, store, twin, updates
) -> None:
    """The session starts over with the examples that are left."""
    make_device(hooks=Recorder(stop_at=8), checkpoints=EVERY_BATCH).run_once()
    gone = store.select("trips", limit=1, seed=5).ids
    for each in (store, twin):
        each.delete("trips", ids=gone)
    assert make_device().run_once().resumed
    make_device(store=twin).run_once()
    assert updates[0].tobytes() == updates[1].tobytes()


@pytest.mark.parametrize("damage", ["record", "content", "report"])
def test_damaged_memory_of_a_session_is_survived(make_device, back_end, store, damage) -> None:
    """A checkpoint is done without; a session or report is given up; nothing damaged is sent."""
    if damage == "report":
        back_end.failures["upload"] = unreachable()
        make_device().run_once()
        back_end.failures.clear()
    else:
        make_device(hooks=Recorder(stop_at=8), checkpoints=EVERY_BATCH).run_once()
    table = "checkpoints" if damage == "content" else "sessions"
    ((value,),) = store.database.query(f"SELECT {damage} FROM {table}")
    with store.database.transaction() as connection:
        connection.execute(f"UPDATE {table} SET {damage} = ?", (value[:-1] + b"!",))
    hooks = Recorder()
    device = make_device(hooks=hooks)
    first = device.run_once()
    ends = {
        "content": ("completed", "accepted"),
        "record": ("no_round", "abandoned"),
        "report": ("failed", "unknown"),
    }
    settled = next(event for event in hooks.events if event[0] == "settled")
    assert (first.status, settled[3]) == ends[damage]
    back_end.round = 2
    assert device.run_once().status == "completed"


@pytest.mark.parametrize("call", ["parameters", "upload"])
def test_revoking_a_collection_ends_its_session(make_device, back_end, store, call) -> None:
    """In the middle of it: nothing is sent that was not being sent, and nothing is kept."""
    back_end.before[call] = lambda: store.revoke("trips")
    hooks = Recorder()
    device = make_device(hooks=hooks)
    device.run_once()
    assert hooks.events[-1][:3] == ("settled", "trips", 1)
    assert hooks.events[-1][3] == {"parameters": "abandoned", "upload": "accepted"}[call]
    assert len(back_end.reports) == (call == "upload")
    assert device.pending == ()


def test_a_revoked_waiting_session_is_never_heard_of_again(make_device, back_end, store) -> None:
    """Its report, checkpoint and record are gone with the collection."""
    back_end.failures["upload"] = unreachable()
    device = make_device()
    assert device.run_once().resumable
    store.revoke("trips")
    back_end.failures.clear()
    assert device.pending == ()
    assert device.run_once().status != "completed"
    assert back_end.reports == {}


def test_another_task_does_not_wait_for_a_session(make_device, back_end, signing_key) -> None:
    """Asked for a task, a device goes on with that task's session or takes part in its round."""
    device = make_device(hooks=Recorder(stop_at=4))
    device.run_once()
    back_end.task = "other"
    device = make_device()
    outcome = device.run_once(task="other")
    assert (outcome.status, outcome.task, outcome.resumed) == ("completed", "other", False)
    ((pending),) = device.pending
    assert (pending.task, pending.has_report) == ("trips", False)
    back_end.task = "trips"
    assert device.run_once().resumed


def test_a_full_disk_leaves_the_session_waiting(make_device, back_end, monkeypatch) -> None:
    """What cannot be written down is not sent; the session goes on when there is room again."""
    from pocketfl.device.sessions import Sessions

    def fail(*_arguments, **_settings):
        raise StoreError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(Sessions, "keep_report", fail)
        outcome = make_device().run_once()
    assert (outcome.status, outcome.code, outcome.resumable) == ("failed", "store", True)
    assert back_end.reports == {}
    assert make_device().run_once().status == "completed"


def test_a_diverged_session_ends_the_same_after_a_stop(
    make_device, back_end, store, signing_key
) -> None:
    """Parameters that are not finite are never a checkpoint; the failure is found at the end."""
    back_end.announce(make_plan(signing_key, learning_rate=1000.0))
    generator = np.random.default_rng(0)
    store.append(
        "trips",
        [
            {"x": (generator.normal(size=2) * 1e18).astype(np.float32), "place": "JFK", "y": 1.0}
            for _ in range(40)
        ],
    )
    stopped = make_device(hooks=Recorder(stop_at=9), checkpoints=EVERY_BATCH).run_once()
    assert stopped.status == "interrupted"
    outcome = make_device().run_once()
    assert (outcome.status, outcome.code, outcome.resumable) == ("failed", "update", False)


def test_outcomes_of_interruptions_are_plain_values(make_device) -> None:
    """An app can log or store them."""
    outcome = make_device(hooks=Recorder(stop_at=0)).run_once()
    assert dataclasses.asdict(outcome)["resumable"] is True
