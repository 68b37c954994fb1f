"""An app's whole integration: keep examples, train and predict here, take part in private rounds."""

import json
import random
import sys
from pathlib import Path

from pocketfl import AttestedAggregator, Collection, Device, ExampleStore, Field, LocalTrainer, Plan

user = sys.argv[1] if len(sys.argv) > 1 else "ana"
# What an app is built with: the server's address, and the keys of those whom it trusts.
site = json.loads(Path("example-site/site.json").read_text())
plan = Plan.load(site["plan"], trusted_keys=[site["modeller_key"]])

with ExampleStore(f"example-site/{user}.db") as store:
    # The app's data, as it comes up in daily life; none of it ever leaves the device.
    fields = {"heart_rate": Field("float"), "activity": Field("str"), "tired": Field("bool")}
    store.create_collection(Collection("readings", fields))
    for _ in range(200):
        activity = random.choice(["rest", "walk", "run"])
        heart_rate = random.gauss({"rest": 65, "walk": 95, "run": 140}[activity], 12)
        tired = heart_rate + random.gauss(0, 10) > 110
        reading = {"heart_rate": heart_rate, "activity": activity, "tired": tired}
        store.append("readings", [reading])

    # Personal: train here and now, without any server.
    with LocalTrainer(plan, store) as trainer:
        result = trainer.train(epochs=5, holdout=0.2)
        before, after = result.holdout_loss_before, result.holdout_loss_after
        print(f"loss on held-out readings: {before:.3f} -> {after:.3f}")
        print("tired after a run?", trainer.predict({"heart_rate": 150.0, "activity": "run"}))

    # Together: a federated round, when it is time for one and nothing on this device is against it.
    attested = AttestedAggregator.development(site["attestation_key"])
    keys = {"plan_keys": [site["modeller_key"]], "enrolment_key": site["enrolment_key"]}
    with Device(store, server=site["server"], aggregator=attested, user=user, **keys) as device:
        for outcome in device.run_due():
            print(f"round {outcome.round}: {outcome.status} ({outcome.bytes_up} bytes sent)")
        device.explain()
        print("the global model says", device.predict({"heart_rate": 150.0, "activity": "run"}))
