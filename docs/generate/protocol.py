"""The page of the protocol, from the OpenAPI document that a back end serves."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Final

import docstrings

from pocketfl.plan import generate_signing_key, public_key_hex
from pocketfl_server.api.app import OPENAPI_PATH, create_app
from pocketfl_server.back_end import BackEnd
from pocketfl_server.trusted.client import HttpTrustedTier

_METHODS: Final = ("get", "put", "post", "patch", "delete")
_HEAD: Final = f"""\
# Protocol

What devices and operators say to the back end over HTTP, as the back end itself describes it at `{OPENAPI_PATH}`
([this version as a file](openapi.json)). Bodies are JSON unless a line says otherwise. The sealed report inside of an upload is opaque to
the back end; [What is private](../privacy.md) says what is in it.
"""


@cache
def document() -> str:
    """Return the OpenAPI document as JSON."""
    return json.dumps(_described(), indent=2) + "\n"


def _described() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        back_end = BackEnd(
            f"sqlite:///{Path(folder) / 'back_end.db'}",
            trusted=HttpTrustedTier("http://127.0.0.1:9", token="x" * 32),
            plan_keys=[public_key_hex(generate_signing_key())],
            enrolment_key="x" * 32,
        )
        try:
            app = create_app(back_end, operator_key="x" * 32, end_rounds_every=None)
            return app.openapi()
        finally:
            back_end.close()


def page() -> str:
    """Return the page as markdown."""
    described: dict[str, Any] = json.loads(document())
    return "".join([_HEAD, *_operations(described), *_records(described)])


def _operations(described: dict[str, Any]) -> Iterator[str]:
    for path, methods in described["paths"].items():
        for method in _METHODS:
            if method not in methods:
                continue
            operation = methods[method]
            yield f"\n## {method.upper()} {path}\n\n"
            text = operation.get("description") or operation.get("summary") or ""
            if text:
                yield text.strip().replace("``", "`") + "\n\n"
            rows = [*_asked(operation), *_answered(operation)]
            if rows:
                yield "| | | |\n| --- | --- | --- |\n" + "".join(rows)


def _asked(operation: dict[str, Any]) -> Iterator[str]:
    for needed in operation.get("security", []):
        yield _row("key", ", ".join(f"`{name}`" for name in needed), "in `Authorization`")
    for parameter in operation.get("parameters", []):
        kind = f"{parameter['in']}, {_type(parameter.get('schema', {}))}"
        yield _row(f"`{parameter['name']}`", kind, parameter.get("description", ""))
    body = operation.get("requestBody", {})
    for media, content in body.get("content", {}).items():
        yield _row("body", _type(content.get("schema", {})), f"`{media}`")


def _answered(operation: dict[str, Any]) -> Iterator[str]:
    for status, answer in operation.get("responses", {}).items():
        shapes = [_type(c.get("schema", {})) for c in answer.get("content", {}).values()]
        yield _row(status, ", ".join(dict.fromkeys(shapes)), answer.get("description", ""))


def _records(described: dict[str, Any]) -> Iterator[str]:
    schemas = described.get("components", {}).get("schemas", {})
    yield "\n# Records\n"
    for name, schema in sorted(schemas.items()):
        yield f"\n## {name}\n\n"
        opening, said = docstrings.read(schema.get("description", ""))
        yield f"{opening}\n\n"
        needed = set(schema.get("required", ()))
        rows = [
            _row(
                f"`{field}`",
                _type(kind),
                "" if field in needed else "optional",
                said.get(field, ""),
            )
            for field, kind in schema.get("properties", {}).items()
        ]
        if rows:
            yield "| field | type | | |\n| --- | --- | --- | --- |\n" + "".join(rows)
        elif "enum" in schema:
            yield ", ".join(f"`{value}`" for value in schema["enum"]) + "\n"


def _type(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    for several in ("anyOf", "oneOf", "allOf"):
        if several in schema:
            return " or ".join(dict.fromkeys(_type(each) for each in schema[several]))
    if "const" in schema:
        return f"`{json.dumps(schema['const'])}`"
    if "enum" in schema:
        return " or ".join(f"`{json.dumps(value)}`" for value in schema["enum"])
    kind = schema.get("type", "any")
    if kind == "array":
        return f"list of {_type(schema.get('items', {}))}"
    if kind == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"map to {_type(schema['additionalProperties'])}"
    form = schema.get("format") or schema.get("contentEncoding")
    return f"{kind} ({form})" if form else str(kind)


def _row(*cells: str) -> str:
    return "| " + " | ".join(" ".join(c.split()).replace("|", "\\|") for c in cells) + " |\n"
