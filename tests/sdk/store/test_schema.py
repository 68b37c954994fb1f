"""Declared types: what an app may declare, and what each type takes."""

import numpy as np
import pytest

from pocketfl.errors import StoreError
from pocketfl.store import Collection, Field
from pocketfl.store.rows import RowCodec
from pocketfl.store.schema import decode_schema, encode_schema

NAN = float("nan")


@pytest.mark.parametrize(
    ("field", "value", "stored"),
    [
        (Field("float"), 3, 3.0),
        (Field("float"), np.float32(0.5), 0.5),
        (Field("float"), np.int64(7), 7.0),
        (Field("int"), np.int32(7), 7),
        (Field("int"), -(2**63), -(2**63)),
        (Field("bool"), np.bool_(True), True),
        (Field("str"), np.str_("x"), "x"),
        (Field("str"), "", ""),
        (Field("tensor", shape=(2,)), [1, 2.5], [1.0, 2.5]),
        (Field("tensor", shape=()), 2.0, 2.0),
        (Field("tensor", shape=(1, 2)), np.array([[1, 2]], np.int16), [[1.0, 2.0]]),
    ],
)
def test_values_of_numpy_and_python_pass(field, value, stored):
    """What is the same value in another dress is accepted and comes back as the declared type."""
    codec = RowCodec(Collection("c", {"x": field}))
    result = codec.decode([codec.encode({"x": value}, row=0)])["x"][0]
    if field.type == "tensor":
        assert result.dtype == np.float32
        assert result.tolist() == stored
    else:
        assert result == stored
        assert type(result) is type(stored)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        (Field("float"), "1.0", "expected a number, got str"),
        (Field("float"), True, "expected a number, got bool"),
        (Field("float"), None, "expected a value, got None"),
        (Field("float"), NAN, "expected a finite number"),
        (Field("float"), np.inf, "expected a finite number"),
        (Field("float"), 10**400, "beyond its range"),
        (Field("float"), np.array(1.0), "expected a number, got ndarray"),
        (Field("int"), 1.0, "expected a whole number, got float"),
        (Field("int"), False, "expected a whole number, got bool"),
        (Field("int"), 2**63, "beyond its range"),
        (Field("bool"), 1, "expected true or false, got int"),
        (Field("str"), b"x", "expected text, got bytes"),
        (Field("str"), "\ud800", "lone surrogates"),
        (Field("str"), "x" * (2**20 + 1), "at most 1048576 bytes"),
        (Field("tensor", shape=(2,)), [1.0], r"shape \(2,\), got shape \(1,\)"),
        (Field("tensor", shape=(2,)), ["a", "b"], "got elements of type <U1"),
        (Field("tensor", shape=(2,)), [[1], [1, 2]], "got list"),
        (Field("tensor", shape=(2,)), [1.0, NAN], "not finite"),
        (Field("tensor", shape=(2,)), [1.0, 1e300], "not finite in float32"),
        (Field("tensor", shape=(2,)), [None, 1.0], "elements of type object"),
        (Field("float", optional=True), NAN, "a missing value is None"),
    ],
)
def test_wrong_value_is_named_by_place_and_type(field, value, message):
    """The message has collection, field and row, what was expected and what type came."""
    codec = RowCodec(Collection("flights", {"ok": Field("int"), "x": field}))
    with pytest.raises(StoreError, match=message) as caught:
        codec.encode({"ok": 1, "x": value}, row=17)
    assert "collection 'flights', field 'x', row 17: " in str(caught.value)


def test_messages_never_show_values():
    """An example's value does not end up in an error that an app may send to its crash reports."""
    codec = RowCodec(Collection("c", {"x": Field("float"), "n": Field("int")}))
    for example in ({"x": "CANARY", "n": 1}, {"x": 1.0, "n": 987654321.5}):
        with pytest.raises(StoreError) as caught:
            codec.encode(example, row=0)
        assert "CANARY" not in str(caught.value)
        assert "987654321" not in str(caught.value)


def test_unknown_and_absent_fields_are_named():
    """A misspelt field is refused, and so is a required one that is not there."""
    codec = RowCodec(Collection("c", {"x": Field("float"), "y": Field("int", optional=True)}))
    with pytest.raises(
        StoreError, match="field 'z', row 3: no such field; the collection has x, y"
    ):
        codec.encode({"x": 1.0, "z": 1}, row=3)
    with pytest.raises(StoreError, match="field 'x', row 0: expected a value"):
        codec.encode({"y": 1}, row=0)
    with pytest.raises(StoreError, match="expected a mapping of fields, got list"):
        codec.encode([1.0], row=0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Field("double"), "unknown field type 'double'"),
        (lambda: Field("float", shape=(2,)), "a tensor field has a shape"),
        (lambda: Field("tensor"), "a tensor field has a shape"),
        (lambda: Field("tensor", shape=(0,)), "bad shape"),
        (lambda: Collection("c d", {"x": Field("int")}), "collection name 'c d'"),
        (lambda: Collection("", {"x": Field("int")}), "collection name"),
        (lambda: Collection("c", {}), "1 to 1024 fields"),
        (lambda: Collection("c", {"": Field("int")}), "a name of 1 to 128"),
        (lambda: Collection("c", {"x": "int"}), "field 'x': expected a Field, got str"),
    ],
)
def test_bad_declaration_is_refused(make, message):
    """A declaration that cannot work is refused when it is made."""
    with pytest.raises(StoreError, match=message):
        make()


def test_schema_keeps_order_and_everything_else():
    """What is stored of a collection rebuilds it, the order of its fields included."""
    collection = Collection(
        "c",
        {
            "z": Field("float"),
            "a": Field("tensor", shape=(2, 3), optional=True),
            "m": Field("str", optional=True),
        },
    )
    again = decode_schema("c", encode_schema(collection))
    assert again == collection
    assert list(again.fields) == ["z", "a", "m"]
    assert hash(again) == hash(collection)


@pytest.mark.parametrize("data", [b"", b"{}", b'{"fields": [{"name": "x", "type": "double"}]}'])
def test_damaged_schema_is_refused(data):
    """A schema that was changed in the file is called damaged."""
    with pytest.raises(StoreError, match="the store is damaged"):
        decode_schema("c", data)
