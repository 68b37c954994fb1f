"""What a receipt says about one contribution."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal, Self, TypeAlias

from pocketfl.plan.archive import Plan
from pocketfl.plan.manifest import Kind, Privacy
from pocketfl.reports import SealedReport
from pocketfl.sealing import ReportContext

ContributionOutcome: TypeAlias = Literal["prepared", "accepted", "rejected", "abandoned", "unknown"]
"""What became of a report, as far as this device knows.

``prepared``: sealed and kept, not yet answered. ``accepted``: the server holds it. ``rejected``: the
server refused it. ``abandoned``: given up before any of it was sent. ``unknown``: some of it may have
been sent, and no answer will come; count it as if it had been accepted.
"""


REPORT_KINDS: Final[dict[Kind, str]] = {
    "training": "model update",
    "analytics": "statistics",
    "evaluation": "evaluation",
}
"""How a receipt names what was sent under a plan of each kind."""


@dataclass(frozen=True, kw_only=True)
class PrivacyLoss:
    """What a contribution costs under differential privacy; see the ledger for how it is composed.

    Attributes
    ----------
    epsilon : float
        Of this contribution alone.
    epsilon_so_far : float
        Of everything that this device has contributed in the ledger's window, this one included.
    delta : float
        That both hold at.
    """

    epsilon: float
    epsilon_so_far: float
    delta: float

    def __post_init__(self) -> None:
        for name in ("epsilon", "epsilon_so_far", "delta"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} is {value}; it must be finite and not negative")


@dataclass(frozen=True, kw_only=True)
class Contribution:
    """One report, described before it is sent.

    Attributes
    ----------
    task : str
        Name of the task.
    round : int
        From 1.
    kind : str
        What kind of report: ``model update`` is the clipped difference of trained parameters,
        ``statistics`` are answers to queries about the examples, ``evaluation`` is answers about how
        the model does on them.
    plan_name, plan_version, plan_sha256 : str
        The signed plan that it was made under.
    model_version : int
        Version of the model that training started from, or that was evaluated; 0 for statistics.
    collection : str
        Whose examples were used.
    report_bytes : int
        Size of the sealed report in bytes.
    report_sha256 : str
        Its hash; the server's acknowledgement names the same.
    privacy : {"gaussian", "none"}
        Protection of the sum that it goes into.
    clip_norm : float
        L2 bound of the update, in the model's units.
    cohort_floor : int
        Fewest reports of which the sum may be released.
    noise_multiplier : float or None
        Standard deviation of the noise over the bound; None without differential privacy.
    epsilon, epsilon_so_far, delta : float or None
        See :class:`PrivacyLoss`; None without differential privacy.
    aggregator_key_id : str
        SHA-256 (hex) of the key that the report is sealed for.
    attestation : str
        What was checked before that key was believed, such as ``pinned key``.
    """

    task: str
    round: int
    kind: str = "model update"
    plan_name: str
    plan_version: str
    plan_sha256: str
    model_version: int
    collection: str
    report_bytes: int
    report_sha256: str
    privacy: Privacy
    clip_norm: float
    cohort_floor: int
    noise_multiplier: float | None = None
    epsilon: float | None = None
    epsilon_so_far: float | None = None
    delta: float | None = None
    aggregator_key_id: str
    attestation: str

    def __post_init__(self) -> None:
        stated = {
            name
            for name in ("noise_multiplier", "epsilon", "epsilon_so_far", "delta")
            if getattr(self, name) is not None
        }
        wanted = 4 if self.privacy == "gaussian" else 0
        if len(stated) != wanted:
            raise ValueError(
                "a contribution under differential privacy states its noise multiplier, epsilon, "
                f"epsilon so far and delta, and no other states any; stated: {sorted(stated)}"
            )

    @classmethod
    def of(
        cls,
        report: SealedReport,
        *,
        plan: Plan,
        context: ReportContext,
        attestation: str,
        loss: PrivacyLoss | None,
    ) -> Self:
        """Describe a sealed report.

        Parameters
        ----------
        report : SealedReport
            What will be uploaded.
        plan : Plan
            The verified plan that it was made under.
        context : ReportContext
            What it was sealed with.
        attestation : str
            What was checked before the key was believed.
        loss : PrivacyLoss or None
            None exactly when the plan has no differential privacy.

        Raises
        ------
        ValueError
            If a loss is stated for a plan without differential privacy, or none for one with it.
        """
        manifest = plan.manifest
        return cls(
            task=context.task,
            round=context.round,
            kind=REPORT_KINDS[manifest.kind],
            plan_name=manifest.name,
            plan_version=manifest.version,
            plan_sha256=plan.sha256,
            model_version=context.model_version,
            collection=manifest.features.collection,
            report_bytes=len(report.data),
            report_sha256=report.sha256,
            privacy=manifest.privacy,
            clip_norm=context.clip_norm or manifest.aggregation.clip_norm,
            cohort_floor=manifest.aggregation.cohort_floor,
            noise_multiplier=manifest.dp.noise_multiplier if manifest.dp else None,
            epsilon=loss.epsilon if loss else None,
            epsilon_so_far=loss.epsilon_so_far if loss else None,
            delta=loss.delta if loss else None,
            aggregator_key_id=context.key_id,
            attestation=attestation,
        )


@dataclass(frozen=True, kw_only=True)
class Receipt(Contribution):
    """A contribution and what became of it.

    Attributes
    ----------
    prepared_at : float
        Unix time in seconds when the report was sealed.
    outcome : ContributionOutcome
        Where it stands.
    code : str or None
        Why, for programs, where it was not accepted.
    settled_at : float or None
        Unix time in seconds of the outcome; None while it is ``prepared``.
    uploads : int
        Requests that carried the report, repeated ones included.
    bytes_up, bytes_down : int
        Of HTTP in those requests: the report, headers, answers.
    """

    prepared_at: float
    outcome: ContributionOutcome = "prepared"
    code: str | None = None
    settled_at: float | None = None
    uploads: int = 0
    bytes_up: int = 0
    bytes_down: int = 0


@dataclass(frozen=True, kw_only=True)
class Overhead:
    """What one kind of request cost besides the contributions.

    Attributes
    ----------
    kind : str
        A :data:`~pocketfl.transport.RequestKind`, or ``other`` where the transport does not say.
    requests : int
        Requests, repeated ones included.
    bytes_up, bytes_down : int
        Of HTTP, headers included.
    """

    kind: str
    requests: int
    bytes_up: int
    bytes_down: int
