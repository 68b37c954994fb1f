"""What a fleet asks of a gateway, prepared so that a load generator can send it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np

from pocketfl.decoding import decode_json, encode_json
from pocketfl.plan import DifferentialPrivacySpec, Plan
from pocketfl.plan.schemas import READABLE_SCHEMAS
from pocketfl.protocol import (
    MESSAGE_LIMIT,
    Assignment,
    CheckIn,
    CheckInReply,
    Enrolment,
    EnrolmentRequest,
    RoundNotice,
)
from pocketfl.reports import make_report
from pocketfl.sealing import ReportContext
from pocketfl_benchmarks.aggregate.measurement import placeholder_plan
from pocketfl_benchmarks.scale.load import Prepared

SDK: Final = "0.1.0"
_CHECK_IN: Final = encode_json(
    CheckIn(sdk=SDK, plan_schemas=READABLE_SCHEMAS, runtimes=("onnxruntime",))
)
_UPDATES: Final = 8


def fleet_plan(parameters: int, *, population: int, rounds: int) -> Plan:
    """Return a signed plan with noise; its budget lasts for so many rounds."""
    dp = DifferentialPrivacySpec(noise_multiplier=2.0, epsilon=900.0, delta=1e-6)
    return placeholder_plan(parameters, population, None, dp=dp, rounds=rounds)


def enrolments(key: str, users: Iterable[int]) -> list[Prepared]:
    """Return the enrolment of each user's device."""
    return [
        Prepared(
            method="POST",
            path="/v1/devices",
            token=key,
            body=encode_json(EnrolmentRequest(user=f"user-{user}", sdk=SDK)),
        )
        for user in users
    ]


def tokens(bodies: Iterable[bytes]) -> list[str]:
    """Read device tokens from the answers to enrolments."""
    return [_decode(Enrolment, body).token for body in bodies]


def check_ins(notice: RoundNotice, device_tokens: Iterable[str]) -> list[Prepared]:
    """Return the check-in of each device to a round."""
    path = f"/v1/tasks/{notice.task}/rounds/{notice.round}/check-in"
    return [
        Prepared(method="POST", path=path, token=token, body=_CHECK_IN) for token in device_tokens
    ]


def assignments(bodies: Iterable[bytes]) -> list[Assignment]:
    """Read assignments from the answers to check-ins, leaving out who was turned away."""
    replies = (_decode(CheckInReply, body).answer for body in bodies)
    return [answer for answer in replies if isinstance(answer, Assignment)]


def uploads(plan: Plan, assigned: Sequence[Assignment]) -> list[Prepared]:
    """Return the upload of a sealed report under each lease; reports differ by their seal."""
    updates = np.random.default_rng(0).normal(size=(_UPDATES, plan.manifest.vector_length))
    return [
        Prepared(
            method="PUT",
            path=f"/v1/leases/{assignment.lease}/report",
            body=_sealed(plan, assignment, updates[number % _UPDATES]),
            media_type="application/octet-stream",
        )
        for number, assignment in enumerate(assigned)
    ]


def downloads(path: str, count: int) -> list[Prepared]:
    """Return so many requests for the same content."""
    return [Prepared(method="GET", path=path)] * count


def _sealed(plan: Plan, assignment: Assignment, update: np.ndarray) -> bytes:
    context = ReportContext(
        key_id=assignment.aggregator.key_id,
        policy_hash=plan.manifest.policy_hash,
        plan_sha256=plan.sha256,
        task=assignment.task,
        round=assignment.round,
        model_version=assignment.model_version,
        lease=assignment.lease,
    )
    public_key = bytes.fromhex(assignment.aggregator.public_key)
    return make_report(update, plan=plan, context=context, public_key=public_key).data


def _decode(kind: type[Any], body: bytes) -> Any:
    return decode_json(kind, body, what=kind.__name__, limit=MESSAGE_LIMIT)
