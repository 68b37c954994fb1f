"""A small device: adds examples to a store, trains on all of them, and seals what it learned.

``python device.py PLAN PUBLIC_KEY_OF_PLAN STORE EXAMPLES PUBLIC_KEY`` prints JSON. What rests on
native code beside training is in it: SQLite, AES, X25519, ChaCha20, Ed25519.
"""

from __future__ import annotations

import json
import platform
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np

from pocketfl.plan import Plan
from pocketfl.reports import make_report
from pocketfl.sealing import ReportContext, key_id
from pocketfl.store import Collection, ExampleStore, Field
from pocketfl.training import LocalTrainer

SEED = 7


def rows(file: Path) -> list[dict[str, object]]:
    """Return the examples of a golden plan's record."""
    with np.load(file, allow_pickle=False) as recorded:
        images, targets = recorded["image"], recorded["target"]
    return [
        {"image": image, "target": int(target)}
        for image, target in zip(images, targets, strict=True)
    ]


def append(store: ExampleStore, plan: Plan, examples: list[dict[str, object]]) -> None:
    """Add examples to the plan's collection, which is made if need be."""
    features = plan.manifest.features
    fields = {field.name: Field(field.type, shape=field.shape) for field in features.fields}
    store.create_collection(Collection(features.collection, fields))
    store.append(features.collection, examples, times=[float(i) for i in range(len(examples))])


def train(store: ExampleStore, plan: Plan) -> np.ndarray:
    """Train on the store's examples and return what came of the parameters."""
    with LocalTrainer(plan, store) as trainer:
        trainer.train(seed=SEED)
        return trainer.parameters


def main(plan_file: str, plan_key: str, store_file: str, examples: str, public_key: str) -> None:
    """Do it and print the sealed report, what it belongs to, and the update."""
    plan = Plan.load(Path(plan_file), trusted_keys=[plan_key])
    recipient = bytes.fromhex(public_key)
    context = ReportContext(
        key_id=key_id(recipient),
        policy_hash=plan.manifest.policy_hash,
        plan_sha256=plan.sha256,
        task="golden",
        round=1,
        model_version=0,
        lease="a" * 32,
    )
    with ExampleStore(store_file) as store:
        found = store.count(plan.manifest.features.collection)
        append(store, plan, rows(Path(examples)))
        update = train(store, plan) - plan.initial_parameters()
    report = make_report(update, plan=plan, context=context, public_key=recipient)
    print(
        json.dumps(
            {
                "machine": platform.machine(),
                "found": found,
                "update": update.tolist(),
                "context": asdict(context),
                "report": report.data.hex(),
            }
        )
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
