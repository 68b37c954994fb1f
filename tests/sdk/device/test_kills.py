"""A device is killed with SIGKILL, against a real back end: what that costs, and what it does not."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pocketfl.plan import public_key_hex
from pocketfl.store import ExampleStore
from pocketfl_server.local import LocalDeployment
from pocketfl_server.optimizers import OptimizerSpec

from .conftest import COLLECTION, make_plan

STEPS = 10
MOMENTS = (
    "after check_in",
    "before parameters",
    "after parameters",
    "before train",
    "batch 0",
    "batch 3",
    "in transaction: checkpoint 6",
    "batch 9",
    "before report",
    "in transaction: prepared",
    "before upload",
    "after upload",
    "in transaction: settled",
)


class Site:
    """A deployment with one open round, and processes for its devices."""

    def __init__(self, folder: Path, deployment: LocalDeployment, signing_key) -> None:
        self.folder = folder
        self.deployment = deployment
        self.number = 1
        self._key = public_key_hex(signing_key)
        self._devices = 0
        self._undisturbed: dict[int, bytes] = {}
        self._server = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("device_process.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        generator = np.random.default_rng(7)
        self._examples = [
            {"x": x, "place": "JFK", "y": float(x[0] - 2 * x[1] + 0.5)}
            for x in generator.normal(size=(20, 2)).astype(np.float32)
        ]

    def new_store(self) -> Path:
        """Return the file of a device that has the same examples as all the others."""
        self._devices += 1
        path = self.folder / f"device{self._devices}.db"
        with ExampleStore(path) as store:
            store.create_collection(COLLECTION)
            store.append("trips", self._examples)
        return path

    def append(self, path: Path) -> None:
        """Let the app of a device go on while no session runs."""
        with ExampleStore(path) as store:
            store.append("trips", self._examples[:5])

    def run(self, path: Path, *, kill: str | None = None) -> dict:
        """Run a device once; return its outcome, or nothing where it was killed."""
        outcome, update = path.with_suffix(".json"), path.with_suffix(".npy")
        outcome.unlink(missing_ok=True)
        job = {
            "store": str(path),
            "url": self.deployment.url,
            "plan_key": self._key,
            "aggregator": self.deployment.operator.task("trips").aggregator.public_key,
            "enrolment_key": self.deployment.enrolment_key,
            "kill": kill,
            "update": str(update),
            "outcome": str(outcome),
        }
        self._server.stdin.write(json.dumps(job) + "\n")
        self._server.stdin.flush()
        status = int(self._server.stdout.readline())
        assert status == (0 if kill is None else -signal.SIGKILL)
        return json.loads(outcome.read_text()) if kill is None else {}

    def update_of(self, path: Path) -> np.ndarray:
        """Return the update as it went into the last report, neither clipped nor rounded."""
        return np.load(path.with_suffix(".npy"))

    def undisturbed(self) -> bytes:
        """Return the update of a device that nobody interrupts in the open round."""
        if self.number not in self._undisturbed:
            path = self.new_store()
            assert self.run(path)["status"] == "completed"
            update = self.update_of(path)
            assert np.abs(update).max() > 0.1
            self._undisturbed[self.number] = update.tobytes()
        return self._undisturbed[self.number]

    def counted(self) -> int:
        """Return how many reports the back end holds of the open round."""
        return self.deployment.operator.funnel("trips", self.number).uploaded

    def next_round(self) -> None:
        """Release the open round, which counts each of its reports, and open another."""
        counted = self.counted()
        self.deployment.operator.close_round("trips", self.number)
        assert self.deployment.operator.funnel("trips", self.number).accepted == counted
        self.number += 1
        self.deployment.operator.open_round("trips", seconds=600)

    def close(self) -> None:
        self._server.stdin.close()
        self._server.wait(20)


@pytest.fixture(scope="module")
def site(tmp_path_factory, signing_key):
    folder = tmp_path_factory.mktemp("kills")
    plan = make_plan(signing_key, privacy="none")
    with LocalDeployment(folder / "server", plan_keys=[public_key_hex(signing_key)]) as deployment:
        deployment.operator.create_task(
            "trips", plan.data, optimizer=OptimizerSpec(kind="sgd", learning_rate=1.0, momentum=0.0)
        )
        deployment.operator.open_round("trips", seconds=600)
        running = Site(folder, deployment, signing_key)
        yield running
        running.close()


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_device_ends_with_the_same_bits(site, moment) -> None:
    """Killed anywhere after the check-in, it goes on; the back end counts it exactly once.

    Neither examples that the app adds meanwhile nor a second kill at the same place change a bit.
    """
    expected = site.undisturbed()
    path, before = site.new_store(), site.counted()
    site.run(path, kill=moment)
    site.append(path)
    if moment == "batch 3":
        site.run(path, kill="batch 7")
    outcome = site.run(path)
    assert (outcome["status"], outcome["resumed"]) == ("completed", True), outcome
    assert site.update_of(path).tobytes() == expected
    assert site.counted() == before + 1
    if moment.startswith("batch"):
        # What the checkpoint holds is not trained again.
        last = 7 if moment == "batch 3" else int(moment.split()[1])
        assert outcome["batches_before"] == last
        assert outcome["batches"] == STEPS
    assert site.run(path)["code"] == "already_reported"
    assert site.counted() == before + 1


def test_a_kill_after_the_upload_repeats_the_same_bytes(site) -> None:
    """No training happens again, and the outcome is that the report was taken."""
    path = site.new_store()
    site.run(path, kill="after upload")
    path.with_suffix(".npy").unlink()
    outcome = site.run(path)
    assert (outcome["status"], outcome["code"]) == ("completed", "reported")
    assert outcome["batches"] == 0
    assert not path.with_suffix(".npy").exists()


def test_a_lease_that_was_lost_with_the_process_costs_the_round_only(site) -> None:
    """Killed before the lease is written down: counted never, and the next round works."""
    site.undisturbed()  # a round without any report could not be released
    path, before = site.new_store(), site.counted()
    site.run(path, kill="in transaction: began")
    outcome = site.run(path)
    assert (outcome["status"], outcome["code"]) == ("turned_away", "already_checked_in")
    assert site.counted() == before
    site.next_round()
    assert site.run(path)["status"] == "completed"
    assert site.counted() == 1


def test_a_round_that_closed_meanwhile_is_left_behind(site) -> None:
    """With a report that never got out: refused, known to be refused, and the next round works."""
    site.undisturbed()  # a round without any report could not be released
    path = site.new_store()
    site.run(path, kill="before upload")
    site.next_round()
    outcome = site.run(path)
    assert (outcome["status"], outcome["code"]) == ("failed", "round_closed")
    assert not outcome["resumable"]
    assert site.run(path)["status"] == "completed"
    assert site.counted() == 1


def test_an_accepted_report_is_known_even_after_the_round(site) -> None:
    """The answer was lost and the round is over: the back end still says that it has the report."""
    path = site.new_store()
    before = site.counted()
    site.run(path, kill="after upload")
    assert site.counted() == before + 1
    site.next_round()
    outcome = site.run(path)
    assert (outcome["status"], outcome["code"]) == ("completed", "reported")
    assert site.counted() == 0
