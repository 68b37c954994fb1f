"""What Prometheus is told of the trusted tier is what its releases say, and when they say it."""

from __future__ import annotations

import re
import urllib.request
from contextlib import ExitStack

import pytest
from prometheus_client.parser import text_string_to_metric_families

from pocketfl_server.trusted import accounting
from pocketfl_server.trusted.aggregator import Aggregator
from pocketfl_server.trusted.metrics import Metrics
from pocketfl_server.trusted.refusals import FloorNotReached
from pocketfl_server.trusted.summing import CANNOT_OPEN, NORM_ABOVE_BOUND

from .test_shards import Tiers


def lease(number: int) -> str:
    return f"lease-{number:012d}"


def read(port: int) -> tuple[str, dict[tuple[str, ...], float]]:
    """The text, and each sample by its name and the values of its labels in their order."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        text = answer.read().decode()
    families = text_string_to_metric_families(text)
    samples = [sample for family in families for sample in family.samples]
    return text, {(s.name, *map(s.labels.get, sorted(s.labels))): s.value for s in samples}


def test_counts_move_with_releases_and_name_no_report(
    tmp_path, make_plan, plan_keys, sealed_vector
) -> None:
    """While reports come in their number shows, and nothing of what they are until the release."""
    metrics = Metrics()
    with (
        Aggregator(tmp_path / "ledger", plan_keys=plan_keys, observer=metrics) as tier,
        metrics.served(tier, host="127.0.0.1", port=0) as port,
    ):
        key = tier.register("clicks", make_plan().data)
        entries = [sealed_vector([300, 0, 0], key=key, lease=lease(n)) for n in range(2)]
        entries.append(sealed_vector([2000, 0, 0], key=key, lease=lease(8)))
        tier.submit("clicks", 1, 0, entries)
        with pytest.raises(FloorNotReached):
            tier.release("clicks", 1, 0)
        text, found = read(port)
        assert found["pocketfl_trusted_round_reports", "1", "clicks"] == 3
        assert found["pocketfl_trusted_refused_releases_total", "floor_not_reached", "clicks"] == 1
        assert found["pocketfl_trusted_epsilon_spent", "clicks"] == 0
        assert not any(name[0] == "pocketfl_trusted_reports_total" for name in found)
        more = [sealed_vector([0, 300, 0], key=key, lease=lease(n)) for n in range(10, 14)]
        more.append(sealed_vector([1, 0, 0], key=key, lease=lease(20), round=2))
        tier.submit("clicks", 1, 0, more)
        release = tier.release("clicks", 1, 0)
        again = tier.release("clicks", 1, 0)  # which counts nothing
        assert again.values.tolist() == release.values.tolist()
        text, found = read(port)
        reports = "pocketfl_trusted_reports_total"
        assert found[reports, "accepted", "clicks"] == release.reports == 6
        assert found[reports, NORM_ABOVE_BOUND, "clicks"] == 1
        assert found[reports, CANNOT_OPEN, "clicks"] == 1
        assert found["pocketfl_trusted_release_seconds_count", "clicks"] == 1
        assert found["pocketfl_trusted_releases_total", "clicks"] == 1
        assert found["pocketfl_trusted_epsilon_spent", "clicks"] == release.summary.epsilon
        assert found["pocketfl_trusted_worker_restarts_total",] == 0
        assert ("pocketfl_trusted_round_reports", "1", "clicks") not in found
        assert "lease-" not in text and key.key_id not in text
        labels = set(re.findall(r'(\w+)="', text))
        assert labels == {"task", "outcome", "reason", "le"}


def test_a_shard_says_nothing_of_its_partial_sum(
    tmp_path, make_plan, plan_keys, sealed_vector
) -> None:
    """How many of its reports counted is sealed to the root, and so not to be read here either."""
    plan = make_plan(privacy="none", cohort_floor=5)
    with ExitStack() as stack:
        tiers = Tiers(tmp_path, plan, plan_keys, stack)
        shard, metrics = tiers.shards[0], Metrics()
        shard._observer = metrics
        key = shard.describe("clicks").key
        entries = [sealed_vector([3, 0, 0], key=key, lease=lease(n)) for n in range(7)]
        shard.submit("clicks", 1, 0, entries)
        first = shard.hand_over("clicks", 1, 0, tiers.root_key)
        assert shard.hand_over("clicks", 1, 0, tiers.root_key) == first
        port = stack.enter_context(metrics.served(shard, host="127.0.0.1", port=0))
        _, found = read(port)
        told = {name: value for name, value in found.items() if not name[0].endswith("_created")}
        assert told == {
            ("pocketfl_trusted_partial_sums_handed_over_total", "clicks"): 1,
            ("pocketfl_trusted_releases_total", "clicks"): 0,
            ("pocketfl_trusted_worker_restarts_total",): 0,
        }


def test_the_first_release_after_a_start_finds_its_prices(
    tmp_path, make_plan, plan_keys, sealed_vector, monkeypatch
) -> None:
    """What warming up has priced and built is not priced and built again."""
    ledger = tmp_path / "ledger"
    with Aggregator(ledger, plan_keys=plan_keys) as tier:
        key = tier.register("clicks", make_plan(noise_multiplier=1.37).data)
        entries = [sealed_vector([3, 0, 0], key=key, lease=lease(n)) for n in range(4)]
        tier.submit("clicks", 1, 0, entries)
    with Aggregator(ledger, plan_keys=plan_keys) as tier:
        accounting._epsilon.cache_clear()
        tier.warm_up()

        def asked(*arguments):
            raise AssertionError(f"priced while the release waits: {arguments}")

        monkeypatch.setattr("pocketfl_server.trusted.accounting.renyi_curve", asked)
        assert tier.release("clicks", 1, 0).reports == 4
        tier.close()
        tier.warm_up()  # too late, which is no error
