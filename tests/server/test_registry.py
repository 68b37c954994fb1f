"""Only the release that a plan's privacy calls for moves a model, and the label stays for life."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from pocketfl.plan import generate_signing_key
from pocketfl_server.errors import Conflict, Malformed, NotFound, ReleaseRefusedError
from pocketfl_server.optimizers import OptimizerSpec
from pocketfl_server.releases import require_release
from pocketfl_server.trusted.releases import NoisedRelease, UnprotectedRelease

from .conftest import AVERAGING, everything_in


class Substituting:
    """A trusted tier whose releases are swapped for something else on their way."""

    def __init__(self, trusted, substitute) -> None:
        self._trusted = trusted
        self._substitute = substitute

    def __getattr__(self, name):
        return getattr(self._trusted, name)

    def release(self, *arguments):
        return self._substitute(self._trusted.release(*arguments))


def unprotected(release):
    summary = dataclasses.replace(
        release.summary,
        kind="unprotected",
        noise_multiplier=0.0,
        epsilon=None,
        epsilon_against_back_end=None,
        delta=None,
    )
    return UnprotectedRelease(summary=summary, values=release.values)


class Disguised(UnprotectedRelease):
    """A subclass does not pass for the type either."""


def disguised(release):
    plain = unprotected(release)
    return Disguised(summary=plain.summary, values=plain.values)


def with_summary(**changes):
    def change(release):
        return type(release)(
            summary=dataclasses.replace(release.summary, **changes), values=release.values
        )

    return change


SUBSTITUTES = [
    (unprotected, "not by a UnprotectedRelease"),
    (disguised, "not by a Disguised"),
    (lambda release: release.values, "not by a ndarray"),
    (lambda release: release.summary, "not by a ReleaseSummary"),
    (with_summary(round=9), "round 9"),
    (with_summary(model_version=3), "model_version 3"),
    (with_summary(task="other"), "task 'other'"),
    (with_summary(plan_sha256="0" * 64), "plan_sha256"),
    (with_summary(policy_hash="0" * 64), "policy_hash"),
    (with_summary(grid_step=1.0), "grid_step"),
    (with_summary(expected_cohort=1.0), "expected_cohort"),
    (
        lambda release: NoisedRelease(summary=release.summary, values=release.values[:-1].copy()),
        "4 values",
    ),
]


def test_a_private_model_moves_by_its_own_noised_release_only(
    open_back_end, trusted, fleet, make_plan
) -> None:
    """Anything else is refused with the model as it was; the true release still applies later."""
    plan = make_plan()
    fleet.back_end.create_task("clicks", plan.data, optimizer=AVERAGING)
    fleet.back_end.open_round("clicks", seconds=60)
    fleet.reports(4, "clicks", 1, np.full(5, 0.5), plan)
    for substitute, reason in SUBSTITUTES:
        cheated = open_back_end(trusted_tier=Substituting(trusted, substitute))
        with pytest.raises(ReleaseRefusedError, match=reason):
            cheated.close_round("clicks")
        assert [model.version for model in cheated.models("clicks")] == [0]
        assert cheated.round("clicks", 1).state == "closing"
        cheated.close()
    assert fleet.back_end.close_round("clicks").new_version == 1


def test_the_refusal_is_a_type_error() -> None:
    """A wrong type of release is a TypeError for whoever looks at it as such."""
    assert issubclass(ReleaseRefusedError, TypeError)


def test_an_unprotected_plan_takes_no_noised_release_either(make_plan) -> None:
    """The label and the release agree in both directions."""
    plan = make_plan(privacy="none")
    with pytest.raises(ReleaseRefusedError, match="UnprotectedRelease only"):
        require_release(object.__new__(NoisedRelease), plan.manifest)


def test_an_unprotected_model_cannot_seed_a_private_task(back_end, fleet, make_plan) -> None:
    """Neither any version of it, nor through another unprotected task."""
    plain = make_plan(privacy="none", name="plain")
    back_end.create_task("plain", plain.data, optimizer=AVERAGING)
    back_end.open_round("plain", seconds=60)
    fleet.reports(4, "plain", 1, np.full(5, 0.5), plain)
    back_end.close_round("plain")
    heir = make_plan(privacy="none", name="heir")
    back_end.create_task("heir", heir.data, optimizer=AVERAGING, seed_model=("plain", 1))
    private = make_plan(name="private")
    for seed in (("plain", 0), ("plain", 1), ("heir", 0)):
        before = everything_in(back_end)
        with pytest.raises(Conflict, match="without differential privacy") as caught:
            back_end.create_task("private", private.data, optimizer=AVERAGING, seed_model=seed)
        assert caught.value.code == "unprotected_seed"
        assert everything_in(back_end) == before
    labels = {model.privacy for name in ("plain", "heir") for model in back_end.models(name)}
    assert labels == {"none"}


def test_a_private_model_seeds_another_task(back_end, fleet, make_plan) -> None:
    """The seed's parameters are version 0, and where they came from is on record."""
    first = make_plan(name="first")
    back_end.create_task("first", first.data, optimizer=AVERAGING)
    back_end.open_round("first", seconds=60)
    fleet.reports(4, "first", 1, np.full(5, 0.5), first)
    back_end.close_round("first")
    second = make_plan(name="second")
    task = back_end.create_task("second", second.data, optimizer=AVERAGING, seed_model=("first", 1))
    assert (task.seed_model.task, task.seed_model.version) == ("first", 1)
    np.testing.assert_array_equal(
        back_end.model_parameters("second", 0), back_end.model_parameters("first", 1)
    )
    # A model without any protection may start from a protected one; its label is its own.
    third = make_plan(name="third", privacy="none")
    back_end.create_task("third", third.data, optimizer=AVERAGING, seed_model=("first", 1))
    assert back_end.model("third", 0).privacy == "none"


def test_a_seed_has_to_exist_and_fit(back_end, make_plan) -> None:
    """A missing version and another architecture are told apart."""
    back_end.create_task("a", make_plan(name="a").data, optimizer=AVERAGING)
    wide = make_plan(name="b", parameters=6)
    with pytest.raises(NotFound) as missing:
        back_end.create_task("b", wide.data, optimizer=AVERAGING, seed_model=("a", 4))
    assert missing.value.code == "unknown_model"
    with pytest.raises(Conflict) as misfit:
        back_end.create_task("b", wide.data, optimizer=AVERAGING, seed_model=("a", 0))
    assert misfit.value.code == "seed_does_not_fit"


def test_creating_a_task_twice_changes_nothing(back_end, make_plan) -> None:
    """The same request is answered with the same task; another one under its name is refused."""
    plan = make_plan()
    task = back_end.create_task("clicks", plan.data, optimizer=AVERAGING)
    before = everything_in(back_end)
    assert back_end.create_task("clicks", plan.data, optimizer=AVERAGING) == task
    adam = OptimizerSpec(kind="adam", learning_rate=0.1)
    for change in (
        {"plan_data": make_plan(name="other").data, "optimizer": AVERAGING},
        {"plan_data": plan.data, "optimizer": adam},
    ):
        with pytest.raises(Conflict) as caught:
            back_end.create_task("clicks", **change)
        assert caught.value.code == "task_exists"
    assert everything_in(back_end) == before


def test_a_plan_that_nobody_we_trust_signed_makes_no_task(back_end, make_plan) -> None:
    """Wrong key, changed bytes, no plan at all, an impossible name: refused, nothing stored."""
    good = make_plan().data
    before = everything_in(back_end)
    for name, data in (
        ("clicks", make_plan(signing_key=generate_signing_key()).data),
        ("clicks", good[:-30] + bytes(30)),
        ("clicks", b"not a plan"),
        ("../etc", good),
    ):
        with pytest.raises(Malformed):
            back_end.create_task(name, data, optimizer=AVERAGING)
    assert everything_in(back_end) == before
