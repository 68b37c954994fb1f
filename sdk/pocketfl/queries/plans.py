"""Plans that ask: written by a modeller, with nothing but Python and a signing key."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pocketfl.features.transforms import FeatureSpec, FieldSpec, ServerTable
from pocketfl.plan.aggregation import AggregationSpec, BudgetSpec, DifferentialPrivacySpec
from pocketfl.plan.archive import Plan, build_plan, write_plan
from pocketfl.plan.manifest import EligibilitySpec, RuntimeSpec
from pocketfl.queries.query_set import QuerySet


def write_analytics_plan(
    path: str | Path,
    *,
    name: str,
    version: str,
    collection: str,
    fields: Iterable[FieldSpec],
    queries: QuerySet,
    aggregation: AggregationSpec,
    dp: DifferentialPrivacySpec | None,
    signing_key: Ed25519PrivateKey,
    budget: BudgetSpec | None = None,
    server_table: ServerTable | None = None,
    eligibility: EligibilitySpec | None = None,
) -> Plan:
    """Write and sign a plan that asks devices about their examples.

    Parameters
    ----------
    path : path
        The plan's file.
    name, version : str
        The modeller's.
    collection : str
        Collection of the example store that is asked about.
    fields : iterable of FieldSpec
        Those of its fields that queries read.
    queries : QuerySet
        What is asked.
    aggregation : AggregationSpec
        Bounds of reports and rounds; ``clip_norm`` is 1, the norm that queries share.
    dp : DifferentialPrivacySpec or None
        Noise and the plan's own budget; None for a plan without differential privacy.
    signing_key : Ed25519PrivateKey
        The modeller's.
    budget : BudgetSpec, optional
        The account that this shares with training and other statistics.
    server_table : ServerTable, optional
        Server-side features that are joined to the examples.
    eligibility : EligibilitySpec, optional
        Conditions and budgets. A device with fewer than ``min_examples`` answers with zeros.

    Returns
    -------
    Plan
        As it was written.

    Raises
    ------
    PlanError
        If what it says is not sound.
    OSError
        If the file cannot be written.
    """
    plan = build_plan(
        name=name,
        version=version,
        kind="analytics",
        privacy="none" if dp is None else "gaussian",
        features=FeatureSpec(
            collection=collection, fields=tuple(fields), server_table=server_table
        ),
        queries=queries,
        aggregation=aggregation,
        dp=dp,
        budget=budget,
        runtimes={},
        parts={},
        signing_key=signing_key,
        eligibility=eligibility,
    )
    write_plan(plan, path)
    return plan


def write_evaluation_plan(
    path: str | Path,
    *,
    trained_by: Plan,
    name: str,
    version: str,
    queries: QuerySet,
    aggregation: AggregationSpec,
    dp: DifferentialPrivacySpec | None,
    signing_key: Ed25519PrivateKey,
    budget: BudgetSpec | None = None,
    features: FeatureSpec | None = None,
    eligibility: EligibilitySpec | None = None,
    with_parameters: bool = False,
) -> Plan:
    """Write and sign a plan that asks how a model does on devices' labelled examples.

    Takes and raises what :func:`write_analytics_plan` does, and:

    Parameters
    ----------
    trained_by : Plan
        The training plan whose model is evaluated; its graphs and features are used.
    features : FeatureSpec, optional
        Instead of the training plan's, such as with another collection or more fields for queries;
        makes the same inputs.
    with_parameters : bool
        Whether to ship the training plan's initial parameters, to evaluate them. Without them a task
        of the plan names the model version to evaluate as its seed.

    Returns
    -------
    Plan
        As it was written.
    """
    manifest = trained_by.manifest
    runtimes = {runtime: replace(spec, train=None) for runtime, spec in manifest.runtimes.items()}
    used = {part for spec in runtimes.values() for part in _parts_of(spec, trained_by)}
    if with_parameters:
        used.add(manifest.required_model.parameters_part)
    plan = build_plan(
        name=name,
        version=version,
        kind="evaluation",
        privacy="none" if dp is None else "gaussian",
        model=manifest.required_model,
        features=features if features is not None else manifest.features,
        queries=queries,
        aggregation=aggregation,
        dp=dp,
        budget=budget,
        runtimes=runtimes,
        parts={part: trained_by.part(part) for part in used},
        signing_key=signing_key,
        eligibility=eligibility,
    )
    write_plan(plan, path)
    return plan


def _parts_of(spec: RuntimeSpec, plan: Plan) -> set[str]:
    names = {part.name for part in plan.manifest.parts}
    return {value for value in vars(spec).values() if isinstance(value, str)} & names
