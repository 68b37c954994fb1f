"""What stands against a device's next session, as far as it knows without asking anybody."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from pocketfl.device.admission import Admission
from pocketfl.device.plans import OpenPlan
from pocketfl.device.rounds import RoundChoice
from pocketfl.device.sessions import Sessions
from pocketfl.device.sources import ModelSource
from pocketfl.errors import PlanError
from pocketfl.plan.manifest import Manifest
from pocketfl.reasons import Reason

if TYPE_CHECKING:
    from pocketfl.credentials.directory import KeyDirectory


class Objections:
    """Looks at conditions, budgets and known plans; tosses no coin and sets nothing aside.

    Parameters
    ----------
    sessions : Sessions
        Those that wait.
    source : ModelSource
        Plans and models that the device has.
    admission : Admission
        Its conditions and budgets.
    choice : RoundChoice
        What it would refuse of a plan.
    directory : KeyDirectory or None
        Keys of anonymous tokens, where it checks in with those.
    """

    def __init__(
        self,
        sessions: Sessions,
        *,
        source: ModelSource,
        admission: Admission,
        choice: RoundChoice,
        directory: KeyDirectory | None,
    ) -> None:
        self._sessions = sessions
        self._source = source
        self._admission = admission
        self._choice = choice
        self._directory = directory

    def of(self, task: str | None) -> tuple[Reason, ...]:
        """Return what stands against what stands the best chance: a session that waits, or a round."""
        found = []
        held = set()
        for pending in self._sessions.pending():
            if pending.session is not None and task in (None, pending.task):
                opened = known_plan(self._source, pending.session.notice.plan_sha256)
                held.add(pending.task)
                found.append(
                    self._admission.objections(
                        manifest_of(opened), task=pending.task, round=pending.round, resuming=True
                    )
                )
        known = [
            model
            for model in self._source.models().values()
            if task in (None, model.task) and model.task not in held
        ]
        plans = [(m.task, known_plan(self._source, m.plan_sha256)) for m in known]
        if not plans and not found:
            plans = [(task or "", None)]
        found += [
            (() if opened is None else self._choice.objections(opened))
            # No round has the number 0, so nothing is known of it.
            + self._admission.objections(manifest_of(opened), task=name, round=0)
            + (() if self._directory is None else self._directory.objections(name))
            for name, opened in plans
        ]
        return min(found, key=len)


def known_plan(source: ModelSource, plan_sha256: str) -> OpenPlan | None:
    """Return a plan that the device has; None if it has not, or cannot use it any more."""
    # That it cannot is found out where the plan is needed, and said there.
    with suppress(PlanError):
        return source.kept_plan(plan_sha256)
    return None


def manifest_of(opened: OpenPlan | None) -> Manifest | None:
    """Return an opened plan's manifest; None without a plan."""
    return None if opened is None else opened.plan.manifest
