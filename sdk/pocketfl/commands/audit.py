"""``pocketfl audit``: what a device has sent, for a person or a program."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pocketfl.errors import StoreError
from pocketfl.receipts import Audit, read_audit
from pocketfl.receipts.page import moment, number, to_html, what_became


def audit(
    store: Annotated[Path, typer.Argument(help="The device's file, as the app opens it.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
    html: Annotated[
        Path | None, typer.Option(help="Write one self-contained page to this file.")
    ] = None,
) -> None:
    """Show what a device has contributed, and every byte that the protocol cost."""
    found = read_audit(store)
    if html is not None:
        try:
            html.write_text(to_html(found), encoding="utf-8")
        except OSError as error:
            raise StoreError(f"cannot write {html}: {error.strerror}") from None
    if as_json:
        typer.echo(json.dumps(found.to_json(), indent=2))
    elif html is not None:
        typer.echo(f"{html}: {len(found.receipts)} receipts")
    else:
        _print(found)


def _print(found: Audit) -> None:
    console = Console()
    console.print(_receipts(found))
    console.print(_overhead(found))
    console.print(
        f"in all {found.requests:,} requests, {found.bytes_up:,} bytes up, "
        f"{found.bytes_down:,} bytes down",
        highlight=False,
    )


def _receipts(found: Audit) -> Table:
    table = Table(title="contributions")
    for name in ("when (UTC)", "task", "round", "model", "report", "outcome", "plan", "sealed for"):
        table.add_column(name)
    for name in ("bytes up", "down", "clip", "noise", "floor", "epsilon", "so far"):
        table.add_column(name, justify="right")
    for receipt in found.receipts:
        cells = (
            moment(receipt.prepared_at),
            receipt.task,
            str(receipt.round),
            str(receipt.model_version),
            f"{receipt.kind}, {receipt.report_bytes:,} bytes",
            what_became(receipt),
            receipt.plan_sha256[:12],
            f"{receipt.aggregator_key_id[:12]}, {receipt.attestation}",
            f"{receipt.bytes_up:,}",
            f"{receipt.bytes_down:,}",
            number(receipt.clip_norm),
            number(receipt.noise_multiplier),
            f"{receipt.cohort_floor:,}",
            number(receipt.epsilon),
            number(receipt.epsilon_so_far),
        )
        # Text is shown as it is: brackets in what an app or server named are no markup.
        table.add_row(*map(Text, cells))
    return table


def _overhead(found: Audit) -> Table:
    table = Table("request", title="protocol overhead")
    for name in ("requests", "bytes up", "bytes down"):
        table.add_column(name, justify="right")
    for item in found.overhead:
        table.add_row(
            Text(item.kind.replace("_", "-")),
            f"{item.requests:,}",
            f"{item.bytes_up:,}",
            f"{item.bytes_down:,}",
        )
    return table
