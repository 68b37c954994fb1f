"""Rounds over real HTTP between three real tiers, and what a crash in the middle of one may cost."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pocketfl.attestation import AttestedAggregator
from pocketfl.device import Device, DeviceLimits, RoundOutcome
from pocketfl.device.hooks import SessionHooks
from pocketfl.device.models import ModelShelf
from pocketfl.device.sessions import Session
from pocketfl.plan import (
    AdaptiveClippingSpec,
    AggregationSpec,
    AsynchronousSpec,
    EncodingSpec,
    Manifest,
    Plan,
    public_key_hex,
)
from pocketfl.plan.manifest import PARAMETERS_PART
from pocketfl.plan.storage import encode_parameters
from pocketfl.reports import SealedReport
from pocketfl.store import ExampleStore
from pocketfl_server.local import LocalDeployment
from pocketfl_server.optimizers import OptimizerSpec
from pocketfl_server.records import Concurrency

DEVICES = 12
FEW = AggregationSpec(
    clip_norm=0.5, population=DEVICES, cohort_floor=DEVICES, max_rounds=20, max_participations=20
)


@pytest.fixture
def site(tmp_path: Path, modeller_key: Ed25519PrivateKey) -> Iterator[LocalDeployment]:
    with LocalDeployment(tmp_path / "server", plan_keys=[public_key_hex(modeller_key)]) as running:
        yield running


@pytest.fixture
def fleet(open_store: Callable[..., ExampleStore]) -> list[ExampleStore]:
    """Devices whose owners like places the longer they stay."""
    generator = random.Random(7)
    stores = []
    for number in range(DEVICES):
        examples = []
        for _ in range(40):
            minutes = generator.uniform(0, 600)
            rating = 1.0 + 4.0 * minutes / 600
            place = generator.choice(["home", "work", "shop", "beach"])
            examples.append({"place": place, "minutes": minutes, "rating": rating})
        stores.append(open_store(f"device{number}", examples))
    return stores


def take_turns(
    site: LocalDeployment, fleet: list[ExampleStore], *, task: str, plan: Plan
) -> list[RoundOutcome]:
    outcomes = []
    for number, store in enumerate(fleet):
        with Device(
            store,
            server=site.url,
            plan_keys=[plan.signed_by],
            aggregator=AttestedAggregator.development(site.attestation_key),
            enrolment_key=site.enrolment_key,
            user=f"user{number}",
            limits=DeviceLimits(allow_unprotected=True),
        ) as device:
            outcomes.append(device.run_once())
    assert {o.status for o in outcomes} == {"completed"}, [o.code for o in outcomes]
    return outcomes


def test_rounds_without_noise_learn_and_are_labelled(
    site: LocalDeployment, fleet: list[ExampleStore], plan_with: Callable[..., Plan]
) -> None:
    """The whole path carries a real update: the mean training loss falls from round to round."""
    plan = plan_with(name="open", privacy="none", dp=None, aggregation=FEW)
    site.operator.create_task(
        "open", plan.data, optimizer=OptimizerSpec(kind="sgd", learning_rate=1.0, momentum=0.0)
    )
    losses = []
    for number in range(1, 5):
        site.operator.open_round("open", seconds=600)
        outcomes = take_turns(site, fleet, task="open", plan=plan)
        losses.append(np.mean([outcome.loss for outcome in outcomes]))
        result = site.operator.close_round("open", number)
        assert (result.state, result.new_version) == ("finished", number)
        funnel = site.operator.funnel("open", number)
        assert (funnel.checked_in, funnel.uploaded, funnel.accepted) == (DEVICES,) * 3
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0] - 0.05
    versions = site.operator.models("open")
    assert [v.version for v in versions] == [0, 1, 2, 3, 4]
    assert {v.privacy for v in versions} == {"none"}
    assert {v.epsilon for v in versions} == {None}


def test_rounds_of_compact_updates_learn_as_well(
    site: LocalDeployment, fleet: list[ExampleStore], plan_with: Callable[..., Plan]
) -> None:
    """Four bits a coordinate through all three tiers: the mean training loss falls all the same."""
    encoded = FEW.encoded(EncodingSpec(bits=4), parameters=65)
    plan = plan_with(name="small", privacy="none", dp=None, aggregation=encoded)
    site.operator.create_task(
        "small", plan.data, optimizer=OptimizerSpec(kind="sgd", learning_rate=1.0, momentum=0.0)
    )
    losses = []
    for number in range(1, 5):
        site.operator.open_round("small", seconds=600)
        outcomes = take_turns(site, fleet, task="small", plan=plan)
        losses.append(np.mean([outcome.loss for outcome in outcomes]))
        assert site.operator.close_round("small", number).new_version == number
        assert site.operator.funnel("small", number).accepted == DEVICES
    assert losses[-1] < losses[0] - 0.05


def test_rounds_of_a_model_in_float16_learn_in_half_the_bytes(
    site: LocalDeployment, fleet: list[ExampleStore], plan_with: Callable[..., Plan]
) -> None:
    """Devices download two bytes a parameter, train in float32, and predict with what is kept.

    The model in float32 goes on beside it: a task that is seeded with a version of it starts from the
    same numbers in four bytes.
    """
    wide = plan_with(name="wide", privacy="none", dp=None, aggregation=FEW)
    model = dataclasses.replace(wide.manifest.required_model, storage="float16")
    parts = {p.name: wide.part(p.name) for p in wide.manifest.parts if p.name != PARAMETERS_PART}
    parts["parameters.f16"] = encode_parameters(wide.initial_parameters(), "float16")
    plan = plan_with(
        name="half", privacy="none", dp=None, aggregation=FEW, model=model, parts=parts
    )
    sgd = OptimizerSpec(kind="sgd", learning_rate=1.0, momentum=0.0)
    site.operator.create_task("half", plan.data, optimizer=sgd)
    losses = []
    for number in range(1, 5):
        site.operator.open_round("half", seconds=600)
        outcomes = take_turns(site, fleet, task="half", plan=plan)
        losses.append(np.mean([outcome.loss for outcome in outcomes]))
        assert site.operator.close_round("half", number).new_version == number
    assert losses[-1] < losses[0] - 0.05
    moved = site.operator.model_parameters("half", 4)
    np.testing.assert_array_equal(moved, moved.astype(np.float16))
    # It was kept as it was downloaded: there is no server any more, and the hash still holds.
    digest = site.operator.model("half", 3).parameters_sha256
    kept = ModelShelf(fleet[0].database).parameters(digest)
    assert kept is not None
    assert len(kept) == 2 * 65
    site.operator.create_task("wide", wide.data, optimizer=sgd, seed_model=("half", 4))
    assert site.operator.model("wide", 0).storage == "float32"
    np.testing.assert_array_equal(site.operator.model_parameters("wide", 0), moved)


def test_a_clip_norm_that_adapts_is_announced_and_grows(
    site: LocalDeployment, fleet: list[ExampleStore], plan_with: Callable[..., Plan]
) -> None:
    """Over HTTP: updates far above the first clip norm make it grow, and devices follow it."""
    adaptive = AdaptiveClippingSpec(min_clip_norm=1e-4, max_clip_norm=1.0, learning_rate=4.0)
    few = dataclasses.replace(FEW, clip_norm=1e-3, adaptive=adaptive)
    plan = plan_with(name="adapts", privacy="none", dp=None, aggregation=few)
    site.operator.create_task(
        "adapts", plan.data, optimizer=OptimizerSpec(kind="sgd", learning_rate=1.0, momentum=0.0)
    )
    clip_norms = []
    for number in range(1, 4):
        clip_norms.append(site.operator.open_round("adapts", seconds=600).clip_norm)
        take_turns(site, fleet, task="adapts", plan=plan)
        assert site.operator.close_round("adapts", number).new_version == number
        assert site.operator.funnel("adapts", number).accepted == DEVICES
    assert clip_norms == pytest.approx([1e-3, 1e-3 * np.exp(2), 1e-3 * np.exp(4)], rel=1e-3)
    moved = site.operator.model_parameters("adapts", 1) - plan.initial_parameters()
    assert 0 < np.linalg.norm(moved) <= 1e-3


class HeldBack(SessionHooks):
    """Keeps a device from uploading until it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.made, self.go = threading.Event(), threading.Event()

    def prepared(self, session: Session, report: SealedReport, manifest: Manifest) -> None:
        self.made.set()
        assert self.go.wait(120)


def wait_for(what: Callable[[], bool]) -> None:
    for _ in range(4800):
        if what():
            return
        time.sleep(0.05)
    raise AssertionError("it did not come to that")


@pytest.mark.parametrize("encoding", [None, EncodingSpec(bits=4)], ids=["plain", "encoded"])
def test_asynchronous_rounds_go_on_by_themselves(
    site: LocalDeployment,
    fleet: list[ExampleStore],
    plan_with: Callable[..., Plan],
    encoding: EncodingSpec | None,
) -> None:
    """Over HTTP: four reports make a version and open the next round; a late one counts in that.

    A device that took part stays away until its separation has passed, and the model learns.
    """
    few = dataclasses.replace(
        FEW,
        cohort_floor=3,
        asynchronous=AsynchronousSpec(max_staleness=1, min_separation=2),
    )
    if encoding is not None:
        few = few.encoded(encoding, parameters=65)
    plan = plan_with(name="async", privacy="none", dp=None, aggregation=few)
    site.operator.create_task(
        "async",
        plan.data,
        optimizer=OptimizerSpec(kind="sgd", learning_rate=1.0, momentum=0.0),
        concurrency=Concurrency(selection_size=8, open_slots=1, reports_per_release=4),
    )
    site.operator.open_round("async", seconds=600)
    hooks = HeldBack()
    with Device(
        fleet[0],
        server=site.url,
        plan_keys=[plan.signed_by],
        aggregator=AttestedAggregator.development(site.attestation_key),
        enrolment_key=site.enrolment_key,
        user="late",
        limits=DeviceLimits(allow_unprotected=True),
        hooks=hooks,
    ) as late:
        ends: list[RoundOutcome] = []
        thread = threading.Thread(target=lambda: ends.append(late.run_once()))
        thread.start()
        assert hooks.made.wait(120)
        first = take_turns(site, fleet[1:5], task="async", plan=plan)
        wait_for(lambda: site.operator.task("async").latest_version == 1)
        hooks.go.set()
        thread.join(120)
        assert [end.status for end in ends] == ["completed"]
    with pytest.raises(AssertionError, match="separated"):
        take_turns(site, fleet[1:2], task="async", plan=plan)
    second = take_turns(site, fleet[5:8], task="async", plan=plan)
    wait_for(lambda: site.operator.task("async").latest_version == 2)
    assert [(m.round, m.reports) for m in site.operator.models("async")[1:]] == [(1, 4), (2, 4)]
    assert (first[0].round, second[0].round) == (1, 2)
    assert site.operator.privacy("async").last_released_round == 2
    before, after = (np.mean([end.loss for end in ends]) for ends in (first, second))
    assert after < before


@pytest.mark.parametrize("encoding", [None, EncodingSpec(bits=4)], ids=["plain", "encoded"])
def test_private_rounds_move_the_model_by_noise_of_the_signed_size(
    site: LocalDeployment,
    fleet: list[ExampleStore],
    plan_with: Callable[..., Plan],
    encoding: EncodingSpec | None,
) -> None:
    """After one noised round of plain averaging, the parameters have moved as the plan's noise says.

    The sum of squares of P Gaussians over their variance is chi-squared with P degrees of freedom; with
    P = 65 it leaves [0.3, 2.2] x P less than once in a million runs, and the twelve clipped updates
    add to it at most the square of 1/3 of one standard deviation of the whole vector. An encoding turns
    the noise and does not change its size.
    """
    aggregation = FEW if encoding is None else FEW.encoded(encoding, parameters=65)
    plan = plan_with(name="private", aggregation=aggregation)
    site.operator.create_task(
        "private", plan.data, optimizer=OptimizerSpec(kind="sgd", learning_rate=1.0, momentum=0.0)
    )
    site.operator.open_round("private", seconds=600)
    take_turns(site, fleet, task="private", plan=plan)
    site.operator.close_round("private", 1)
    moved = site.operator.model_parameters("private", 1) - plan.initial_parameters()
    dp = plan.manifest.dp
    assert dp is not None
    sigma = dp.noise_multiplier * FEW.clip_norm / FEW.expected_cohort
    ratio = float(np.square(moved / sigma).sum()) / len(moved)
    assert 0.3 < ratio < 2.2 + 1.0
    spent = site.operator.privacy("private").spent
    assert spent.releases == 1
    assert spent.epsilon is not None and 0 < spent.epsilon <= dp.epsilon
    assert site.operator.models("private")[1].epsilon == pytest.approx(spent.epsilon)


@pytest.mark.parametrize("killed", ["gateway", "trusted"])
def test_a_killed_process_loses_no_report(
    site: LocalDeployment, fleet: list[ExampleStore], plan_with: Callable[..., Plan], killed: str
) -> None:
    """SIGKILL between the uploads and the close: after a restart every report is in the sum, once."""
    plan = plan_with(name="crash", aggregation=FEW)
    site.operator.create_task(
        "crash", plan.data, optimizer=OptimizerSpec(kind="adam", learning_rate=0.1)
    )
    site.operator.open_round("crash", seconds=600)
    take_turns(site, fleet, task="crash", plan=plan)
    site.stop_process(killed, kill=True)
    site.stop()
    site.start()
    result = site.operator.close_round("crash", 1)
    assert (result.state, result.new_version) == ("finished", 1)
    assert site.operator.funnel("crash", 1).accepted == DEVICES
    assert site.operator.close_round("crash", 1) == result
    assert site.operator.privacy("crash").spent.releases == 1


def test_an_unprotected_model_never_seeds_a_private_task(
    site: LocalDeployment, plan_with: Callable[..., Plan]
) -> None:
    """The label 'none' is for life: its weights cannot be laundered through a private plan."""
    from pocketfl.errors import TransportError

    optimizer = OptimizerSpec(kind="sgd", learning_rate=1.0)
    site.operator.create_task(
        "open",
        plan_with(name="open", privacy="none", dp=None, aggregation=FEW).data,
        optimizer=optimizer,
    )
    with pytest.raises(TransportError) as refusal:
        site.operator.create_task(
            "laundered",
            plan_with(name="laundered", aggregation=FEW).data,
            optimizer=optimizer,
            seed_model=("open", 0),
        )
    assert refusal.value.status is not None and 400 <= refusal.value.status < 500
    assert [task.name for task in site.operator.tasks()] == ["open"]


def test_anonymous_devices_take_part_in_a_round(
    tmp_path: Path,
    modeller_key: Ed25519PrivateKey,
    fleet: list[ExampleStore],
    plan_with: Callable[..., Plan],
) -> None:
    """A back end that insists on anonymous tokens: fetched before the round, spent in it, over HTTP."""
    keys = [public_key_hex(modeller_key)]
    plan = plan_with(name="open", privacy="none", dp=None, aggregation=FEW)
    with (
        LocalDeployment(tmp_path / "server", plan_keys=keys, anonymous_only=True) as site,
        contextlib.ExitStack() as stack,
    ):
        site.operator.create_task(
            "open", plan.data, optimizer=OptimizerSpec(kind="sgd", learning_rate=1.0)
        )
        devices = [
            stack.enter_context(
                Device(
                    store,
                    server=site.url,
                    plan_keys=[plan.signed_by],
                    aggregator=AttestedAggregator.development(site.attestation_key),
                    enrolment_key=site.enrolment_key,
                    user=f"user{number}",
                    limits=DeviceLimits(allow_unprotected=True),
                    anonymous=True,
                )
            )
            for number, store in enumerate(fleet[:3])
        ]
        assert [device.fetch_tokens("open") for device in devices[:2]] == [8, 8]
        site.operator.open_round("open", seconds=600)
        codes = [device.run_once().code for device in devices]
        assert codes == ["reported", "reported", "no_anonymous_token"]
        # The third fetches in a run of its own, for rounds to come, and does nothing else in it.
        assert devices[2].run_due() == ()
        assert devices[2].fetch_tokens("open") == 0
        funnel = site.operator.funnel("open", 1)
        assert (funnel.leases, funnel.uploaded) == (2, 2)
        # A device that was shown other keys before neither trains nor shows its token, and says why.
        site.operator.abort_round("open", 1)
        site.operator.open_round("open", seconds=600)
        database = fleet[1].database
        seen = json.loads(database.read_state("token_keys.open") or b"")
        seen["digests"] = ["f" * 64 for _ in seen["digests"]]
        database.write_state("token_keys.open", json.dumps(seen).encode())
        outcomes = [device.run_once() for device in devices[:2]]
        assert [outcome.code for outcome in outcomes] == ["reported", "token_keys_refused"]
        reasons = devices[1].explain(task="open", file=io.StringIO()).reasons
        assert "two sets of token keys" in " ".join(map(str, reasons))
        assert site.operator.funnel("open", 2).checked_in == 1
        named = Device(fleet[3], server=site.url, plan_keys=[plan.signed_by])
        with named, pytest.raises(ValueError, match="anonymous=True"):
            named.fetch_tokens("open")
