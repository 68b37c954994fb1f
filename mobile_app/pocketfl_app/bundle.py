"""What the app is built with: a plan to start from, and the keys of the modellers whom it trusts.

``pocketfl app build`` makes both.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pocketfl.decoding import decode_json, encode_json
from pocketfl.errors import PocketFLError
from pocketfl.plan import Plan

ASSETS: Final = Path(__file__).resolve().parent.parent / "assets"
PLAN_FILE: Final = "digits.pocketfl"
TRUST_FILE: Final = "trust.json"
_LIMIT: Final = 64 * 2**10


class BundleError(PocketFLError):
    """The app was not built, or what was built is damaged."""


@dataclass(frozen=True, kw_only=True)
class Trust:
    """Whom the app trusts from its first start on.

    Attributes
    ----------
    plan_keys : tuple of str
        Ed25519 public keys of modellers, in hex.
    """

    plan_keys: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A verified plan, and the app's trust."""

    plan: Plan
    trust: Trust


def write_trust(folder: Path, trust: Trust) -> None:
    """Write the keys beside the plan."""
    (folder / TRUST_FILE).write_bytes(encode_json(trust))


def load_bundle(folder: Path = ASSETS) -> Bundle:
    """Read and verify what the app was built with.

    Raises
    ------
    BundleError
        If a file is missing or damaged.
    """
    plan_file, trust_file = folder / PLAN_FILE, folder / TRUST_FILE
    if not (plan_file.is_file() and trust_file.is_file()):
        raise BundleError(f"{folder} has no plan for the app: run 'pocketfl app build' first")
    try:
        trust = decode_json(Trust, trust_file.read_bytes(), what=TRUST_FILE, limit=_LIMIT)
        return Bundle(plan=Plan.load(plan_file, trusted_keys=trust.plan_keys), trust=trust)
    except PocketFLError as error:
        raise BundleError(
            f"what the app was built with is damaged ({error}): run 'pocketfl app build'"
        ) from error
