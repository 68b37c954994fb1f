"""Which model the app uses: bundled, personal or global, and how one comes to replace another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from pocketfl.decoding import decode_json, encode_json
from pocketfl.device.models import ModelInfo, ModelShelf, parse_parameters
from pocketfl.errors import DecodeError, PlanError
from pocketfl.plan import Plan
from pocketfl.store import ExampleStore, derived_state
from pocketfl.training import AcceptGate, LocalTrainer, Verdict
from pocketfl_app.bundle import Bundle
from pocketfl_app.device.drawings import HELD_OUT, TRAINING

Origin: TypeAlias = Literal["bundled", "personal", "global"]

# Erased with the drawings: whether a model was accepted says something about them.
_IN_USE: Final = derived_state(TRAINING, "app/model_in_use")
_LIMIT: Final = 64 * 2**10
GATE: Final = AcceptGate(min_examples=3)


@dataclass(frozen=True, kw_only=True)
class ModelInUse:
    """What predicts now.

    Attributes
    ----------
    origin : str
        Where its parameters come from; a personal one started from the bundled or a global one.
    version : int
        Of the global model that it is or started from; 0 for the bundled one.
    plan_sha256 : str
        Its plan; empty for the bundled one.
    """

    origin: Origin = "bundled"
    version: int = 0
    plan_sha256: str = ""


def model_in_use(store: ExampleStore) -> ModelInUse:
    """Return what predicts now; the bundled model before anything was accepted."""
    kept = store.database.read_state(_IN_USE)
    if kept is None:
        return ModelInUse()
    try:
        return decode_json(ModelInUse, kept, what="model in use", limit=_LIMIT)
    except DecodeError:
        return ModelInUse()


def open_model(
    store: ExampleStore, bundle: Bundle, *, runtime: str, keys: tuple[str, ...]
) -> LocalTrainer:
    """Open the model in use; close it when done.

    Parameters
    ----------
    store : ExampleStore
        The device's.
    bundle : Bundle
        What the app was built with.
    runtime : str
        What trains and predicts.
    keys : tuple of str
        Modellers who are trusted.
    """
    plan = _plan_of(store, bundle, model_in_use(store), keys=keys)
    trainer = LocalTrainer(plan, store, runtime=runtime)
    trainer.restore()
    return trainer


def keep(store: ExampleStore, trainer: LocalTrainer, *, origin: Origin, version: int) -> None:
    """Use a trainer's parameters from now on: both are written, or neither."""
    model = ModelInUse(origin=origin, version=version, plan_sha256=trainer.plan.sha256)
    with store.database.transaction():
        trainer.save()
        store.database.write_state(_IN_USE, encode_json(model))


def judge_global(
    store: ExampleStore, bundle: Bundle, info: ModelInfo, *, runtime: str, keys: tuple[str, ...]
) -> Verdict | None:
    """Put a global model that this device has before the accept gate, and use it if it passes.

    It replaces a personal model only if it is better on the drawings set aside, and an older global one
    or the bundled one unless it is worse; with too few drawings to tell, likewise.

    Returns
    -------
    Verdict or None
        None if it is the model in use, or there is nothing to judge on.

    Raises
    ------
    PlanError
        If the model cannot be trusted or used.
    """
    used = model_in_use(store)
    if used.version >= info.model_version and used.plan_sha256 == info.plan_sha256:
        return None
    shelf = ModelShelf(store.database)
    plan_data, data = shelf.plan(info.plan_sha256), shelf.parameters(info.parameters_sha256)
    if plan_data is None or data is None:
        return None
    plan = Plan.load(plan_data, trusted_keys=keys)
    model = plan.manifest.required_model
    vector = parse_parameters(data, digest=info.parameters_sha256, model=model)
    if plan.manifest.features.collection != TRAINING:
        raise PlanError("this plan is for another app: it does not read drawings")
    with LocalTrainer(plan, store, runtime=runtime, parameters=vector) as candidate:
        verdict = None
        if store.count(HELD_OUT):
            after = candidate.evaluate(collection=HELD_OUT)
            with open_model(store, bundle, runtime=runtime, keys=keys) as current:
                before = current.evaluate(collection=HELD_OUT)
            verdict = GATE.judge(before, after)
        if used.origin == "personal":
            passes = verdict is not None and verdict.reason == "better"
        else:
            passes = verdict is None or verdict.reason != "worse"
        if passes:
            keep(store, candidate, origin="global", version=info.model_version)
    return verdict


def _plan_of(
    store: ExampleStore, bundle: Bundle, model: ModelInUse, *, keys: tuple[str, ...]
) -> Plan:
    if model.plan_sha256 in ("", bundle.plan.sha256):
        return bundle.plan
    kept = ModelShelf(store.database).plan(model.plan_sha256)
    # A newer plan took its place on the shelf, or its modeller is not trusted any more.
    if kept is None:
        return bundle.plan
    try:
        return Plan.load(kept, trusted_keys=keys)
    except PlanError:
        return bundle.plan
