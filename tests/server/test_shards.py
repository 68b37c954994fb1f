"""Shards as processes: settings, HTTP between the tiers, and how a shard's back end ends a round."""

from __future__ import annotations

from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np
import pytest

from pocketfl.errors import TransportError
from pocketfl.protocol import AggregatorKey, Assignment, EnrolmentRequest
from pocketfl.transport import HttpTransport
from pocketfl_server.deployment.settings import SettingsError, read_settings
from pocketfl_server.deployment.supervisor import Supervisor
from pocketfl_server.operator_client import OperatorClient
from pocketfl_server.trusted.client import HttpTrustedTier
from pocketfl_server.trusted.refusals import Conflict, PeerRefused

from .conftest import AVERAGING, CHECK_IN, ENROLMENT_KEY, OPERATOR_KEY, seal_update

TOKEN = "a-token-of-the-trusted-tier"


def write_settings(
    folder: Path, plan_keys, *, role: str, peer: Path, back_end: bool = True
) -> Path:
    folder.mkdir()
    for name, secret in (
        ("trusted-token", TOKEN),
        ("operator-key", OPERATOR_KEY),
        ("enrolment-key", ENROLMENT_KEY),
    ):
        (folder / name).write_text(secret)
    path = folder / "pocketfl.toml"
    table = """
[back_end]
port = 0
operator_key_file = "operator-key"
enrolment_key_file = "enrolment-key"
"""
    path.write_text(
        f"""
plan_keys = ["{plan_keys[0]}"]
trusted_token_file = "trusted-token"
{table if back_end else ""}
[trusted_tier]
port = 0
shard = {{role = "{role}", name = "{folder.name}", peers = ["{peer}"]}}
"""
    )
    return path


def start(stack: ExitStack, path: Path) -> Supervisor:
    supervisor = Supervisor(path, read_settings(path), logs=path.parent)
    supervisor.start()
    stack.callback(supervisor.stop)
    return supervisor


def test_a_shard_s_devices_are_in_the_root_s_release(tmp_path, make_plan, plan_keys) -> None:
    """Its back end closes the round as always and makes no version; the sum goes from tier to tier."""
    plan = make_plan(privacy="none", cohort_floor=2)
    north, root = tmp_path / "north", tmp_path / "root"
    key_of = "ledger.db-attestation.pub"
    settings = [
        write_settings(north, plan_keys, role="shard", peer=root / key_of),
        write_settings(root, plan_keys, role="root", peer=north / key_of, back_end=False),
    ]
    with ExitStack() as stack:
        shard, whole = (start(stack, path) for path in settings)
        operator = stack.enter_context(OperatorClient(shard.url, OPERATOR_KEY))
        operator.create_task("clicks", plan.data, optimizer=AVERAGING)
        operator.open_round("clicks", seconds=600)
        for index in range(3):
            with closing(HttpTransport(shard.url)) as device:
                request = EnrolmentRequest(user=f"user-{index}", sdk="1")
                token = device.enrol(ENROLMENT_KEY, request).token
                answer = device.check_in(token, "clicks", 1, CHECK_IN)
                assert isinstance(answer, Assignment)
                device.upload(answer.lease, seal_update(np.full(5, 0.25), answer, plan))
        result = operator.close_round("clicks", 1)
        assert (result.state, result.new_version) == ("finished", None)
        assert operator.funnel("clicks", 1).uploaded == 3
        tiers = [
            stack.enter_context(HttpTrustedTier(running.trusted_url, TOKEN))
            for running in (shard, whole)
        ]
        described = tiers[1].register("clicks", plan.data)
        key = AggregatorKey(key_id=described.key_id, public_key=described.public_key)
        with pytest.raises(PeerRefused, match="without an attestation token"):
            tiers[0].hand_over("clicks", 1, 0, key)
        attested = AggregatorKey(
            key_id=key.key_id, public_key=key.public_key, attestation=tiers[1].attest("clicks")
        )
        partial = tiers[0].hand_over("clicks", 1, 0, attested)
        assert tiers[0].hand_over("clicks", 1, 0, attested) == partial
        tiers[1].accept_partial_sum(partial)
        tiers[1].accept_partial_sum(partial)
        release = tiers[1].release("clicks", 1, 0)
        assert release.reports == 3
        np.testing.assert_allclose(
            release.values * plan.manifest.aggregation.grid_step, 0.75, atol=0.01
        )
        with pytest.raises(Conflict):
            tiers[1].accept_partial_sum(partial)


def test_a_shard_without_peers_is_refused(tmp_path, plan_keys) -> None:
    """The file says whom it believes."""
    path = write_settings(tmp_path / "north", plan_keys, role="shard", peer=Path("x"))
    path.write_text(path.read_text().replace('peers = ["x"]', "peers = []"))
    with pytest.raises(SettingsError, match=r"trusted_tier\.shard\.peers is empty"):
        read_settings(path)


def test_a_shard_s_model_follows_the_root_s(tmp_path, make_plan, plan_keys) -> None:
    """The root's release makes the same version at the shard, also after a round that it missed."""
    plan = make_plan(cohort_floor=2, noise_multiplier=0.5)
    north, root = tmp_path / "north", tmp_path / "root"
    key_of = "ledger.db-attestation.pub"
    settings = [
        write_settings(north, plan_keys, role="shard", peer=root / key_of),
        write_settings(root, plan_keys, role="root", peer=north / key_of),
    ]
    with ExitStack() as stack:
        places = [start(stack, path) for path in settings]
        shard, whole = (
            stack.enter_context(OperatorClient(place.url, OPERATOR_KEY)) for place in places
        )
        tiers = [stack.enter_context(HttpTrustedTier(p.trusted_url, TOKEN)) for p in places]
        for operator in (shard, whole):
            operator.create_task("clicks", plan.data, optimizer=AVERAGING)
        keys = []
        for tier in tiers:
            key = tier.describe("clicks").key
            keys.append(
                AggregatorKey(
                    key_id=key.key_id, public_key=key.public_key, attestation=tier.attest("clicks")
                )
            )

        def report(place, number: int) -> None:
            for index in range(2):
                with closing(HttpTransport(place.url)) as device:
                    request = EnrolmentRequest(user=f"user-{index}", sdk="1")
                    token = device.enrol(ENROLMENT_KEY, request).token
                    answer = device.check_in(token, "clicks", number, CHECK_IN)
                    assert isinstance(answer, Assignment)
                    device.upload(answer.lease, seal_update(np.full(5, 0.25), answer, plan))

        def take(number: int) -> None:
            tiers[0].adopt(tiers[1].forward("clicks", number, number - 1, keys[0]))
            made = shard.adopt_release("clicks", number)
            assert shard.adopt_release("clicks", number) == made
            assert made.version == number

        for number in (1, 3):
            for operator in (shard, whole):
                operator.open_round("clicks", seconds=600, number=number)
            report(places[0], number)
            shard.close_round("clicks", number)
            tiers[1].accept_partial_sum(tiers[0].hand_over("clicks", number, number - 1, keys[1]))
            assert whole.close_round("clicks", number).new_version == number
            if number == 3:
                break
            take(1)
            # Of the second round nothing comes from the shard, where it is still open.
            for operator in (shard, whole):
                operator.open_round("clicks", seconds=600)
            report(places[0], 2)
            report(places[1], 2)
            assert whole.close_round("clicks", 2).new_version == 2
            take(2)
            result = shard.round("clicks", 2)
            assert (result.state, result.reason) == ("aborted", "left_out")
        take(3)
        with pytest.raises(TransportError, match="not above"):
            shard.open_round("clicks", seconds=600, number=3)
        assert shard.round("clicks", 3).new_version == 3
        for made, ours in zip(whole.models("clicks"), shard.models("clicks"), strict=True):
            assert made.parameters_sha256 == ours.parameters_sha256
            assert made.epsilon == ours.epsilon
        assert [tier.describe("clicks").spent.releases for tier in tiers] == [0, 3]
