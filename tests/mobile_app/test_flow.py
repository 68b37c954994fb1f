"""The whole way of a person through the app, with a real worker process and a real server.

Every screen is kept as a picture in the folder that ``POCKETFL_SCREENSHOTS`` names.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pocketfl.store import ExampleStore
from pocketfl_app.bundle import load_bundle
from pocketfl_app.device.drawings import HELD_OUT, TRAINING, Drawings
from pocketfl_app.device.models import model_in_use
from pocketfl_app.home import Home
from pocketfl_app.view_models import train as train_model
from pocketfl_benchmarks.digits.build import accuracy_of
from pocketfl_benchmarks.digits.data import Digits
from pocketfl_benchmarks.digits.demo import open_task
from pocketfl_benchmarks.digits.task import TASK
from pocketfl_benchmarks.digits.writers import Writers, deal
from pocketfl_server.local import LocalDeployment

from .conftest import WRITERS, Hand
from .shapes import arrow_five, flat_one, zero

Start = Callable[[Home], Hand]
HAND = {0: zero, 1: flat_one, 5: arrow_five}
EACH = 10


def write(hand: Hand, chances: np.random.Generator, *, each: int = EACH) -> None:
    """Draw some of each digit, tapping what it is."""
    for _ in range(each):
        for digit, shape in HAND.items():
            hand.draw(shape(chances))
            columns = hand.app.root.screens["draw"].ids.columns.children
            column = next(column for column in columns if column.digit == digit)
            hand.touch([column.to_window(*column.center)])
            hand.settle()


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return Path(os.environ.get("POCKETFL_SCREENSHOTS", tmp_path / "pictures"))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_from_the_first_digit_to_a_receipt_and_to_an_empty_store(
    open_app: Start, home: Home, digits: Digits, tmp_path: Path, pictures: Path
) -> None:
    """Draw, guess, confirm, store; train, better on drawings set aside; a round, its receipt; erase."""
    chances = np.random.default_rng(5)
    hand = open_app(home)
    app = hand.app
    app.root.children[0].ids.go.trigger_action(0)
    hand.settle()
    assert app.options.welcomed

    # Drawn, guessed, confirmed, stored.
    hand.draw(zero(chances))
    hand.until(lambda: app.draw.best == 0, "the guess that this is a 0")
    hand.picture(pictures, "draw")
    hand.tap(app.root.screens["draw"].ids.confirm)
    hand.settle()
    assert list(app.draw.counts) == [1, *[0] * 9]
    assert not app.draw.has_ink

    # The rest, most of it in a hand that the model does not know.
    write(hand, chances)
    assert [app.draw.counts[digit] for digit in HAND] == [EACH + 1, EACH, EACH]
    with ExampleStore(home.store) as store:
        assert store.count(TRAINING) + store.count(HELD_OUT) == 3 * EACH + 1
        assert store.count(HELD_OUT) >= 6

    # Personal training, in another process, is better on drawings that it never saw.
    ids = hand.show("train")
    hand.tap(ids.train)
    hand.until(lambda: app.train.has_verdict, "a verdict")
    before, after = (int(t.split()[0]) for t in (app.train.before_text, app.train.after_text))
    assert app.train.accepted, app.train.verdict_reason
    assert after > before
    hand.until(lambda: app.context.status.model.origin == "personal", "the personal model")
    hand.picture(pictures, "train")

    # A round against a real server, together with other devices.
    bundle = load_bundle(home.assets)
    parts, measured = deal(digits.take(np.arange(1200, len(digits))), writers=WRITERS)
    with LocalDeployment(tmp_path / "server", plan_keys=bundle.trust.plan_keys) as deployment:
        site = open_task(deployment, bundle.plan.data)
        ids = hand.show("settings")
        ids.invitation.text = site.to_text()
        hand.tap(ids.join)
        hand.settle()
        assert app.options.joined, app.options.error
        notice = deployment.operator.open_round(TASK, seconds=3600)
        fleet = {"site": site, "plan_key": bundle.plan.signed_by, "runtime": "onnxruntime"}
        (tmp_path / "writers").mkdir()
        with Writers(tmp_path / "writers", parts, **fleet) as writers:
            assert {o.status for o in writers.take_part()} == {"completed"}
        ids = hand.show("train")
        hand.tap(ids.join)
        hand.until(lambda: app.train.state == "idle" and "sent" in app.train.headline, "a report")
        result = deployment.operator.close_round(TASK, notice.round)
        assert deployment.operator.funnel(TASK, notice.round).uploaded == WRITERS + 1
        vector = deployment.operator.model_parameters(TASK, result.new_version or 0)
        assert np.isfinite(vector).all()
        assert 0 < accuracy_of(bundle.plan, measured, vector) <= 1

        # What the round made comes with the next one, and has to pass the gate.
        assert not app.train.has_verdict
        deployment.operator.open_round(TASK, seconds=3600)
        hand.tap(ids.join)
        hand.until(lambda: app.train.state == "idle" and app.train.has_verdict, "a second verdict")
        assert "version 1" in app.train.verdict_title
        before, after = (int(t.split()[0]) for t in (app.train.before_text, app.train.after_text))
        # A personal model is replaced by nothing but a better one.
        with ExampleStore(home.store) as store:
            used = model_in_use(store)
        assert used.origin == ("global" if after > before else "personal")
        assert used.version == (1 if after > before else 0)
        hand.picture(pictures, "train-global")

    # The receipt, the ledger, the benchmark.
    hand.show("privacy")
    hand.until(lambda: len(app.privacy.receipts) == 2, "receipts")
    receipt = app.privacy.receipts[-1]
    assert receipt["good"]
    assert "noise 2 times" in receipt["lines"]
    hand.picture(pictures, "privacy")
    hand.show("budget")
    rounds = app.budget.gauges[4]
    assert (rounds["value"], rounds["limit"]) == ("2", "of 24")
    assert app.budget.gauges[5]["share"] > 0
    hand.picture(pictures, "budget")
    ids = hand.show("benchmark")
    hand.tap(ids.run)
    hand.until(lambda: app.benchmark.json_text, "figures")
    assert app.benchmark.fits
    hand.picture(pictures, "benchmark")
    hand.show("settings")
    hand.picture(pictures, "settings")

    # Erased is erased.
    ids = hand.show("privacy")
    hand.tap(ids.erase)
    hand.tap(ids.erase_yes)
    hand.until(lambda: app.privacy.drawings == 0, "an empty store")
    hand.settle()
    assert len(app.privacy.receipts) == 2
    with ExampleStore(home.store) as store:
        assert store.count(TRAINING) == store.count(HELD_OUT) == 0
        assert model_in_use(store).origin == "bundled"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_worker_that_is_killed_takes_nothing_along(
    open_app: Start, home: Home, digits: Digits, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in the middle of training, the model is as before; the next training has a new worker.

    Held and cancelled, it stops at once; and what was drawn is there after a restart of the app.
    """
    monkeypatch.setattr(train_model, "EPOCHS", 100)
    home.data.mkdir()
    with ExampleStore(home.store) as store:
        # A person who has drawn a lot, so that training takes some seconds.
        Drawings(store)
        rows = [
            {"image": image[None], "digit": int(label)}
            for image, label in zip(digits.images, digits.labels, strict=True)
        ]
        store.append(TRAINING, rows[:1700])
        store.append(HELD_OUT, rows[1700:])
    hand = open_app(home)
    app = hand.app
    app.root.children[0].dismiss()
    hand.settle()
    ids = hand.show("train")

    hand.tap(ids.train)
    hand.until(lambda: len(app.train.losses) > 10, "losses")
    hand.tap(ids.pause)
    hand.until(lambda: app.train.state == "paused", "a pause")
    hand.frames(30)
    held = app.train.steps
    hand.frames(30)
    assert app.train.steps == held
    hand.tap(ids.pause)
    hand.until(lambda: app.train.steps != held, "more steps")
    hand.tap(ids.cancel)
    hand.until(lambda: app.train.state == "idle", "the end")
    assert "as before" in app.train.headline

    hand.tap(ids.train)
    hand.until(lambda: len(app.train.losses) > 10, "losses")
    killed = app.context.link.worker.process
    killed.kill()
    hand.until(lambda: app.train.state == "idle", "the news that it died")
    assert "ended from outside" in app.train.headline
    assert app.context.status.model.origin == "bundled"

    monkeypatch.setattr(train_model, "EPOCHS", 1)
    hand.tap(ids.train)
    hand.until(lambda: app.train.has_verdict, "a verdict")
    assert app.context.link.worker.process.pid != killed.pid
    counts = list(app.draw.counts)

    open_app.stop(hand)  # type: ignore[attr-defined]
    again = open_app(home)
    assert list(again.app.draw.counts) == counts
    assert again.app.options.welcomed
