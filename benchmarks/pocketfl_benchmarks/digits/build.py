"""``pocketfl app build``: trains the bundled model on public digits and writes what the app ships."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pocketfl.plan import (
    Plan,
    generate_signing_key,
    load_signing_key,
    public_key_hex,
    save_signing_key,
)
from pocketfl.plan.manifest import RUNTIME_NAMES
from pocketfl.runtimes import FloatVector, open_runtime
from pocketfl_app.bundle import PLAN_FILE, BundleError, Trust, load_bundle, write_trust
from pocketfl_benchmarks.digits.data import Digits
from pocketfl_benchmarks.digits.task import WRITERS, export_task, split_digits

KEY_FILE: Final = "app-modeller.pem"


@dataclass(frozen=True, kw_only=True)
class BuildResult:
    """What was built.

    Attributes
    ----------
    plan : Plan
        Signed, parity-checked.
    accuracy : float
        Of the bundled model on the digits that it was not trained on.
    examples : int
        How many those are.
    """

    plan: Plan
    accuracy: float
    examples: int


def build_app(
    folder: Path,
    *,
    digits: Digits,
    key_file: Path,
    writers: int = WRITERS,
    runtimes: Iterable[str] = RUNTIME_NAMES,
) -> BuildResult:
    """Write plan and keys of the app into a folder.

    Parameters
    ----------
    folder : Path
        The app's assets; made if it does not exist.
    digits : Digits
        Public ones.
    key_file : Path
        The modeller's private key; made if it does not exist.
    writers : int
        Devices besides the app, for which the plan's cohort and noise are meant.
    runtimes : iterable of str
        What to export for.

    Returns
    -------
    BuildResult
        With the plan as it was written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    key = _signing_key(key_file)
    plan = export_task(
        folder / PLAN_FILE, digits=digits, signing_key=key, writers=writers, runtimes=runtimes
    )
    write_trust(folder, Trust(plan_keys=(public_key_hex(key),)))
    _, unseen = split_digits(digits)
    return BuildResult(plan=plan, accuracy=accuracy_of(plan, unseen), examples=len(unseen))


def accuracy_of(plan: Plan, digits: Digits, parameters: FloatVector | None = None) -> float:
    """Return the share of digits that a plan's model gets right, on ONNX Runtime as a phone would."""
    runtime = open_runtime(plan, "onnxruntime")
    try:
        if parameters is not None:
            runtime.set_parameters(parameters)
        (logits,) = runtime.predict({"image": digits.images[:, None]}).values()
    finally:
        runtime.close()
    return float((logits.argmax(axis=1) == digits.labels).mean())


def is_built(folder: Path) -> bool:
    """Return whether the folder holds a sound plan."""
    try:
        load_bundle(folder)
    except BundleError:
        return False
    return True


def _signing_key(path: Path) -> Ed25519PrivateKey:
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        save_signing_key(generate_signing_key(), path)
    return load_signing_key(path)
