"""An audit as one HTML page: nothing is loaded from elsewhere, and all that varies is escaped."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from html import escape
from typing import Final

from pocketfl.receipts.audit import Audit
from pocketfl.receipts.receipt import REPORT_KINDS, Receipt

_STYLE: Final = """
:root { color-scheme: light dark; font: 15px/1.45 system-ui, sans-serif; }
body { margin: 2rem auto; max-width: 78rem; padding: 0 1rem; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid #8885; padding: .35rem .6rem; text-align: left; }
th { font-weight: 600; }
td.n, th.n { text-align: right; }
code { font-size: .9em; }
.scroll { overflow-x: auto; }
"""
_COLUMNS: Final = (
    ("when", False),
    ("task", False),
    ("round", True),
    ("what", False),
    ("outcome", False),
    ("report bytes", True),
    ("bytes up", True),
    ("bytes down", True),
    ("clip norm", True),
    ("noise", True),
    ("floor", True),
    ("epsilon", True),
    ("so far", True),
    ("plan", False),
    ("sealed for", False),
)


def to_html(audit: Audit, *, title: str = "What this device has sent") -> str:
    """Return an audit as a page that a person can read.

    Parameters
    ----------
    audit : Audit
        What to show.
    title : str
        Heading of the page.

    Returns
    -------
    str
        A whole document, in UTF-8 once encoded.
    """
    receipts = "".join(_row(_cells(receipt)) for receipt in audit.receipts)
    overhead = "".join(
        _row(
            (
                (item.kind.replace("_", "-"), False),
                (f"{item.requests:,}", True),
                (f"{item.bytes_up:,}", True),
                (f"{item.bytes_down:,}", True),
            )
        )
        for item in audit.overhead
    )
    heading = escape(title)
    return (
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        "style-src 'unsafe-inline'\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{heading}</title>\n<style>{_STYLE}</style>\n<h1>{heading}</h1>\n"
        f"<p>{len(audit.receipts):,} contributions. In all {audit.requests:,} requests sent "
        f"{audit.bytes_up:,} bytes and received {audit.bytes_down:,}.</p>\n"
        '<h2>Contributions</h2>\n<div class="scroll"><table>\n'
        f"<thead>{_row(_COLUMNS, cell='th')}</thead>\n<tbody>{receipts}</tbody>\n</table></div>\n"
        '<h2>Protocol overhead</h2>\n<div class="scroll"><table>\n<thead>'
        + _row(
            (("request", False), ("requests", True), ("bytes up", True), ("bytes down", True)),
            cell="th",
        )
        + f"</thead>\n<tbody>{overhead}</tbody>\n</table></div>\n</html>\n"
    )


def moment(time: float) -> str:
    """Return a Unix time in seconds as text in UTC."""
    try:
        return datetime.fromtimestamp(time, tz=UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return f"{time:g} s"  # a clock that was never set


def what_became(receipt: Receipt) -> str:
    """Return a receipt's outcome with its reason."""
    return receipt.outcome if receipt.code is None else f"{receipt.outcome} ({receipt.code})"


def number(value: float | None) -> str:
    """Return a number in four digits, or a dash where nothing is claimed."""
    return "-" if value is None else f"{value:.4g}"


def _cells(receipt: Receipt) -> tuple[tuple[str, bool], ...]:
    protection = "" if receipt.privacy == "gaussian" else ", no differential privacy"
    return (
        (moment(receipt.prepared_at), False),
        (receipt.task, False),
        (str(receipt.round), True),
        (_what(receipt), False),
        (what_became(receipt), False),
        (f"{receipt.report_bytes:,}", True),
        (f"{receipt.bytes_up:,}", True),
        (f"{receipt.bytes_down:,}", True),
        (number(receipt.clip_norm), True),
        (number(receipt.noise_multiplier), True),
        (f"{receipt.cohort_floor:,}", True),
        (number(receipt.epsilon), True),
        (number(receipt.epsilon_so_far), True),
        (f"{receipt.plan_name} {receipt.plan_version}, {receipt.plan_sha256[:12]}", False),
        (f"{receipt.aggregator_key_id[:12]}, {receipt.attestation}{protection}", False),
    )


def _what(receipt: Receipt) -> str:
    what = f"{receipt.kind} of {receipt.collection}"
    is_about_a_model = receipt.kind != REPORT_KINDS["analytics"]
    return f"{what}, model {receipt.model_version}" if is_about_a_model else what


def _row(cells: Iterable[tuple[str, bool]], *, cell: str = "td") -> str:
    return (
        "<tr>"
        + "".join(
            f'<{cell} class="n">{escape(text)}</{cell}>'
            if is_number
            else f"<{cell}>{escape(text)}</{cell}>"
            for text, is_number in cells
        )
        + "</tr>\n"
    )
