"""Strangers and enrolled devices send nonsense to every path of the OpenAPI document."""

from __future__ import annotations

import json
import random
import re
from typing import Any

import pytest
from fastapi.testclient import TestClient

from pocketfl.protocol import EnrolmentRequest
from pocketfl_server.api.app import create_app
from pocketfl_server.back_end import BackEnd

from_operator = "operator-key-of-this-test"
TRIES = 12
"""Requests for each path, method and kind of sender."""

VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    2**63,
    10**400,
    1e308,
    "",
    "clicks",
    "a" * 5000,
    "\x00",
    "../../etc/passwd",
    "' OR 1=1 --",
    "\ud800",
    [],
    {},
    [[[[[[[]]]]]]],
)
PATHS = ("clicks", "1", "0", "-1", "99999999999999999999", "%00", "..%2f..", "a" * 300, "%ff", "ü")


def made_up_body(generator: random.Random, names: list[str]) -> bytes:
    """A JSON object of the right or wrong fields, or no JSON at all."""
    if generator.random() < 0.3:
        return generator.randbytes(generator.choice((0, 1, 100, 5000)))
    chosen = {name: generator.choice(VALUES) for name in names if generator.random() < 0.7}
    chosen |= {generator.choice(("extra", "count", "weight")): generator.choice(VALUES)}
    return json.dumps(chosen).encode()


def field_names(document: dict[str, Any], operation: dict[str, Any]) -> list[str]:
    """Names that occur in the schema of an operation's body."""
    text = json.dumps(operation.get("requestBody", {}))
    names = re.findall(r"#/components/schemas/(\w+)", text)
    schemas = document.get("components", {}).get("schemas", {})
    return [field for name in names for field in schemas.get(name, {}).get("properties", {})]


@pytest.mark.parametrize("sender", ["stranger", "device"])
def test_no_request_of_a_stranger_or_a_device_breaks_or_moves_anything(
    sender: str, back_end: BackEnd, hostile
) -> None:
    """Every answer is below 500, and the model is the one that it was.

    Whatever a device may legitimately do (enrol, check in, upload) ends at a sealed report, which moves
    nothing before the trusted tier has opened it.
    """
    app = create_app(back_end, operator_key=from_operator, end_rounds_every=None)
    document = app.openapi()
    generator = random.Random(sender)
    token = "no-token-that-exists-here"
    if sender == "device":
        request = EnrolmentRequest(user="mallory", sdk="0.1.0")
        token = back_end.enrol("enrolment-key-of-this-test", request).token
    before = back_end.models("clicks")
    client = TestClient(app, raise_server_exceptions=False)
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            names = field_names(document, operation)
            for _ in range(TRIES):
                where = re.sub(r"\{[^}]*\}", lambda _: generator.choice(PATHS), path)
                headers = {"Authorization": f"Bearer {token}"}
                if generator.random() < 0.2:
                    headers["Authorization"] = generator.choice(
                        ("", "Bearer", "Basic eA==", "x" * 900)
                    )
                kinds = ("application/json", "application/octet-stream", "text/html", "x")
                headers["Content-Type"] = generator.choice(kinds)
                if generator.random() < 0.1:
                    headers["Content-Encoding"] = "gzip"
                answer = client.request(
                    method.upper(),
                    where,
                    content=made_up_body(generator, names),
                    headers=headers,
                    params={generator.choice(("cursor", "after", "x")): "\x00" * 3},
                )
                hostile.tried += 1
                if answer.status_code >= 500:
                    hostile.server_errors += 1
                assert answer.status_code < 500, (method, where, answer.text)
    changes = int(back_end.models("clicks") != before)
    hostile.model_changes += changes
    assert not changes
