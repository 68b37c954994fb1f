"""Strict JSON: what does not have the annotated form never becomes a record."""

import json
from dataclasses import dataclass, field
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketfl.decoding import MAX_DEPTH, decode, decode_json, encode, encode_json, parse_json
from pocketfl.errors import DecodeError
from pocketfl.features.transforms import FeatureSpec, InputSpec
from pocketfl.plan.manifest import Manifest
from pocketfl.protocol import (
    Assignment,
    CheckIn,
    CheckInReply,
    FeaturePage,
    FeatureRow,
    Notices,
    Problem,
    RetryWindow,
)


@dataclass(frozen=True, kw_only=True)
class Circle:
    kind: Literal["circle"] = "circle"
    radius: float

    def __post_init__(self):
        if self.radius < 0:
            raise ValueError("the radius is negative")


@dataclass(frozen=True, kw_only=True)
class Box:
    kind: Literal["box"] = "box"
    sides: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Drawing:
    name: str
    shapes: tuple[Circle | Box, ...]
    visible: bool = True
    layer: int | None = None
    words: dict[str, str | int | float | bool | None] = field(default_factory=dict)
    mode: Literal["draft", "final", 1] = "draft"
    inner: Box | None = None


texts = st.text(max_size=20)
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts
)
boxes = st.builds(Box, sides=st.lists(st.integers(-(2**63), 2**63 - 1), max_size=4).map(tuple))
circles = st.builds(Circle, radius=st.floats(0, allow_infinity=False))
drawings = st.builds(
    Drawing,
    name=texts,
    shapes=st.lists(circles | boxes, max_size=4).map(tuple),
    visible=st.booleans(),
    layer=st.none() | st.integers(-5, 5),
    words=st.dictionaries(texts, scalars, max_size=4),
    mode=st.sampled_from(["draft", "final", 1]),
    inner=st.none() | boxes,
)
anything = st.recursive(
    scalars | st.integers() | st.floats(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            texts | st.sampled_from(["name", "shapes", "kind", "inner", "words", "sides"]),
            inner | st.sampled_from(["circle", "box"]),
            max_size=6,
        )
    ),
    max_leaves=12,
)


@settings(deadline=None)
@given(drawings)
def test_records_survive_the_round_trip(drawing):
    """Every record comes back equal, with the same types, from its own JSON."""
    again = decode_json(Drawing, encode_json(drawing), what="drawing", limit=2**20)
    assert again == drawing
    assert {k: type(v) for k, v in again.words.items()} == {
        k: type(v) for k, v in drawing.words.items()
    }


@settings(deadline=None)
@given(
    st.builds(
        FeatureRow,
        key=texts,
        valid_from=st.floats(allow_nan=False, allow_infinity=False),
        values=st.dictionaries(texts, scalars, max_size=4),
    )
)
def test_feature_rows_survive_the_round_trip(row):
    """Server-side features keep their values and types, missing ones among them."""
    page = FeaturePage(table="weather", rows=(row,))
    assert decode_json(FeaturePage, encode_json(page), what="page", limit=2**20) == page


@settings(deadline=None)
@given(drawings)
def test_one_record_has_one_byte_string(drawing):
    """Encoding does not depend on the order in which a dictionary was filled."""
    turned = Drawing(**{**vars(drawing), "words": dict(reversed(list(drawing.words.items())))})
    assert encode_json(turned) == encode_json(drawing)


@settings(deadline=None)
@given(anything)
def test_any_json_gives_a_record_or_a_decode_error(value):
    """No parsed value escapes as another exception, whatever record is expected."""
    for kind in (
        Drawing,
        Notices,
        CheckInReply,
        FeaturePage,
        Problem,
        CheckIn,
        InputSpec,
        Manifest,
    ):
        try:
            record = decode(kind, value, what="thing")
        except DecodeError as error:
            assert "thing" in str(error)
        else:
            assert isinstance(record, kind)


@settings(deadline=None)
@given(st.binary(max_size=200) | anything.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_give_a_value_or_a_decode_error(data):
    """Hostile bytes are refused with our error; what is accepted can be encoded again."""
    try:
        value = parse_json(data, what="thing", limit=10_000)
    except DecodeError:
        return
    encode_json(value)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b'{"a": 1, "a": 2}', "same key twice"),
        (b'{"b": {"a": 1, "a": 1}}', "same key twice"),
        (b"[NaN]", "NaN is not allowed"),
        (b"[-Infinity]", "-Infinity is not allowed"),
        (b"[1e999]", "too large"),
        (b"[" * 30 + b"]" * 30, "deeper than 24"),
        (b"[" * 100_000, "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b"\xef\xbb\xbf{}", "not valid JSON"),
        (b"", "not valid JSON"),
        (b"[1] [2]", "not valid JSON"),
        (b'["\\ud800"]', "surrogate"),
        (b'{"\\udfff": 1}', "surrogate"),
        (b"[" + b"9" * 6000 + b"]", "not valid JSON"),
        (b" " * 1001, "more than the 1000 allowed"),
    ],
)
def test_bad_json_is_refused_with_its_reason(data, reason):
    """Each way in which bytes can be wrong is named, together with the thing that was read."""
    limit = 1000 if data.startswith(b" ") else 200_000
    with pytest.raises(DecodeError, match=reason) as caught:
        parse_json(data, what="notice", limit=limit)
    assert str(caught.value).startswith("notice:")


def test_depth_limit_is_exact():
    """The deepest permitted nesting passes and one more does not."""
    deepest = b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1)
    parse_json(deepest, what="x", limit=1000)
    with pytest.raises(DecodeError):
        parse_json(b"[" + deepest + b"]", what="x", limit=1000)


GOOD = {"name": "n", "shapes": [{"kind": "circle", "radius": 1}]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": 1}, r"drawing\.name: expected a string, got 1"),
        ({"visible": 1}, r"drawing\.visible: expected true or false"),
        ({"layer": True}, r"drawing\.layer: expected a whole number"),
        ({"layer": 1.0}, r"drawing\.layer: expected a whole number"),
        ({"layer": 2**63}, r"drawing\.layer: expected a whole number of 64 bits"),
        ({"mode": True}, r"drawing\.mode: expected one of"),
        ({"mode": "other"}, r"drawing\.mode: expected one of"),
        ({"shapes": {}}, r"drawing\.shapes: expected a list"),
        ({"shapes": ["x"]}, r"drawing\.shapes\[0\]"),
        ({"shapes": [{"radius": 1}]}, r"drawing\.shapes\[0\]\.kind: expected one of box, circle"),
        ({"shapes": [{"kind": ["box"]}]}, r"drawing\.shapes\[0\]\.kind"),
        ({"shapes": [{"kind": "circle"}]}, r"drawing\.shapes\[0\]: the field 'radius' is missing"),
        ({"shapes": [{"kind": "circle", "radius": "1"}]}, r"radius: expected a number"),
        ({"shapes": [{"kind": "circle", "radius": 10**400}]}, r"radius: expected a number"),
        ({"shapes": [{"kind": "circle", "radius": -1}]}, r"\[0\]: the radius is negative"),
        ({"shapes": [{"kind": "box", "sides": [1, None]}]}, r"sides\[1\]: expected a whole"),
        ({"words": {"a": []}}, r"drawing\.words\.a"),
        ({"words": {"a": 2**64}}, r"drawing\.words\.a"),
        ({"words": None}, r"drawing\.words: expected an object"),
        ({"name": None}, r"drawing\.name: expected a string"),
        ({"inner": {"kind": "circle", "radius": 1}}, r"drawing\.inner"),
        ({"colour": "red"}, r"drawing: unknown field 'colour'"),
    ],
)
def test_wrong_field_is_named_with_its_path(change, message):
    """Nothing is coerced, and the message leads to the place."""
    with pytest.raises(DecodeError, match=message):
        decode(Drawing, {**GOOD, **change}, what="drawing")


def test_union_of_records_is_told_apart_by_kind():
    """A reply decodes into the record that it names."""
    answer = RetryWindow(reason="round_closed", min_seconds=1, max_seconds=2)
    reply = decode_json(
        CheckInReply, encode_json(CheckInReply(answer=answer)), what="reply", limit=1000
    )
    assert reply.answer == answer
    with pytest.raises(
        DecodeError, match=r"reply\.answer\.kind: expected one of assignment, retry"
    ):
        decode(CheckInReply, {"answer": {"kind": "other"}}, what="reply")
    assert not isinstance(reply.answer, Assignment)


def test_absent_and_none_are_the_same_optional_field():
    """Fields that are None are not written, and come back as None."""
    drawing = Drawing(name="n", shapes=())
    assert "layer" not in encode(drawing)
    assert decode(Drawing, {**encode(drawing), "layer": None}, what="drawing") == drawing


def test_nan_is_not_encoded():
    """What we could not read back is not written either."""
    with pytest.raises(ValueError, match="JSON"):
        encode_json(Circle(radius=float("nan")))


def test_unsupported_annotation_is_a_programming_error():
    """A record with a field type that the decoder does not know fails loudly."""

    @dataclass(frozen=True)
    class Odd:
        value: bytes

    with pytest.raises(TypeError, match="records cannot hold"):
        decode(Odd, {"value": "x"}, what="odd")


def test_feature_spec_refuses_what_it_cannot_resolve():
    """A column that reads an undeclared field is refused while decoding, with its reason."""
    spec = {
        "collection": "c",
        "fields": [{"name": "y", "type": "float"}],
        "inputs": [{"tensor": "x", "columns": [{"kind": "tensor", "field": "z"}]}],
        "label": {"field": "y"},
    }
    with pytest.raises(DecodeError, match="'z', which is not declared"):
        decode(FeatureSpec, spec, what="features")
