"""Server-side features: a user's own rows, page by page, exactly as they were put."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pocketfl.decoding import decode_json
from pocketfl.errors import DecodeError
from pocketfl.protocol import FeatureRow
from pocketfl_server import user_features
from pocketfl_server.errors import Malformed, NotAuthenticated
from pocketfl_server.records import PutFeatures
from pocketfl_server.user_features import encode_put

from .conftest import everything_in


def row(key: str = "k", valid_from: float = 0.0, **values: object) -> FeatureRow:
    return FeatureRow(key=key, valid_from=valid_from, values=values)


def all_rows(back_end, token: str, table: str = "weather") -> list[FeatureRow]:
    rows: list[FeatureRow] = []
    cursor = None
    while True:
        page = back_end.features(token, table, cursor)
        rows += page.rows
        if page.next_cursor is None:
            return rows
        cursor = page.next_cursor


def test_a_device_gets_its_user_s_rows_and_nobody_else_s(back_end, fleet) -> None:
    """Rows come in the order in which they were put, with None, text, numbers and booleans."""
    mine = [row("a", 1.5, wind=3.25, gusts=None, sky="grey ☁", storm=False, hour=7), row("b")]
    back_end.put_features("ada", "weather", mine)
    back_end.put_features("bob", "weather", [row("a", wind=99.0)])
    assert all_rows(back_end, fleet.token("ada")) == mine
    assert all_rows(back_end, fleet.token("carol")) == []
    assert all_rows(back_end, fleet.token("ada"), "routes") == []


def test_pages_cover_everything_once(back_end, fleet, monkeypatch) -> None:
    """Whatever the page size, by rows or by bytes, nothing is lost or doubled."""
    rows = [row(f"k{index}", float(index), text="x" * index) for index in range(50)]
    back_end.put_features("ada", "weather", rows)
    token = fleet.token("ada")
    for size in (60, 100, 500, 10_000):
        monkeypatch.setattr(user_features, "PAGE_BYTES", size)
        assert all_rows(back_end, token) == rows


def test_a_cursor_brings_only_what_changed(back_end, fleet, monkeypatch) -> None:
    """A replaced row comes again with its new values; unchanged ones do not."""
    monkeypatch.setattr(user_features, "PAGE_BYTES", 1)  # one row a page
    back_end.put_features("ada", "weather", [row("a", wind=1.0), row("b", wind=2.0)])
    token = fleet.token("ada")
    cursor = back_end.features(token, "weather").next_cursor
    back_end.put_features("ada", "weather", [row("a", wind=3.0)])
    monkeypatch.undo()
    page = back_end.features(token, "weather", cursor)
    assert page.rows == (row("b", wind=2.0), row("a", wind=3.0))
    assert page.next_cursor is None


def test_putting_the_same_rows_again_doubles_nothing(back_end, fleet) -> None:
    """Key and time identify a row; one request may even name it twice, and the last one counts."""
    rows = [row("a", 1.0, wind=1.0), row("a", 2.0, wind=2.0)]
    for _ in range(2):
        assert back_end.put_features("ada", "weather", rows) == 2
    twice = [row("a", 1.0, wind=9.0), *rows]
    assert back_end.put_features("ada", "weather", twice) == 3
    assert all_rows(back_end, fleet.token("ada")) == rows


IMPOSSIBLE_ROWS = [
    row(""),
    row("x" * 257),
    row("\ud800"),
    row("a\0"),
    row("k", float("nan")),
    row("k", wind=float("inf")),
    row("k", count=2**63),
    row("k", text="\udfff"),
    row("k", text="x" * 70_000),
    row("k", **{f"f{index}": 1 for index in range(513)}),
]


def test_an_impossible_row_is_refused_with_all_that_came_with_it(back_end) -> None:
    """All rows of a request are stored, or none."""
    before = everything_in(back_end)
    for bad in IMPOSSIBLE_ROWS:
        together = {"bob": [row("fine")], "ada": [row("a"), bad]}
        with pytest.raises(Malformed):
            back_end.put_features_of_users("weather", together)
        assert everything_in(back_end) == before


def test_a_made_up_cursor_is_refused(back_end, fleet) -> None:
    """Only what a page gave out is a cursor."""
    for cursor in ("", "-1", "1.5", "abc", "9" * 19, "1; DROP TABLE tasks"):
        with pytest.raises(Malformed) as caught:
            back_end.features(fleet.token("ada"), "weather", cursor)
        assert caught.value.code == "bad_cursor"


def test_features_need_a_token(back_end) -> None:
    """Without a device there is no user, and nothing to show."""
    with pytest.raises(NotAuthenticated):
        back_end.features("x" * 43, "weather")


JSON_VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-5, 5),
        st.floats(allow_nan=False),
        st.text(max_size=3),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=2),
        st.dictionaries(st.sampled_from(["user", "rows", "key", "x"]), inner, max_size=3),
    ),
    max_leaves=6,
)
ROWS = st.fixed_dictionaries(
    {"key": st.text(max_size=3), "valid_from": st.one_of(st.floats(-1, 1), st.integers(0, 3))},
    optional={"values": st.dictionaries(st.text(max_size=3), JSON_VALUES, max_size=3)},
)
BODIES = st.one_of(
    JSON_VALUES,
    st.fixed_dictionaries(
        {
            "users": st.lists(
                st.fixed_dictionaries(
                    {"user": st.text(max_size=3), "rows": st.lists(ROWS, max_size=3)},
                    optional={"x": JSON_VALUES},
                ),
                max_size=3,
            )
        }
    ),
)


@given(BODIES)
def test_the_fast_decoder_of_rows_is_as_strict_as_the_general_one(value) -> None:
    """Both refuse, or both read the same rows, whatever the JSON."""
    body = json.dumps(value).encode()

    def general() -> dict[str, list[FeatureRow]] | None:
        try:
            put = decode_json(PutFeatures, body, what="body", limit=10**6)
        except DecodeError:
            return None
        rows = {user.user: list(user.rows) for user in put.users}
        return rows if len(rows) == len(put.users) else None

    def fast() -> dict[str, list[FeatureRow]] | None:
        try:
            return user_features.decode_put(body)
        except (DecodeError, Malformed):
            return None

    assert repr(fast()) == repr(general())


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=20).filter(lambda text: "\0" not in text),
)


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    max_examples=25,
)
@given(
    st.dictionaries(st.text(min_size=1, max_size=10), VALUES, max_size=6), st.floats(-1e12, 1e12)
)
def test_every_row_survives_exactly(back_end, fleet, values, valid_from) -> None:
    """Types and values come back as they were put: 1 stays 1, 1.0 stays 1.0, True stays True."""
    wanted = FeatureRow(key="k", valid_from=valid_from, values=values)
    back_end.put_features_of_users("any", user_features.decode_put(encode_put({"ada": [wanted]})))
    found = next(
        found
        for found in all_rows(back_end, fleet.token("ada"), "any")
        if found.valid_from == valid_from
    )
    assert repr(sorted(found.values.items())) == repr(sorted(wanted.values.items()))
