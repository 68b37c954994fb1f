"""What the modeller wrote down: who knows what, and how much privacy a schedule buys."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn.utils import parameters_to_vector

from pocketfl.balancing import balance_classes
from pocketfl.features.bundle import TransformBundle
from pocketfl.features.transforms import Scale
from pocketfl.plan import Plan, generate_signing_key, public_key_hex
from pocketfl.plan.aggregation import AggregationSpec
from pocketfl_benchmarks.flights import task
from pocketfl_benchmarks.flights.baselines import pool_flights
from pocketfl_benchmarks.flights.data import DEVICE_FIELDS, SERVER_FIELDS, FlightTable
from pocketfl_benchmarks.flights.statistics import Learned
from pocketfl_benchmarks.flights.stores import COLLECTION, FRESH_FROM, server_rows
from pocketfl_benchmarks.flights.task import DELTA, EPSILON, Schedule
from pocketfl_server.trusted.accounting import SAMPLED_ORDERS
from pocketfl_server.trusted.curves import release_event


def epsilon(schedule: Schedule, noise_multiplier: float) -> float:
    import dp_accounting
    from dp_accounting import rdp

    accountant = rdp.RdpAccountant(
        SAMPLED_ORDERS, dp_accounting.NeighboringRelation.REPLACE_SPECIAL
    )
    accountant.compose(
        release_event(schedule.sampling_probability, noise_multiplier), schedule.rounds
    )
    return accountant.get_epsilon(DELTA)


def test_server_columns_read_server_fields_only():
    """No column that the back end could make reads what only the aircraft knows, and the reverse."""
    assert {c.source for c in task.SERVER_COLUMNS} == {"server"}
    assert {c.field for c in task.SERVER_COLUMNS} <= set(SERVER_FIELDS)
    assert {c.source for c in task.DEVICE_COLUMNS} == {"device"}
    assert {c.field for c in task.DEVICE_COLUMNS} <= set(DEVICE_FIELDS)
    assert set(COLLECTION.fields) == set(DEVICE_FIELDS)
    assert {f.name for f in task.FEATURES.server_table.fields} == set(SERVER_FIELDS)


def test_neither_label_nor_key_is_a_feature():
    """The label would be cheating, and the key says nothing about a flight."""
    read = {column.field for column in (*task.DEVICE_COLUMNS, *task.SERVER_COLUMNS)}
    assert read.isdisjoint({"arrival_delay", "leg", "dep_delay", "dep_time", "arr_time"})


def test_what_the_server_gets_holds_nothing_of_the_device(archive):
    """Rows for the back end carry exactly the server's fields under keys that say nothing."""
    table = archive.read()
    for rows in server_rows(table).values():
        for row in rows:
            assert set(row.values) == set(SERVER_FIELDS)
            assert row.key.startswith("leg-") and row.key[4:].isdigit()


def test_fresh_and_known_rows_are_all_rows(archive):
    """What devices had fetched before and what they fetch in a round make up the whole, once."""
    table = archive.read()
    known, fresh = server_rows(table, until=FRESH_FROM), server_rows(table, since=FRESH_FROM)
    whole = server_rows(table)
    assert {a: known[a] + fresh[a] for a in whole} == whole
    assert any(fresh.values()) and any(known.values())


def test_server_only_inputs_ignore_the_device(archive):
    """Changing all that the aircraft knows leaves the server-only part of the input as it was."""
    table = archive.read()
    other = table.rows.copy()
    other["carrier"], other["distance"], other["hour"], other["weekday"] = "AA", 1.0, 6, 2
    other["built"] = other["seats"] = other["engines"] = np.nan
    changed = FlightTable(other, table.archive_sha256)
    before = pool_flights(table, table.aircraft).features
    after = pool_flights(changed, table.aircraft).features
    assert np.array_equal(before[:, task.DEVICE_WIDTH :], after[:, task.DEVICE_WIDTH :])
    assert not np.array_equal(before, after)


def test_inputs_are_as_wide_as_the_model(archive):
    """The modeller's arithmetic of columns agrees with the pipeline's."""
    table = archive.read()
    pooled = pool_flights(table, table.aircraft)
    assert pooled.features.shape == (len(table.rows), task.DEVICE_WIDTH + task.SERVER_WIDTH)
    assert np.abs(pooled.features).max() <= 1


def test_pooled_flights_keep_the_order_of_aircraft(archive):
    """Targets and the validation mark belong to the rows that they stand at."""
    from pocketfl_benchmarks.flights.baselines import is_for_validation

    table = archive.read()
    some = table.aircraft[5:20]
    pooled = pool_flights(table, some)
    rows = pd.concat([table.rows.iloc[table.spans[name]] for name in some])
    assert np.array_equal(pooled.target, (rows["arrival_delay"] > 30).to_numpy(np.float32))
    assert pooled.for_validation.tolist() == [is_for_validation(name) for name in rows["aircraft"]]


@pytest.mark.parametrize(
    "vocabulary", [task.CARRIERS, task.NEW_YORK_AIRPORTS, task.DESTINATIONS], ids=len
)
def test_vocabularies_are_codes_without_repetition(vocabulary):
    """Public lists of IATA codes: two letters or digits for carriers, three letters for airports."""
    assert len(set(vocabulary)) == len(vocabulary)
    assert all(code.isalnum() and code.upper() == code for code in vocabulary)
    assert {len(code) for code in vocabulary} in ({2}, {3})


def test_the_default_schedule_spends_at_most_its_budget():
    """All rounds together stay within epsilon 8, and hardly less noise would not."""
    schedule = Schedule(population=3196)
    noise = schedule.privacy().noise_multiplier
    assert epsilon(schedule, noise) <= EPSILON
    assert epsilon(schedule, 0.98 * noise) > EPSILON


@pytest.mark.parametrize(("rounds", "cohort"), [(1, 3196), (2, 60), (3, 150), (100, 7)])
def test_any_schedule_makes_a_sound_plan(rounds, cohort):
    """Few rounds and small cohorts work too: bounds accept their own floor, and the budget holds."""
    schedule = Schedule(rounds=rounds, cohort=cohort, population=3196)
    spec = schedule.aggregation()
    assert isinstance(spec, AggregationSpec)
    assert abs(spec.expected_cohort - cohort) < 0.01 * cohort + 0.01
    assert epsilon(schedule, schedule.privacy().noise_multiplier) <= EPSILON


def test_the_cap_binds_for_one_device_in_a_hundred_at_most():
    """Low enough to bound what the back end learns, high enough to cost hardly a report."""
    from scipy.stats import binom

    schedule = Schedule(population=3196)
    spec = schedule.aggregation()
    assert spec.max_participations < spec.max_rounds
    assert binom.sf(spec.max_participations, spec.max_rounds, spec.sampling_probability) <= 0.01
    assert binom.sf(spec.max_participations - 1, spec.max_rounds, spec.sampling_probability) > 0.01


@pytest.mark.parametrize(("rounds", "cohort"), [(0, 10), (5, 0), (5, 101)])
def test_an_impossible_schedule_is_refused(rounds, cohort):
    """The message names the bound."""
    with pytest.raises(ValueError, match=r"at least 1|1 to 100"):
        Schedule(rounds=rounds, cohort=cohort, population=100)


def test_schedules_are_values():
    """A schedule cannot be changed after it was checked."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        Schedule(population=10, cohort=5).rounds = 3


def test_what_was_learned_changes_features_and_start_alone(tmp_path):
    """The plan is exported while the devices are asked: graphs, noise and budget were right before."""
    key = generate_signing_key()
    data = task.export_task(
        tmp_path / "flights.plan",
        schedule=Schedule(rounds=2, cohort=60, population=3196),
        signing_key=key.private_bytes_raw(),
        seed=3,
        encoding=None,
        runtimes=("onnxruntime",),
        asks=True,
    )
    before = Plan.load(data, trusted_keys=[public_key_hex(key)])
    bundle = TransformBundle(
        name="flights", version="1", transforms=(Scale(field="seats", low=20, high=300),)
    )
    policy = balance_classes([0.85, 0.15], method="weight", strength=0.5)
    learned = Learned(bundle=bundle, balancing=policy)
    made = task.with_learned(before, learned, signing_key=key)
    after = Plan.load(made.data, trusted_keys=[public_key_hex(key)])
    assert after.manifest.features == learned.apply(task.FEATURES)
    assert before.manifest.features == task.FEATURES
    torch.manual_seed(3)
    model = task.LatenessModel(bias=learned.starting_logit)
    fresh = parameters_to_vector(model.parameters()).detach().numpy()
    assert np.array_equal(after.initial_parameters(), fresh)
    unchanged = dataclasses.replace(
        after.manifest, features=task.FEATURES, parts=before.manifest.parts
    )
    assert unchanged == before.manifest
    start = before.manifest.required_model.parameters_part
    for part in before.manifest.parts:
        assert part.name == start or after.part(part.name) == before.part(part.name)
    nothing = Learned(bundle=None, balancing=None)
    assert task.with_learned(before, nothing, signing_key=key).manifest == before.manifest
