"""Rows of tables become the events that they mean, or are refused by the reason of a dead letter."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from forebay.errors import EventError, UsageError
from forebay.events import Behaviour, Event, ItemUpdate, UserProfile, decode
from forebay.streams.sources.mapping import UNITS, Shape, looks_like_number

ROW: dict[str, Any] = {"user": "u", "item": "i", "action": "view", "time": 5}


def _shape(
    *maps: str, sets: tuple[str, ...] = (), splits: tuple[str, ...] = (), texts: tuple[str, ...] = (), unit: str = "ms"
) -> Shape:
    return Shape.of(maps, sets, splits, texts, unit)


def _event(row: dict[str, Any], shape: Shape, numbers: tuple[str, ...] = ()) -> Event:
    return decode(shape.event(row, shape.fields(list(row)), frozenset(numbers)))


def test_columns_with_the_names_of_fields_need_no_words() -> None:
    """A row without a type is a behaviour, and what no field is called is left alone."""
    row = ROW | {"value": 2.5, "id": "e", "item_attributes.year": 1944, "attributes.page": "/cart", "weather": "fine"}
    found = Behaviour("u", "i", "view", 2.5, 5, "e", {"year": 1944.0}, {"page": "/cart"})
    assert _event(row, _shape()) == found
    profile = {"type": "user_profile", "user": "u", "time": 5, "attributes": {"age": 4}}
    assert _event(profile, _shape()) == UserProfile("u", {"age": 4.0}, 5)


def test_columns_are_mapped_and_constants_stand_in_every_event() -> None:
    """Fields of structures too; a constant wins over a column of its name."""
    row = {"customer": {"id": 7}, "sku": 12, "ts": 5, "value": 3, "page": "/cart", "user": "not this one"}
    shape = _shape(
        "user=customer.id", "item=sku", "time=ts", "attributes.page=page",
        sets=("action=rate", "value=1.5", "attributes.source=old", "item_attributes.n=4", "item_attributes.code=007"),
    )  # fmt: skip
    found = Behaviour("7", "12", "rate", 1.5, 5, None, {"n": 4.0, "code": "007"}, {"page": "/cart", "source": "old"})
    assert _event(row, shape) == found
    update = _shape("item=sku", "attributes.title=name", sets=("type=item_update", "time=2020-01-01"))
    at = datetime(2020, 1, 1, tzinfo=UTC).timestamp() * 1000
    assert _event({"sku": "s", "name": "T"}, update) == ItemUpdate("s", {"title": "T"}, round(at))


def test_columns_with_the_names_of_fields_are_left_alone_where_all_is_named() -> None:
    """As in a topic that somebody else fills, whose map is complete."""
    shape = Shape.made({"user": "who"}, {}, {}, (), "ms", own=False)
    assert shape.fields(["who", "item", "attributes.a"]) == [("user", "who")]
    assert ("item", "item") in Shape.made({"user": "who"}, {}, {}, (), "ms").fields(["who", "item"])


@pytest.mark.parametrize(
    ("value", "unit", "expected"),
    [
        (1_700_000_000_000, "ms", 1_700_000_000_000),
        ("1700000000000", "ms", 1_700_000_000_000),
        (1_700_000_000, "s", 1_700_000_000_000),
        ("1700000000.25", "s", 1_700_000_000_250),
        (Decimal("1700000000.5"), "s", 1_700_000_000_500),
        (1_700_000_000_123_456, "us", 1_700_000_000_123),
        (1_700_000_000_123_456_789, "ns", 1_700_000_000_123),
        ("1970-01-01T00:00:01Z", "us", 1000),
        (" 1970-01-02 ", "ms", 86_400_000),
        (datetime(1970, 1, 1, 0, 0, 1), "s", 1000),
        (datetime(1970, 1, 1, 2, tzinfo=timezone(timedelta(hours=2))), "s", 0),
        (date(1970, 1, 3), "s", 2 * 86_400_000),
    ],
)
def test_times_are_milliseconds(value: object, unit: str, expected: int) -> None:
    """Numbers in the unit that is named, moments whatever it is; one without a zone is UTC."""
    assert _shape(unit=unit).value("time", value) == expected


def test_what_is_absent_is_left_out() -> None:
    """Null, an empty text, and what a table of floats has where a number is absent."""
    row = ROW | {"id": None, "value": float("nan"), "item_attributes.year": "", "attributes": None}
    assert _event(row, _shape()) == Behaviour("u", "i", "view", 0.0, 5)


def test_an_id_is_a_text_whatever_its_column_is() -> None:
    """A number in a column where one is absent comes as a float."""
    shape = _shape()
    assert [shape.value("user", v) for v in (7, 7.0, "007", Decimal(7), b"u7", 7.5, UUID(int=7))] == [
        "7", "7", "007", "7", "u7", "7.5", "00000000-0000-0000-0000-000000000007"
    ]  # fmt: skip


def test_attributes_keep_their_kinds() -> None:
    """Texts of a text table are numbers only where their column has numbers; a sign makes lists."""
    row = ROW | {"attributes.a": "7", "attributes.b": "7", "attributes.c": "x| y||z", "attributes.d": ["p", 3, None]}
    row |= {"attributes.e": True, "attributes.f": 9, "item_attributes": [("k", "v"), ("n", 1)]}
    shape = _shape(splits=("attributes.c=|",), texts=("attributes.f",))
    found = _event(row, shape, ("attributes.b", "attributes.c", "attributes.f"))
    own = {"a": "7", "b": 7.0, "c": ["x", "y", "z"], "d": ["p", "3"], "e": 1.0, "f": "9"}
    assert found == Behaviour("u", "i", "view", 0.0, 5, None, {"k": "v", "n": 1.0}, own)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"time": "yesterday"}, "bad_time"),
        ({"time": float("inf")}, "bad_time"),
        ({"value": "much"}, "bad_value"),
        ({"value": "inf"}, "bad_value"),
        ({"user": ["u"]}, "bad_id"),
        ({"item": True}, "bad_id"),
        ({"attributes.a": {"b": 1}}, "bad_attribute"),
        ({"attributes.n": "x"}, "bad_attribute"),
        ({"attributes.a": [{}]}, "bad_attribute"),
        ({"attributes": "x"}, "bad_attribute"),
        ({"attributes.a": "\udcff"}, "undecodable"),
    ],
)
def test_what_no_event_can_have_is_refused(row: dict[str, Any], reason: str) -> None:
    """By the reason that a dead letter would have."""
    with pytest.raises(EventError) as raised:
        _event(ROW | row, _shape(), ("attributes.n",))
    assert raised.value.reason == reason


def test_a_number_is_one_for_certain() -> None:
    """What begins with a zero is somebody's name."""
    assert all(map(looks_like_number, ("0", "7", "-1.5", "0.5", "1e3", "+2")))
    assert not any(map(looks_like_number, ("007", "-01", "nan", "inf", "", "x", "1,5")))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ({"maps": ("user",)}, "--map 'user'"),
        ({"maps": ("user=",)}, "--map 'user='"),
        ({"maps": ("customer=id",)}, "an event has no 'customer'"),
        ({"sets": ("attributes.=1",)}, "an event has no 'attributes.'"),
        ({"sets": ("time=soon",)}, "--set: time is 'soon'"),
        ({"splits": ("user=|",)}, "'user' is no attribute"),
        ({"texts": ("value",)}, "'value' is no attribute"),
        ({"unit": "minutes"}, "'minutes' is no unit of time"),
    ],
)
def test_words_that_mean_nothing_are_refused(words: dict[str, Any], says: str) -> None:
    """Before anything is read."""
    with pytest.raises(UsageError, match=says) as raised:
        _shape(*words.pop("maps", ()), **words)
    assert raised.value.do


def test_a_column_that_is_not_there_is_named() -> None:
    """With those that are."""
    shape = _shape("user=customer.id", "item=sku")
    shape.check(["customer", "sku"])
    with pytest.raises(UsageError, match="there is no column 'sku' for item") as raised:
        shape.check(["customer", "stock"])
    assert "customer, stock" in raised.value.do
    assert set(UNITS) == {"s", "ms", "us", "ns"} and _shape().is_plain and not _shape(unit="s").is_plain
