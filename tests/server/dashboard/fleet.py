"""A back end with something to look at: rounds, evaluations and a rollout, all of them real."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tests.server.conftest import AVERAGING, SIGNING_KEY, Clock, Fleet, build

from pocketfl.plan import AggregationSpec, DifferentialPrivacySpec, Plan
from pocketfl.queries import QuerySet, ScoreHistogram
from pocketfl.queries.plans import write_evaluation_plan
from pocketfl.rollout import Channel, Rollout, RolloutModel
from pocketfl_server.back_end import BackEnd
from pocketfl_server.records import Schedule

DEVICES = 30
BINS = 8


def train(back_end: BackEnd, fleet: Fleet, clock: Clock, *, rounds: int) -> Plan:
    """Run rounds of a task, abort one, and start the task, so that its next round opens by itself."""
    plan = build(
        name="clicks",
        population=100,
        cohort_floor=10,
        noise_multiplier=3.0,
        epsilon=6.0,
        max_rounds=20,
    )
    back_end.create_task("clicks", plan.data, optimizer=AVERAGING)
    generator = np.random.default_rng(3)
    for number in range(1, rounds + 1):
        back_end.open_round("clicks", seconds=600)
        fleet.reports(DEVICES, "clicks", number, generator.normal(0, 0.1, 5), plan)
        back_end.turn_rounds()
        back_end.close_round("clicks", number)
        clock.now += 700
    back_end.open_round("clicks", seconds=600)
    back_end.abort_round("clicks", rounds + 1)
    back_end.start_task("clicks", Schedule(round_seconds=600, pause_seconds=300))
    clock.now += 300
    back_end.turn_rounds()
    fleet.reports(4, "clicks", rounds + 2, generator.normal(0, 0.1, 5), plan)
    return plan


def evaluate(back_end: BackEnd, fleet: Fleet, folder: Path, plan: Plan, *, version: int) -> None:
    """Ask the fleet how good a version is; later ones are better, as their scores lie further apart."""
    name = f"clicks-quality-{version}"
    asked = write_evaluation_plan(
        folder / f"{name}.plan",
        trained_by=plan,
        name=name,
        version="1",
        queries=QuerySet(
            queries=(
                ScoreHistogram(name="scores", output="output", activation="sigmoid", bins=BINS),
            ),
            upload_delay_seconds=0.0,
        ),
        aggregation=AggregationSpec(
            clip_norm=1.0, population=100, cohort_floor=10, max_rounds=2, max_participations=2
        ),
        dp=DifferentialPrivacySpec(noise_multiplier=0.4, epsilon=60.0, delta=1e-5),
        signing_key=SIGNING_KEY,
    )
    back_end.create_task(name, asked.data, seed_model=("clicks", version))
    back_end.open_round(name, seconds=600)
    slope = np.linspace(-1, 1, BINS) * 0.3 * version
    shares = np.concatenate([np.exp(-slope), np.exp(slope)])
    fleet.reports(DEVICES, name, 1, shares / shares.sum(), asked)
    back_end.close_round(name, 1)


def roll_out(back_end: BackEnd, *, sequence: int, stable: int, canary: int | None) -> None:
    """Publish a document."""
    plan_sha256 = back_end.task("clicks").plan_sha256

    def model(version: int) -> RolloutModel:
        digest = back_end.model("clicks", version).parameters_sha256
        return RolloutModel(version=version, plan_sha256=plan_sha256, parameters_sha256=digest)

    rollout = Rollout(
        task="clicks",
        sequence=sequence,
        stable=model(stable),
        channels=()
        if canary is None
        else (Channel(name="canary", share=0.1, model=model(canary)),),
    )
    back_end.publish_rollout("clicks", rollout.sign(SIGNING_KEY))
