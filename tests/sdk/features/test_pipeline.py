"""The feature pipeline against a slow reading of the transforms' own descriptions."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketfl.errors import FeatureError
from pocketfl.features import FeaturePipeline
from pocketfl.features.transforms import (
    Buckets,
    Cyclic,
    FeatureSpec,
    FieldSpec,
    Index,
    InputSpec,
    IsMissing,
    LabelSpec,
    LogScale,
    OneHot,
    Scale,
    ServerTable,
    Standardise,
    Tensor,
)
from pocketfl.plan.models import ModelSpec, ParameterSpec, TensorSpec
from pocketfl.protocol import FeatureRow
from pocketfl.store import Collection, Examples, ExampleStore, Field

DEVICE = (
    FieldSpec(name="f", type="float", optional=True),
    FieldSpec(name="g", type="float"),
    FieldSpec(name="n", type="int", optional=True),
    FieldSpec(name="b", type="bool"),
    FieldSpec(name="s", type="str", optional=True),
    FieldSpec(name="t", type="tensor", shape=(2,)),
    FieldSpec(name="key", type="str", optional=True),
    FieldSpec(name="y", type="float", optional=True),
)
SERVER = (
    FieldSpec(name="w", type="float", optional=True),
    FieldSpec(name="m", type="int"),
    FieldSpec(name="o", type="str"),
)
COLLECTION = Collection("c", {f.name: Field(f.type, f.optional, f.shape) for f in DEVICE})
WORDS = ("ORD", "JFK", "é")
KEYS = ("k0", "k1", "k2")

finite = st.floats(allow_nan=False, allow_infinity=False)
float32 = st.floats(width=32, allow_nan=False, allow_infinity=False)
# Values that a float32 model input can hold as they are.
moderate = st.floats(-1e30, 1e30)
words = st.sampled_from([*WORDS, "", "nowhere"])
numbers = st.integers(-(2**63), 2**63 - 1) | st.integers(-3, 3)

examples = st.fixed_dictionaries(
    {
        "f": st.none() | finite | st.integers(-5, 5),
        "g": moderate,
        "n": st.none() | numbers,
        "b": st.booleans(),
        "s": st.none() | words,
        "t": st.tuples(float32, float32).map(lambda pair: np.array(pair, np.float32)),
        "key": st.none() | st.sampled_from([*KEYS, "other"]),
        "y": st.none() | st.floats(-2, 2),
    }
)
server_values = st.fixed_dictionaries(
    {"w": st.none() | finite, "m": st.integers(-1000, 1000), "o": words}
)
moments = st.integers(0, 6).map(float)


@st.composite
def boundaries(draw):
    return tuple(sorted(draw(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=4, unique=True))))


@st.composite
def columns(draw, *, server):
    choices = [
        ("f", "device", False),
        ("g", "device", True),
        ("n", "device", False),
        ("b", "device", True),
    ]
    texts = [("s", "device"), ("n", "device")]
    if server:
        choices += [("w", "server", False), ("m", "server", False)]
        texts += [("o", "server"), ("m", "server")]
    kind = draw(
        st.sampled_from(
            ["scale", "standardise", "log", "one_hot", "cyclic", "buckets", "missing", "as_is"]
        )
    )
    field, source, always = draw(st.sampled_from(choices))
    match kind:
        case "scale":
            low, high = draw(
                st.tuples(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6)).filter(lambda p: p[0] < p[1])
            )
            return Scale(
                field=field, source=source, low=low, high=high, missing=draw(st.floats(-1, 1))
            )
        case "standardise":
            return Standardise(
                field=field,
                source=source,
                mean=draw(st.floats(-1e6, 1e6)),
                deviation=draw(st.floats(1e-3, 1e6)),
                limit=draw(st.floats(0.5, 10)),
                missing=draw(st.floats(-1, 1)),
            )
        case "log":
            return LogScale(
                field=field, source=source, high=draw(st.floats(1e-6, 1e9)), missing=-0.5
            )
        case "one_hot":
            field, source = draw(st.sampled_from(texts))
            vocabulary = WORDS if field in ("s", "o") else (0, 1, -2, 2**40)
            return OneHot(field=field, source=source, vocabulary=vocabulary)
        case "cyclic":
            return Cyclic(field=field, source=source, period=draw(st.floats(1e-3, 1e4)))
        case "buckets":
            return Buckets(field=field, source=source, boundaries=draw(boundaries()))
        case "missing":
            field, source = draw(st.sampled_from([(f, s) for f, s, _ in choices] + texts))
            return IsMissing(field=field, source=source)
        case _:
            return Tensor(field=field if always else draw(st.sampled_from(["g", "b", "t"])))


@st.composite
def specs(draw):
    table = None
    if draw(st.booleans()):
        table = ServerTable(
            name="weather", key_field="key", fields=SERVER, required=draw(st.booleans())
        )
    server = table is not None
    made = [
        InputSpec(
            tensor="x",
            columns=tuple(draw(st.lists(columns(server=server), min_size=1, max_size=8))),
        )
    ]
    if draw(st.booleans()):
        indices = [Index(field="s", vocabulary=WORDS), Index(field="n", vocabulary=(3, 1, 2))]
        if server:
            indices.append(Index(field="o", source="server", vocabulary=WORDS))
        made.append(
            InputSpec(
                tensor="ids",
                columns=tuple(draw(st.lists(st.sampled_from(indices), min_size=1, max_size=3))),
            )
        )
    return FeatureSpec(
        collection="c",
        fields=DEVICE,
        inputs=tuple(made),
        label=LabelSpec(field="y", above=draw(st.none() | st.floats(-1, 1))),
        server_table=table,
    )


histories = st.dictionaries(
    st.sampled_from(KEYS),
    st.lists(st.tuples(moments, server_values), max_size=4, unique_by=lambda r: r[0]).map(
        lambda rows: sorted(rows, key=lambda r: r[0])
    ),
)


def as_of(history, moment):
    """The join, by its definition: the latest row that is not after the moment."""
    found = None
    for valid_from, values in history:
        if valid_from <= moment:
            found = values
    return found


def slow_column(column, value):
    """One column of one example, word for word as the transform's docstring says."""
    match column:
        case Tensor():
            return np.asarray(value, np.float64).ravel().tolist()
        case Scale():
            if value is None:
                return [column.missing]
            clamped = min(max(value, column.low), column.high)
            return [(clamped - column.low) / (column.high - column.low) * 2 - 1]
        case Standardise():
            if value is None:
                return [column.missing]
            return [min(max((value - column.mean) / column.deviation, -column.limit), column.limit)]
        case LogScale():
            if value is None:
                return [column.missing]
            clamped = min(max(value, 0), column.high)
            return [math.log1p(clamped) / math.log1p(column.high) * 2 - 1]
        case OneHot():
            place = column.vocabulary.index(value) if value in column.vocabulary else -1
            made = [0.0] * (len(column.vocabulary) + 1)
            made[place] = 1.0
            return made
        case Cyclic():
            if value is None:
                return [0.0, 0.0]
            turn = (float(value) % column.period) / column.period * 2 * math.pi
            return [math.sin(turn), math.cos(turn)]
        case Buckets():
            made = [0.0] * (len(column.boundaries) + 2)
            place = -1 if value is None else sum(edge <= value for edge in column.boundaries)
            made[place] = 1.0
            return made
        case IsMissing():
            return [float(value is None)]
        case Index():
            known = value in column.vocabulary
            return [column.vocabulary.index(value) if known else len(column.vocabulary)]


def slow_row(spec, made, example, joined):
    row = []
    for column in made.columns:
        values = example if column.source == "device" else joined or {}
        row += slow_column(column, values.get(column.field))
    return row


def packed(rows, times):
    return Examples(
        np.arange(len(rows)),
        np.array(times, dtype=np.float64),
        {name: [row[name] for row in rows] for name in COLLECTION.fields},
    )


def kept_rows(spec, rows, times, history):
    """Places and server rows of the examples that training uses."""
    kept = []
    for place, (row, moment) in enumerate(zip(rows, times, strict=True)):
        joined = None
        if spec.server_table is not None:
            joined = as_of(history.get(row["key"], []), moment)
            if joined is None and spec.server_table.required:
                continue
        if row["y"] is not None:
            kept.append((place, joined))
    return kept


@settings(max_examples=60, deadline=None)
@given(specs(), st.lists(examples, max_size=9), histories, st.data())
def test_arrays_are_what_the_transforms_say(spec, rows, history, data):
    """Every number of every input, the target, and which examples are left out."""
    times = data.draw(st.lists(moments, min_size=len(rows), max_size=len(rows)))
    pipeline = FeaturePipeline(spec)
    pipeline.check(COLLECTION)
    arrays = pipeline.arrays(packed(rows, times), history)
    kept = kept_rows(spec, rows, times, history)
    for made in spec.inputs:
        got = arrays[made.tensor]
        assert len(got) == len(kept)
        assert got.dtype == (np.int64 if made.tensor == "ids" else np.float32)
        assert np.isfinite(got).all()
        for line, (place, joined) in zip(got, kept, strict=True):
            expected = slow_row(spec, made, rows[place], joined)
            np.testing.assert_allclose(line.ravel(), expected, rtol=1e-6, atol=1e-6)
    labels = [rows[place]["y"] for place, _ in kept]
    if spec.label.above is not None:
        labels = [float(y > spec.label.above) for y in labels]
    assert arrays["target"].dtype == np.float32
    assert arrays["target"].tolist() == np.array(labels, np.float32).tolist()


@settings(max_examples=60, deadline=None)
@given(specs(), st.lists(examples, min_size=1, max_size=40), histories, st.data())
def test_prediction_sees_the_bits_that_training_saw(spec, rows, history, data):
    """The same example alone, as the app wrote it, gives bit for bit its row of the training arrays."""
    times = data.draw(st.lists(moments, min_size=len(rows), max_size=len(rows)))
    pipeline = FeaturePipeline(spec)
    arrays = pipeline.arrays(packed(rows, times), history)
    for line, (place, _) in enumerate(kept_rows(spec, rows, times, history)):
        example = {name: value for name, value in rows[place].items() if name != "y"}
        server = None
        if spec.server_table is not None:
            server = pipeline.join([example["key"]], [times[place]], history)
        alone = pipeline.inputs([example], server)
        assert set(alone) == set(spec.tensor_names)
        for name, values in alone.items():
            assert values.dtype == arrays[name].dtype
            assert values.tobytes() == arrays[name][line : line + 1].tobytes()


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from([None, "k0", "k1", "gone"]), st.floats(-10, 10)), max_size=20
    ),
    st.dictionaries(
        st.sampled_from(KEYS),
        st.lists(st.floats(-10, 10), max_size=6, unique=True).map(sorted),
    ),
    st.none() | st.floats(0.5, 5),
)
def test_join_uses_no_row_from_the_future_and_none_that_is_stale(asked, valid, max_age):
    """Each example gets the latest row valid by then, unless that is too old, or none at all."""
    history = {key: [(moment, {"m": moment}) for moment in rows] for key, rows in valid.items()}
    joined = _pipeline(server=True, max_age=max_age).join(
        [k for k, _ in asked], [t for _, t in asked], history
    )
    for (key, moment), found in zip(asked, joined, strict=True):
        past = [valid_from for valid_from in valid.get(key, []) if valid_from <= moment]
        fresh = past and (max_age is None or moment - max(past) <= max_age)
        assert found == ({"m": max(past)} if fresh else None)


def _pipeline(
    *made, server=False, label=None, model=None, required=True, max_age=None, fields=DEVICE
):
    spec = FeatureSpec(
        collection="c",
        fields=fields,
        inputs=(InputSpec(tensor="x", columns=made or (Tensor(field="g"),)),),
        label=label or LabelSpec(field="y"),
        server_table=ServerTable(
            name="w", key_field="key", fields=SERVER, required=required, max_age=max_age
        )
        if server
        else None,
    )
    return FeaturePipeline(spec, model=model)


@settings(deadline=None)
@given(st.lists(st.none() | st.text(max_size=4) | words, min_size=1, max_size=20))
def test_one_hot_rows_sum_to_one(values):
    """Exactly one column is set, and for a word outside the vocabulary it is the last."""
    made = _pipeline(OneHot(field="s", vocabulary=WORDS)).inputs([{"s": v} for v in values])["x"]
    assert made.sum(axis=1).tolist() == [1] * len(values)
    assert set(made.ravel().tolist()) <= {0, 1}
    assert [bool(v) for v in made[:, -1]] == [v not in WORDS for v in values]


@settings(deadline=None)
@given(
    st.lists(st.none() | finite | numbers, min_size=1, max_size=20),
    st.tuples(finite, finite).filter(lambda p: p[0] < p[1] and math.isfinite(p[1] - p[0])),
    st.floats(-1, 1),
)
def test_scales_stay_within_their_range(values, ends, missing):
    """Whatever the value and the range, numbers lie in [-1, 1], and the ends are met exactly."""
    low, high = ends
    scale = Scale(field="f", low=low, high=high, missing=missing)
    made = _pipeline(scale).inputs([{"f": v} for v in [*values, low, high]])["x"]
    assert np.abs(made).max() <= 1
    assert made[-2:, 0].tolist() == [-1, 1]
    if high > 0:
        log = LogScale(field="f", high=high, missing=missing)
        made = _pipeline(log).inputs([{"f": v} for v in [*values, -1.0, high]])["x"]
        assert np.abs(made).max() <= 1
        assert made[-2:, 0].tolist() == [-1, 1]


@settings(deadline=None)
@given(st.lists(st.none() | finite, min_size=1, max_size=20), st.floats(1e-300, 1e300))
def test_cyclic_is_on_the_circle_or_at_its_centre(values, period):
    """Sine and cosine of any finite number lie on the unit circle; missing lies in the middle."""
    made = _pipeline(Cyclic(field="f", period=period)).inputs([{"f": v} for v in values])["x"]
    radius = np.linalg.norm(made, axis=1)
    expected = [0.0 if v is None else 1.0 for v in values]
    np.testing.assert_allclose(radius, expected, atol=1e-6)


def test_bucket_boundary_belongs_to_the_upper_interval():
    """Two boundaries make three intervals, and missing has a column of its own."""
    made = _pipeline(Buckets(field="f", boundaries=(0.0, 10.0)))
    rows = [{"f": v} for v in (-1, 0, 9.5, 10, 11, None)]
    assert made.inputs(rows)["x"].argmax(axis=1).tolist() == [0, 1, 1, 2, 2, 3]


def test_lone_tensor_keeps_its_shape_and_others_are_flattened():
    """A tensor alone is passed as it is; beside other columns it lies flat in its place."""
    fields = (FieldSpec(name="t", type="tensor", shape=(2, 2)), *DEVICE[1:2], DEVICE[-1])
    rows = [{"t": [[1, 2], [3, 4]], "g": 7.0}]
    assert _pipeline(Tensor(field="t"), fields=fields).inputs(rows)["x"].shape == (1, 2, 2)
    both = _pipeline(Tensor(field="g"), Tensor(field="t"), Tensor(field="g"), fields=fields)
    assert both.inputs(rows)["x"].tolist() == [[7, 1, 2, 3, 4, 7]]


def model(shape=(1,), dtype="float32", target="float32", target_shape=(), name="x"):
    return ModelSpec(
        parameters=(ParameterSpec(name="w", shape=(1,), offset=0),),
        inputs=(TensorSpec(name=name, dtype=dtype, shape=shape),),
        target=TensorSpec(name="target", dtype=target, shape=target_shape),
        outputs=(TensorSpec(name="out", dtype="float32"),),
        batch_size=4,
    )


def test_the_model_decides_shapes_and_types():
    """Inputs and target come in the model's own shape, for a single column and for many."""
    rows = packed([{**dict.fromkeys(COLLECTION.fields), "g": 2.0, "s": "ORD", "y": 1.0}], [0])
    arrays = _pipeline(model=model(shape=())).arrays(rows)
    assert arrays["x"].shape == (1,)
    square = model(shape=(2, 2), target="int64", target_shape=(1,))
    label = LabelSpec(field="y", above=0.5)
    arrays = _pipeline(OneHot(field="s", vocabulary=WORDS), label=label, model=square).arrays(rows)
    assert arrays["x"].tolist() == [[[1, 0], [0, 0]]]
    assert arrays["target"].dtype == np.int64
    assert arrays["target"].tolist() == [[1]]


@pytest.mark.parametrize(
    ("label", "values", "target"),
    [
        (LabelSpec(field="y", above=30), [30.0, 30.5, None, -1.0], [0.0, 1.0, 0.0]),
        (LabelSpec(field="y"), [1.5, None, 2.0], [1.5, 2.0]),
        (LabelSpec(field="n", vocabulary=(5, 3)), [3, 5, None, 4, 3], [1, 0, 1]),
        (LabelSpec(field="n"), [3, None, -4], [3.0, -4.0]),
        (LabelSpec(field="s", vocabulary=("a", "b")), ["b", "c", "a", None], [1, 0]),
        (LabelSpec(field="b"), [True, False], [1.0, 0.0]),
        (LabelSpec(field="t"), [[1.0, 2.0]], [[1.0, 2.0]]),
    ],
)
def test_labels_become_targets(label, values, target):
    """Above, vocabulary, plain numbers and tensors; an example without a usable label is left out."""
    rows = []
    for value in values:
        row = {**dict.fromkeys(COLLECTION.fields), "g": 1.0, "b": True, "t": np.zeros(2)}
        rows.append(row | {label.field: np.array(value) if label.field == "t" else value})
    arrays = _pipeline(label=label).arrays(packed(rows, [0] * len(rows)))
    assert arrays["target"].tolist() == target
    assert len(arrays["x"]) == len(target)
    assert arrays["target"].dtype == (np.int64 if label.vocabulary else np.float32)


def test_optional_join_fills_in_what_missing_means():
    """Without a server row its fields are missing, even those that every row has."""
    pipeline = _pipeline(
        Scale(field="m", source="server", low=0, high=10, missing=0.25),
        OneHot(field="o", source="server", vocabulary=WORDS),
        IsMissing(field="o", source="server"),
        server=True,
        required=False,
    )
    history = {"k0": [(0.0, {"m": 10, "o": "JFK"})]}
    made = pipeline.inputs([{}, {}], pipeline.join(["k0", None], [1, 1], history))["x"]
    assert made.tolist() == [[1, 0, 1, 0, 0, 0], [0.25, 0, 0, 0, 1, 1]]
    assert pipeline.inputs([{}])["x"].tolist() == made[1:].tolist()


def test_integer_keys_join_by_their_digits():
    """A key field of whole numbers matches the back end's text keys."""
    fields = (*DEVICE[:6], FieldSpec(name="key", type="int"), DEVICE[-1])
    pipeline = _pipeline(server=True, fields=fields)
    assert pipeline.keys([1, None, 1, -2]) == {"1", "-2"}
    assert pipeline.join([-2], [5], {"-2": [(0, {"m": 1})]}) == [{"m": 1}]


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (Scale(field="s", low=0, high=1), "'scale' of device field 's' needs a float, int or bool"),
        (Buckets(field="t", boundaries=(0,)), "'buckets' of device field 't' needs a float"),
        (OneHot(field="f", vocabulary=(1, 2)), "needs a str or int field, not float"),
        (OneHot(field="s", vocabulary=("a", 1)), "every word of its vocabulary must be str"),
        (OneHot(field="n", vocabulary=("1",)), "every word of its vocabulary must be int"),
        (Tensor(field="s"), "cannot be a number; use 'one_hot'"),
        (Tensor(field="f"), "'tensor' has no value for that"),
    ],
)
def test_column_that_its_field_cannot_feed_is_refused(made, message):
    """A plan whose columns do not fit its fields fails when it is opened, not in a round."""
    with pytest.raises(FeatureError, match=message):
        _pipeline(made)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"label": LabelSpec(field="s")}, "a str field needs a vocabulary"),
        ({"label": LabelSpec(field="s", above=1)}, "'above' needs a float"),
        ({"label": LabelSpec(field="y", vocabulary=(1,))}, "needs a str or int field"),
        ({"model": model(shape=(3,))}, "make 1 numbers of type float32 .* the model takes 3"),
        ({"model": model(dtype="int64")}, "model takes 1 of type int64"),
        ({"model": model(name="z")}, r"make the inputs \['x'\], the model takes \['z'\]"),
        ({"model": model(target="int64")}, "cannot make a target of type int64"),
        ({"model": model(target="bool")}, "cannot make a target of type bool"),
        (
            {"model": model(target_shape=(3,))},
            "makes 1 numbers per example, the model's target has 3",
        ),
    ],
)
def test_spec_that_does_not_fit_the_model_is_refused(arguments, message):
    """Widths, types and names are compared with the model's before any example is read."""
    with pytest.raises(FeatureError, match=message):
        _pipeline(**arguments)


def test_server_table_that_cannot_be_joined_is_refused():
    """Keys are texts or whole numbers, and server rows hold no tensors."""
    spec = {
        "collection": "c",
        "fields": DEVICE,
        "inputs": (InputSpec(tensor="x", columns=(Tensor(field="g"),)),),
        "label": LabelSpec(field="y"),
    }
    with pytest.raises(FeatureError, match="key field 'g' must be str or int, not float"):
        FeaturePipeline(
            FeatureSpec(**spec, server_table=ServerTable(name="w", key_field="g", fields=SERVER))
        )
    odd = (FieldSpec(name="v", type="tensor", shape=(2,)),)
    with pytest.raises(FeatureError, match="field 'v': a server row holds no tensors"):
        FeaturePipeline(
            FeatureSpec(**spec, server_table=ServerTable(name="w", key_field="key", fields=odd))
        )
    with pytest.raises(FeatureError, match="may be missing"):
        _pipeline(Tensor(field="m", source="server"), server=True, required=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"f": None}, "field 'f': the plan reads it, and the collection does not have it"),
        (
            {"f": Field("int", optional=True)},
            "field 'f': the plan expects float, the collection has int",
        ),
        ({"t": Field("tensor", shape=(3,))}, r"expects tensor of shape \(2,\), .* shape \(3,\)"),
        (
            {"g": Field("float", optional=True)},
            "field 'g': the plan expects a value in every example",
        ),
    ],
)
def test_collection_that_does_not_fit_is_refused(change, message):
    """The field and both declarations are named; a stricter collection is fine."""
    fields = {k: v for k, v in ({**COLLECTION.fields, **change}).items() if v is not None}
    with pytest.raises(FeatureError, match=message):
        _pipeline().check(Collection("c", fields))
    _pipeline().check(
        Collection("c", {**COLLECTION.fields, "f": Field("float"), "more": Field("int")})
    )
    with pytest.raises(FeatureError, match="reads the collection 'c', not 'd'"):
        _pipeline().check(Collection("d", COLLECTION.fields))


@pytest.mark.parametrize(
    ("made", "row", "message"),
    [
        (Tensor(field="g"), {"g": "1.5"}, "field 'g', row 1: expected a number, got str"),
        (Tensor(field="g"), {"g": True}, "field 'g', row 1: expected a number, got bool"),
        (Tensor(field="g"), {}, "field 'g', row 1: expected a value, got none"),
        (Tensor(field="g"), {"g": float("nan")}, "field 'g', row 1: expected a finite number"),
        (Tensor(field="g"), {"g": 10**400}, "field 'g', row 1: .*beyond its range"),
        (Tensor(field="g"), {"g": 1e300}, "field 'g', row 1: the number is beyond float32"),
        (Scale(field="f", low=0, high=1), {"f": math.inf}, "field 'f', row 1: expected a finite"),
        (Scale(field="n", low=0, high=1), {"n": 1.5}, "field 'n', row 1: expected a whole number"),
        (OneHot(field="s", vocabulary=WORDS), {"s": 3}, "field 's', row 1: expected text, got int"),
        (Tensor(field="t"), {"t": [1.0]}, r"field 't', row 1: .* got shape \(1,\)"),
        (Tensor(field="t"), {"t": [1.0, math.nan]}, "field 't', row 1: .* not finite"),
        (Tensor(field="b"), [1, 2], "row 1: expected a mapping of fields, got list"),
    ],
)
def test_bad_value_is_named_by_field_and_row(made, row, message):
    """The second of two examples is at fault, and the message says so without its value."""
    good = {"f": 1.0, "g": 1.0, "n": 1, "s": "JFK", "b": True, "t": [0, 0]}
    with pytest.raises(FeatureError, match=message) as caught:
        _pipeline(made).inputs([good, row])
    assert "1e+300" not in str(caught.value)


def test_rows_keep_their_numbers_when_others_are_left_out():
    """An error names the row that the caller passed, although rows before it were dropped."""
    rows = [
        {**dict.fromkeys(COLLECTION.fields), "g": 1.0},
        {**dict.fromkeys(COLLECTION.fields), "g": 1e300, "y": 1.0},
    ]
    with pytest.raises(FeatureError, match="row 1"):
        _pipeline().arrays(packed(rows, [0, 0]))
    label = [{**dict.fromkeys(COLLECTION.fields), "g": 1.0, "y": y} for y in (None, 1.0, 1e300)]
    with pytest.raises(FeatureError, match="label field 'y', row 2: the number is beyond float32"):
        _pipeline().arrays(packed(label, [0, 0, 0]))


def test_numpy_values_are_the_same_as_python_ones():
    """An app may predict on the scalars that its own arrays give."""
    pipeline = _pipeline(
        Scale(field="f", low=0, high=10),
        OneHot(field="n", vocabulary=(1, 2)),
        Tensor(field="b"),
        OneHot(field="s", vocabulary=WORDS),
    )
    plain = pipeline.inputs([{"f": 2.5, "n": 2, "b": True, "s": "JFK"}])["x"]
    dressed = {"f": np.float32(2.5), "n": np.int8(2), "b": np.bool_(True), "s": np.str_("JFK")}
    assert pipeline.inputs([dressed])["x"].tobytes() == plain.tobytes()


def test_server_rows_must_fit_the_examples():
    """Too few rows, rows without a table, and a required row that is missing are named."""
    joined = _pipeline(Tensor(field="m", source="server"), server=True)
    with pytest.raises(FeatureError, match="2 examples, but 1 server rows"):
        joined.inputs([{}, {}], [{"m": 1}])
    with pytest.raises(FeatureError, match="row 1: no row of server table 'w' matches its 'key'"):
        joined.inputs([{}, {}], [{"m": 1}, None])
    with pytest.raises(FeatureError, match="row 0: no row of server table 'w'"):
        joined.inputs([{}])
    with pytest.raises(FeatureError, match="server field 'm', row 0: expected a value, got none"):
        joined.inputs([{}], [{"w": 1.0}])
    with pytest.raises(
        FeatureError, match="server field 'm', row 0: expected a whole number, got str"
    ):
        joined.inputs([{}], [{"m": "5"}])
    with pytest.raises(FeatureError, match="no server table"):
        _pipeline().inputs([{"g": 1.0}], [{}])


def test_examples_without_a_field_are_refused():
    """Columns that lack what the plan reads are named instead of raising KeyError."""
    lacking = Examples(np.arange(1), np.zeros(1), {"y": [1.0]})
    with pytest.raises(FeatureError, match="field 'g': the examples do not have it"):
        _pipeline().arrays(lacking)
    with pytest.raises(FeatureError, match="field 'key': the examples do not have it"):
        _pipeline(server=True).arrays(lacking, {})
    with pytest.raises(FeatureError, match="field 'y': the examples do not have it"):
        _pipeline().arrays(Examples(np.arange(1), np.zeros(1), {"g": [1.0]}))


def test_no_examples_make_empty_arrays():
    """Zero rows keep their shapes and types, so that a caller can count them."""
    arrays = _pipeline(OneHot(field="s", vocabulary=WORDS)).arrays(packed([], []))
    assert arrays["x"].shape == (0, 4)
    assert arrays["target"].shape == (0,)
    assert _pipeline(Tensor(field="t")).inputs([])["x"].shape == (0, 2)
    assert _pipeline(Index(field="s", vocabulary=WORDS)).inputs([])["x"].shape == (0, 1)


@settings(max_examples=30, deadline=None)
@given(st.lists(examples, max_size=12), histories, st.data())
def test_a_real_store_changes_nothing(tmp_path_factory, rows, history, data):
    """Through SQLite and back, arrays are bit for bit those of the values as the app wrote them."""
    spec = data.draw(specs())
    times = data.draw(st.lists(moments, min_size=len(rows), max_size=len(rows)))
    pipeline = FeaturePipeline(spec)
    direct = pipeline.arrays(packed(rows, times), history)
    with ExampleStore(tmp_path_factory.mktemp("store") / "a.db") as store:
        store.create_collection(COLLECTION)
        store.append("c", rows, times=times)
        store.put_server_features(
            "weather",
            [
                FeatureRow(key=key, valid_from=moment, values=values)
                for key, lines in history.items()
                for moment, values in lines
            ],
        )
        selected = store.select("c", limit=100, seed=0)
        stored = pipeline.arrays(selected, store.server_features("weather"))
    assert {k: v.tobytes() for k, v in stored.items()} == {
        k: v.tobytes() for k, v in direct.items()
    }
