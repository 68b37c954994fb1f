"""The row codec: exact, typed, and safe against payloads that nobody vouches for."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketfl.errors import StoreError
from pocketfl.store import Collection, Field
from pocketfl.store.rows import RowCodec

VALUES = {
    "float": st.floats(allow_nan=False, allow_infinity=False),
    "int": st.integers(-(2**63), 2**63 - 1),
    "bool": st.booleans(),
    "str": st.text(max_size=30),
}
float32 = st.floats(width=32, allow_nan=False, allow_infinity=False)


@st.composite
def collections(draw):
    names = draw(st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=12, unique=True))
    fields = {}
    for name in names:
        kind = draw(st.sampled_from([*VALUES, "tensor"]))
        shape = None
        if kind == "tensor":
            shape = tuple(draw(st.lists(st.integers(1, 3), max_size=3)))
        fields[name] = Field(kind, optional=draw(st.booleans()), shape=shape)
    return Collection("c", fields)


@st.composite
def rows(draw, collection):
    example = {}
    for name, field in collection.fields.items():
        if field.optional and draw(st.booleans()):
            if draw(st.booleans()):
                example[name] = None
            continue
        if field.type == "tensor":
            size = math.prod(field.shape)
            flat = draw(st.lists(float32, min_size=size, max_size=size))
            example[name] = np.array(flat, np.float32).reshape(field.shape)
        else:
            example[name] = draw(VALUES[field.type])
    return example


def same(stored, given):
    if isinstance(given, np.ndarray):
        return stored.dtype == np.float32 and stored.tobytes() == given.tobytes()
    if isinstance(given, float):
        return type(stored) is float and (stored, math.copysign(1, stored)) == (
            given,
            math.copysign(1, given),
        )
    return type(stored) is type(given) and stored == given


@settings(deadline=None)
@given(st.data())
def test_every_value_survives_the_round_trip(data):
    """Columns hold exactly what each row said, with its type, whatever the schema."""
    collection = data.draw(collections())
    examples = data.draw(st.lists(rows(collection), max_size=5))
    codec = RowCodec(collection)
    columns = codec.decode([codec.encode(e, row=i) for i, e in enumerate(examples)])
    assert list(columns) == list(collection.fields)
    for name, values in columns.items():
        assert len(values) == len(examples)
        assert all(same(v, e.get(name)) for v, e in zip(values, examples, strict=True))


@settings(deadline=None)
@given(st.data())
def test_hostile_payload_is_refused_or_is_the_one_encoding(data):
    """Any bytes either raise StoreError, or are exactly what encoding the decoded row gives."""
    collection = data.draw(collections())
    codec = RowCodec(collection)
    payload = bytearray(codec.encode(data.draw(rows(collection)), row=0))
    for _ in range(data.draw(st.integers(0, 3))):
        place = data.draw(st.integers(0, max(0, len(payload) - 1)))
        match data.draw(st.sampled_from(["flip", "cut", "grow"])):
            case "flip" if payload:
                payload[place] = data.draw(st.integers(0, 255))
            case "cut":
                del payload[place:]
            case _:
                payload[place:place] = data.draw(st.binary(max_size=9))
    _decodes_canonically(codec, bytes(payload))


@settings(deadline=None)
@given(collections(), st.binary(max_size=200))
def test_random_payload_is_refused_or_is_the_one_encoding(collection, payload):
    """The same for bytes that never were a row."""
    _decodes_canonically(RowCodec(collection), payload)


def _decodes_canonically(codec, payload):
    try:
        columns = codec.decode([payload])
    except StoreError:
        return
    again = {name: values[0] for name, values in columns.items()}
    assert codec.encode(again, row=0) == payload


def test_damage_names_the_row():
    """Of many payloads the short one is named by its place."""
    codec = RowCodec(Collection("c", {"x": Field("float")}))
    good = codec.encode({"x": 1.0}, row=0)
    with pytest.raises(StoreError, match="stored row 2 of those read is damaged: it is too short"):
        codec.decode([good, good, good[:-1]])
    with pytest.raises(StoreError, match="stored row 1 of those read is damaged: it has 10 bytes"):
        codec.decode([good, good + b"x"])


def test_declared_length_beyond_the_payload_allocates_nothing():
    """A text that claims gigabytes is refused by its claim."""
    codec = RowCodec(Collection("c", {"s": Field("str")}))
    with pytest.raises(StoreError, match="too long a text"):
        codec.decode([b"\x00\xff\xff\xff\xff"])


def test_payload_that_is_not_bytes_is_refused():
    """A column type that SQLite let through does not escape as another error."""
    codec = RowCodec(Collection("c", {"s": Field("str")}))
    with pytest.raises(StoreError, match="damaged"):
        codec.decode([None])
    with pytest.raises(StoreError, match="damaged"):
        codec.decode(["text"])
