"""schemathesis makes requests, fit and unfit, of the OpenAPI documents of both servers."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi import FastAPI
from hypothesis import HealthCheck, Phase, Verbosity, given, seed, settings
from hypothesis import strategies as st

from pocketfl.protocol import EnrolmentRequest
from pocketfl_server.api.app import create_app
from pocketfl_server.back_end import BackEnd
from pocketfl_server.trusted.aggregator import Aggregator
from pocketfl_server.trusted.app import create_trusted_app

ENROLMENT_KEY = "enrolment-key-of-this-test"

schemathesis = pytest.importorskip("schemathesis")
for media_type in ("application/private-token-request",):
    schemathesis.serializer.alias(media_type, "application/octet-stream")

OPERATOR_KEY = "operator-key-of-this-test"
TOKEN = "trusted-token-of-this-test"
EXAMPLES = 3
"""Requests for each operation, fit and unfit ones each."""


def try_every_operation(app: FastAPI, token: str, hostile: Any) -> int:
    """Send what the document says and what it rules out; return how many requests that was."""
    before = hostile.tried
    schema = schemathesis.openapi.from_dict(app.openapi())
    schema.app = app
    for result in schema.get_all_operations():
        operation = result.ok()
        cases = st.one_of(*(operation.as_strategy(mode) for mode in schemathesis.GenerationMode))

        @seed(1)
        @settings(
            max_examples=2 * EXAMPLES,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            verbosity=Verbosity.quiet,
            suppress_health_check=list(HealthCheck),
        )
        @given(case=cases)
        def send(case: Any) -> None:
            answer = case.call(headers={"Authorization": f"Bearer {token}"})
            hostile.tried += 1
            # Without attestation, and with a trusted tier that a request closed, 503 is an answer.
            broken = answer.status_code >= 500 and answer.status_code not in (502, 503)
            hostile.server_errors += broken
            assert not broken, (case.method, case.formatted_path, answer.text[:500])

        send()
    return hostile.tried - before


@pytest.mark.slow
@pytest.mark.parametrize("sender", ["stranger", "device", "operator"])
def test_the_back_end_answers_whatever_its_document_allows(
    sender: str, back_end: BackEnd, hostile: Any
) -> None:
    """Every answer is a refusal or an answer, never an error; no model moves."""
    app = create_app(back_end, operator_key=OPERATOR_KEY, end_rounds_every=None)
    token = "no-token-that-exists-here"
    if sender == "device":
        token = back_end.enrol(ENROLMENT_KEY, EnrolmentRequest(user="mallory", sdk="0.1.0")).token
    elif sender == "operator":
        token = OPERATOR_KEY
    before = back_end.models("clicks")
    assert try_every_operation(app, token, hostile) > 60
    changes = int(back_end.models("clicks") != before)
    hostile.model_changes += changes
    assert not changes


@pytest.mark.slow
@pytest.mark.parametrize("sender", ["stranger", "back end"])
def test_the_trusted_tier_answers_whatever_its_document_allows(
    sender: str, plan, trusted: Aggregator, hostile: Any
) -> None:
    """The same; nothing is released or charged."""
    trusted.register("clicks", plan.data)
    app = create_trusted_app(trusted, token=TOKEN)
    token = TOKEN if sender == "back end" else "no-token-that-exists-here"
    assert try_every_operation(app, token, hostile) > 30
    assert trusted.describe("clicks").spent.releases == 0
