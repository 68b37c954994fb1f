"""A curious issuer that shows devices different token keys is found out, and sees no token."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from pocketfl.attestation import AttestedAggregator
from pocketfl.credentials.directory import KeyDirectory
from pocketfl.credentials.wallet import Wallet
from pocketfl.errors import AggregatorRefusedError, KeyConsistencyError, PocketFLError
from pocketfl.store import ExampleStore
from pocketfl_server.back_end import BackEnd
from pocketfl_server.in_process import InProcessTransport
from pocketfl_server.optimizers import OptimizerSpec
from pocketfl_server.trusted.aggregator import Aggregator
from pocketfl_server.trusted.attesters import DevelopmentAttester

from .conftest import CHECK_IN, ENROLMENT_KEY

AVERAGING = OptimizerSpec(kind="sgd", learning_rate=1.0)


class Views:
    """A line on which each look is answered by whichever view is up; it remembers what it was shown."""

    def __init__(self, view) -> None:
        self.view = view
        self.change = lambda keys: keys

    def token_keys(self, task):
        return self.change(self.view.token_keys(task))

    def sign_token(self, *arguments):
        return self.view.sign_token(*arguments)


@pytest.fixture
def open_view(tmp_path, plan_keys, make_plan, clock, monkeypatch):
    """Opens a back end with a trusted tier that the same attestation service vouches for."""
    monkeypatch.setattr("pocketfl_server.credentials.epochs.AHEAD", 2)
    plan = make_plan()
    opened = []

    def open_one(name: str, ledger: str) -> BackEnd:
        tier = Aggregator(
            tmp_path / ledger,
            plan_keys=plan_keys,
            attester=DevelopmentAttester(tmp_path / "attestation"),
        )
        back_end = BackEnd(
            f"sqlite:///{tmp_path / name}.db",
            trusted=tier,
            plan_keys=plan_keys,
            enrolment_key=ENROLMENT_KEY,
        )
        opened.extend((back_end, tier))
        back_end.create_task("clicks", plan.data, optimizer=AVERAGING)
        return back_end

    yield open_one
    for each in opened:
        each.close()


def _device(tmp_path: Path, store: ExampleStore, line: Views, token: str):
    verifier = AttestedAggregator.development((tmp_path / "attestation.pub").read_text())
    directory = KeyDirectory(verifier, store.database)
    return directory, Wallet(store.database, line, directory=directory, device_token=lambda: token)


def test_a_split_view_is_refused_before_a_token_is_shown(
    tmp_path, open_view, make_plan, clock
) -> None:
    """Forged keys, a second trusted tier, and one that was rolled back: each refused, and explained."""
    from pocketfl.protocol import EnrolmentRequest

    policy = make_plan().manifest.policy_hash
    first = open_view("first", "ledger.db")
    # Of the same task, before it had any token keys: what a rollback would bring back.
    first._tasks._trusted.close()
    shutil.copy(tmp_path / "ledger.db", tmp_path / "copy.db")
    (tmp_path / "copy.db").chmod(0o600)
    first.close()
    first = open_view("first", "ledger.db")
    second, rolled_back = open_view("second", "other.db"), open_view("third", "copy.db")
    token = first.enrol(ENROLMENT_KEY, EnrolmentRequest(user="ana", sdk="1")).token
    line = Views(InProcessTransport(first))
    with ExampleStore(tmp_path / "device.db") as store:
        directory, wallet = _device(tmp_path, store, line, token)
        assert wallet.refill("clicks") == 2
        assert wallet.check("clicks", 1, policy_hash=policy) is not None
        assert directory.objections("clicks") == ()

        def refused(kind: type[PocketFLError], words: str) -> None:
            with pytest.raises(kind, match=words):
                wallet.check("clicks", 1, policy_hash=policy)
            with pytest.raises(kind, match=words):
                wallet.refill("clicks")
            assert wallet.count("clicks") == 2

        foreign = second.token_keys("clicks").keys
        line.change = lambda keys: replace(keys, keys=foreign)
        refused(AggregatorRefusedError, "other keys of anonymous tokens")
        line.change = lambda keys: keys
        for view, words in (
            (second, "another trusted tier vouches"),
            (rolled_back, "two sets of token keys for the same rounds"),
        ):
            line.view = InProcessTransport(view)
            refused(KeyConsistencyError, words)
            (reason,) = directory.objections("clicks")
            assert words in str(reason)
        # The view that it had from the beginning is good all the time.
        line.view = InProcessTransport(first)
        assert wallet.check("clicks", 1, policy_hash=policy) is not None
        assert directory.objections("clicks") == ()
        first.open_round("clicks", seconds=60)
        shown = wallet.take("clicks", 1)
        assert first.check_in_anonymously(shown, "clicks", 1, CHECK_IN).task == "clicks"
        # Later keys are added to those that it knows, and a stale copy of the same history is none.
        before = first.token_keys("clicks")
        first.abort_round("clicks")
        first.open_round("clicks", seconds=60)
        assert wallet.refill("clicks") > 0
        line.change = lambda keys: before
        assert wallet.check("clicks", 2, policy_hash=policy) is not None
