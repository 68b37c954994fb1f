"""From an exact sum to a release: the only way, and noise lies on it."""

# ruff: noqa: A002 - "round" is the word of the field

from __future__ import annotations

import numpy as np

from pocketfl.encoding import Rotation
from pocketfl.plan import AggregationSpec, DifferentialPrivacySpec
from pocketfl_server.trusted.messages import PrivacyStatement
from pocketfl_server.trusted.noise import add_noise
from pocketfl_server.trusted.releases import (
    BudgetStatement,
    IntegerVector,
    NoisedRelease,
    Release,
    ReleaseSummary,
    UnprotectedRelease,
)
from pocketfl_server.trusted.summing import PartialSum
from pocketfl_server.trusted.task_state import TaskState


def draw_noise(
    dp: DifferentialPrivacySpec, aggregation: AggregationSpec, length: int
) -> IntegerVector:
    """Return so many coordinates of a plan's noise."""
    return add_noise(
        np.zeros(length, dtype=np.int64),
        noise_multiplier=dp.noise_multiplier,
        norm_bound=aggregation.norm_bound * aggregation.whole_weight,
    )


def make_release(
    state: TaskState,
    round: int,
    model_version: int,
    result: PartialSum,
    *,
    aggregation: AggregationSpec,
    spent: PrivacyStatement,
    budget: BudgetStatement | None,
    privacy_event: str,
    noise: IntegerVector | None,
) -> Release:
    """Add the noise that the plan asks for, and say what the release spends.

    Parameters
    ----------
    state : TaskState
        Of the task.
    round, model_version : int
        Of the round.
    result : PartialSum
        The exact sum, with what was accepted and rejected.
    aggregation : AggregationSpec
        As it held in this round.
    spent, budget
        What the task and its shared budget come to with this release.
    privacy_event : str
        The same as dp-accounting's event, in JSON.
    noise : ndarray of int64 or None, shape (report_length,)
        None for a plan without privacy only.

    Raises
    ------
    RuntimeError
        If a private release has no noise: that would be a mistake of ours.
    """
    unprotected = state.manifest.privacy == "none"
    if not unprotected and noise is None:
        raise RuntimeError("a private release needs noise")
    values = result.total if noise is None else result.total + noise
    clip_norm, following, within = _move_clip_norm(state, round, result, values, aggregation)
    summary = ReleaseSummary(
        kind="unprotected" if unprotected else "noised",
        task=state.task,
        round=round,
        model_version=model_version,
        plan_sha256=state.key.plan_sha256,
        policy_hash=state.key.policy_hash,
        reports=result.accepted,
        rejected=result.reasons(),
        grid_step=aggregation.release_step,
        expected_cohort=aggregation.expected_cohort,
        noise_multiplier=spent.noise_multiplier,
        epsilon=spent.epsilon,
        epsilon_against_back_end=spent.epsilon_against_back_end,
        delta=spent.delta,
        budget=budget,
        clip_norm=clip_norm,
        next_clip_norm=following,
        share_within=within,
        privacy_event=privacy_event,
    )
    kind = UnprotectedRelease if unprotected else NoisedRelease
    return kind(summary=summary, values=values)


def _move_clip_norm(
    state: TaskState,
    round: int,
    result: PartialSum,
    released: IntegerVector,
    aggregation: AggregationSpec,
) -> tuple[float | None, float | None, float | None]:
    """Return this round's clip norm, the next one's and the share within, all of what is released."""
    adaptive = aggregation.adaptive
    if adaptive is None:
        return None, None, None
    values = released.astype(np.float64)
    if aggregation.encoding is not None:
        rotation = Rotation.of_round(
            state.manifest.summed_length,
            plan_sha256=state.key.plan_sha256,
            task=state.task,
            round=round,
        )
        values = rotation.invert(released)
    within = adaptive.share_within(
        float(values[-1]), norm_bound=aggregation.norm_bound, reports=result.accepted
    )
    return aggregation.clip_norm, adaptive.following(aggregation.clip_norm, within), within
