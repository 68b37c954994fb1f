"""Transform bundles: signed, versioned, and the same numbers in training, evaluation and inference."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketfl.errors import FeatureError, PlanSignatureError
from pocketfl.features import FeaturePipeline
from pocketfl.features.bundle import Evidence, TransformBundle
from pocketfl.features.loading import load_arrays, load_inputs
from pocketfl.features.transforms import (
    FeatureSpec,
    FieldSpec,
    InputSpec,
    IsMissing,
    LabelSpec,
    Scale,
    ServerTable,
    Standardise,
)
from pocketfl.plan import generate_signing_key, public_key_hex
from pocketfl.protocol import FeatureRow
from pocketfl.store import Collection, ExampleStore, Field

KEY = generate_signing_key()
TRUSTED = [public_key_hex(KEY)]
BUNDLE = TransformBundle(
    name="trips",
    version="7",
    transforms=(
        Scale(field="distance", low=1.25, high=71.5),
        Standardise(field="rain", source="server", mean=0.3, deviation=1.7),
    ),
    evidence=(Evidence(plan_sha256="ab" * 32, reports=900, epsilon=1.0, delta=1e-5),),
)
FEATURES = FeatureSpec(
    collection="trips",
    fields=(
        FieldSpec(name="distance", type="float", optional=True),
        FieldSpec(name="place", type="str"),
        FieldSpec(name="late", type="bool"),
    ),
    inputs=(
        InputSpec(
            tensor="x",
            columns=(
                Scale(field="distance", low=0, high=1000, missing=-0.5),
                IsMissing(field="distance"),
                Scale(field="rain", low=0, high=100, source="server", missing=0.25),
            ),
        ),
    ),
    label=LabelSpec(field="late"),
    server_table=ServerTable(
        name="weather",
        key_field="place",
        fields=(FieldSpec(name="rain", type="float", optional=True),),
        required=False,
        max_age=3600,
    ),
)


def test_a_bundle_replaces_ranges_and_keeps_what_missing_means():
    """Only columns of its fields change; the plan says where the numbers come from."""
    made = BUNDLE.apply(FEATURES)
    distance, indicator, rain = made.inputs[0].columns
    assert distance == Scale(field="distance", low=1.25, high=71.5, missing=-0.5)
    assert indicator == IsMissing(field="distance")
    assert rain == replace(BUNDLE.transforms[1], missing=0.25)
    assert made.bundle == BUNDLE.reference
    BUNDLE.check(made)


def test_a_plan_with_other_numbers_is_found_out():
    """Features that name the bundle, and do not have its numbers or are of another version."""
    made = BUNDLE.apply(FEATURES)
    columns = (Scale(field="distance", low=0, high=71.5), *made.inputs[0].columns[1:])
    with pytest.raises(FeatureError, match="other numbers"):
        BUNDLE.check(replace(made, inputs=(InputSpec(tensor="x", columns=columns),)))
    with pytest.raises(FeatureError, match="not from"):
        replace(BUNDLE, version="8").check(made)


def test_a_field_that_nothing_reads_is_refused():
    """A misspelt field would leave its column as it was, and nobody would see it."""
    bundle = replace(BUNDLE, transforms=(Scale(field="distanse", low=0, high=1),))
    with pytest.raises(FeatureError, match="distanse"):
        bundle.apply(FEATURES)


def test_only_what_a_trusted_key_signed_is_a_bundle(tmp_path):
    """Signed bytes come back; any changed byte, another key, or other bytes are refused."""
    data = BUNDLE.sign(KEY)
    assert TransformBundle.load(data, trusted_keys=TRUSTED) == BUNDLE
    path = tmp_path / "trips.bundle"
    path.write_bytes(data)
    assert TransformBundle.load(path, trusted_keys=TRUSTED) == BUNDLE
    for place in range(0, len(data), 7):
        damaged = bytearray(data)
        damaged[place] ^= 1
        with pytest.raises((FeatureError, PlanSignatureError)):
            TransformBundle.load(bytes(damaged), trusted_keys=TRUSTED)
    with pytest.raises(PlanSignatureError, match="not one of"):
        stranger = public_key_hex(generate_signing_key())
        TransformBundle.load(data, trusted_keys=[stranger])
    with pytest.raises(FeatureError, match="cannot read"):
        TransformBundle.load(tmp_path / "none", trusted_keys=TRUSTED)


TRIPS = Collection(
    "trips",
    {"distance": Field("float", optional=True), "place": Field("str"), "late": Field("bool")},
)


@given(
    trips=st.lists(
        st.tuples(
            st.none() | st.floats(-1e6, 1e6), st.sampled_from(["a", "b"]), st.floats(0, 10_000)
        ),
        min_size=1,
        max_size=12,
    )
)
def test_training_and_serving_see_the_same_numbers(tmp_path_factory, trips):
    """What a round makes of stored examples is, bit for bit, what a prediction makes of them."""
    pipeline = FeaturePipeline(BUNDLE.apply(FEATURES))
    rows = [{"distance": d, "place": p, "late": True} for d, p, _ in trips]
    times = [moment for _, _, moment in trips]
    with ExampleStore(tmp_path_factory.mktemp("store") / "a.db") as store:
        store.create_collection(TRIPS)
        store.append("trips", rows, times=times)
        store.put_server_features(
            "weather",
            [
                FeatureRow(key="a", valid_from=at, values={"rain": at / 100})
                for at in (0.0, 500.0, 9000.0)
            ],
        )
        trained = load_arrays(store, pipeline, limit=100, seed=0)["x"]
        served = load_inputs(
            store,
            pipeline,
            [{"distance": row["distance"], "place": row["place"]} for row in rows],
            times=times,
        )["x"]
    assert np.array_equal(trained, served)
