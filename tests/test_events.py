"""Events on the wire: what old and new producers and workers make of each other's records, and what is refused."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forebay.errors import EventError
from forebay.events import (
    MAX_ID_BYTES,
    MAX_RECORD_BYTES,
    Attributes,
    Behaviour,
    Event,
    ItemUpdate,
    Tick,
    UserProfile,
    check,
    check_id,
    decode,
    encode,
    entity_of,
    stamped,
)

ALL: list[Event] = [
    Behaviour("u", "i", "view", 2.5, 7, "e", {"genres": ["war"], "year": 1995.0, "colour": "red"}),
    UserProfile("u", {"age": 3.0}, 5, "p"),
    ItemUpdate("i", {}, 5, "p"),
    Behaviour("u", "i", "view", 2.5, 7, "e", {}, {"position": 3.0, "device": "phone", "tags": ["new"], "q": ""}),
    Tick(3_600_000),
]
TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=8)
ATTRIBUTES = st.dictionaries(
    TEXT, st.one_of(TEXT, st.floats(allow_nan=False, allow_infinity=False), st.lists(TEXT)), max_size=3
)
LONGS = st.integers(-(2**63), 2**63 - 1)
TIMES, NUMBERS = st.none() | LONGS, st.floats(-1e6, 1e6)


@settings(max_examples=100, deadline=None)
@given(
    st.one_of(
        st.builds(Behaviour, TEXT, TEXT, TEXT, NUMBERS, TIMES, st.none() | TEXT, ATTRIBUTES, ATTRIBUTES),
        st.builds(UserProfile, TEXT, ATTRIBUTES, TIMES, st.none() | TEXT),
        st.builds(ItemUpdate, TEXT, ATTRIBUTES, TIMES, st.none() | TEXT),
        st.builds(Tick, LONGS),
    )
)
def test_what_is_encoded_is_decoded(event: Event) -> None:
    """Every field of every kind comes back."""
    assert decode(encode(event)) == event


def test_the_record_is_what_the_docstring_says() -> None:
    """JSON with the kind in `type` and defaults left out: spelled out, for producers in other languages."""
    assert encode(Behaviour("u", "i", "view")) == b'{"type":"behaviour","user":"u","item":"i","action":"view"}'
    own = Behaviour("u", "i", "view", attributes={"position": 3.0})
    assert encode(own) == b'{"type":"behaviour","user":"u","item":"i","action":"view","attributes":{"position":3.0}}'
    assert encode(Tick(5)) == b'{"type":"tick","time":5}'
    types = ["behaviour", "user_profile", "item_update", "behaviour", "tick"]
    assert [json.loads(encode(e))["type"] for e in ALL] == types


@pytest.mark.parametrize("event", ALL, ids=lambda e: type(e).__name__)
def test_a_field_of_tomorrow_is_ignored(event: Event) -> None:
    """Producers are upgraded before workers."""
    record = {**json.loads(encode(event)), "mood": {"deep": [1, None]}, "version": 9}
    assert decode(json.dumps(record).encode()) == event


def test_a_field_of_today_that_is_missing_has_its_default() -> None:
    """Workers are upgraded before producers."""
    old = decode(b'{"type":"behaviour","user":"u","item":"i","action":"view"}')
    assert old == Behaviour("u", "i", "view", 0.0, None, None, {})
    assert decode(b'{"type":"item_update","item":"i","attributes":{}}') == ItemUpdate("i", {}, None, None)


def test_the_order_of_fields_and_whole_numbers_do_not_matter() -> None:
    """A value of 4 is a float as 4.0 is, wherever `type` stands."""
    assert decode(b'{"value": 4, "user":"u", "item":"i", "action":"a", "type":"behaviour"}') == Behaviour(
        "u", "i", "a", 4.0
    )


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b"{",
        b"\xff\xfe",
        b'{"type":"purchase"}',
        b'{"type":"interaction","item":"i","user":"u","action":"a","value":1.0,"time":1,"id":"e","append_time":1}',
        b'{"user":"u","item":"i","action":"a"}',
        b'{"type":"behaviour","user":"u","item":"i"}',
        b'{"type":"behaviour","user":1,"item":"i","action":"a"}',
        b'{"type":"behaviour","user":"u","item":"i","action":"a","value":"4"}',
        b'{"type":"behaviour","user":"u","item":"i","action":"a","value":NaN}',
        b'{"type":"behaviour","user":"u","item":"i","action":"a","value":1e999}',
        b'{"type":"behaviour","user":"u","item":"i","action":"a","time":1.5}',
        b'{"type":"behaviour","user":"\xff","item":"i","action":"a"}',
        b'{"type":"item_update","item":"i","attributes":{"a":null}}',
        b'{"type":"item_update","item":"i","attributes":{"a":{"b":1}}}',
        b'{"type":"item_update","item":"i","attributes":' + b"[" * 20_000 + b"]" * 20_000 + b"}",
        b'{"type":"tick"}',
    ],
)
def test_what_is_no_event_is_undecodable(data: bytes) -> None:
    """One reason code, whatever is wrong with the bytes, and never another exception."""
    with pytest.raises(EventError) as caught:
        decode(data)
    assert caught.value.reason == "undecodable" and caught.value.what


def test_a_record_may_have_64_kib() -> None:
    """Exactly the limit is decoded; one byte more is too large, and is not parsed."""
    event = ItemUpdate("i", {"text": ""}, 1, "e")
    room = MAX_RECORD_BYTES - len(encode(event))
    full = encode(ItemUpdate("i", {"text": "x" * room}, 1, "e"))
    assert len(full) == MAX_RECORD_BYTES and isinstance(decode(full), ItemUpdate)
    with pytest.raises(EventError, match="65537 bytes") as caught:
        decode(full + b" ")
    assert caught.value.reason == "too_large" and caught.value.do


@pytest.mark.parametrize("event", ALL, ids=lambda e: type(e).__name__)
def test_good_events_pass(event: Event) -> None:
    """Each kind, and each without the time and the id that may be missing."""
    check(event)
    if isinstance(event, Behaviour | UserProfile | ItemUpdate):
        check(msgspec.structs.replace(event, time=None, id=None))


BAD_IDS = ["", "x" * (MAX_ID_BYTES + 1), "é" * 129, "a\nb", "a\0", "\x7f", "\ud800"]


@pytest.mark.parametrize("bad", BAD_IDS, ids=ascii)
def test_an_id_that_cannot_be_kept_is_a_bad_id(bad: str) -> None:
    """As entity, as item, as event id; bytes are counted, not characters."""
    for event in (
        Behaviour(bad, "i", "a", 1.0, 1, "e"),
        Behaviour("u", bad, "a", 1.0, 1, "e"),
        Behaviour("u", "i", "a", 1.0, 1, bad),
        UserProfile(bad, {}, 1, "e"),
        ItemUpdate("i", {}, 1, bad),
        ItemUpdate(bad, {}, 1, "e"),
    ):
        with pytest.raises(EventError) as caught:
            check(event)
        assert caught.value.reason == "bad_id", event


@pytest.mark.parametrize("good", ["x", "x" * MAX_ID_BYTES, "é" * 128, "a b", "日本語", "/user:1"])
def test_an_id_is_any_printable_text(good: str) -> None:
    """Up to 256 bytes of UTF-8."""
    check_id(good, "id")


@pytest.mark.parametrize("time", [0, -1, 1 << 53, -(1 << 60)])
def test_a_time_that_is_none_is_a_bad_time(time: int) -> None:
    """Milliseconds since 1970, as a double holds them; ticks too."""
    for event in (Behaviour("u", "i", "a", 1.0, time, "e"), UserProfile("u", {}, time, "e"), Tick(time)):
        with pytest.raises(EventError) as caught:
            check(event)
        assert caught.value.reason == "bad_time", event
    with pytest.raises(EventError, match="99999999999999999999"):  # decoded, for JSON has no limit, and refused here
        check(decode(b'{"type":"tick","time":99999999999999999999}'))
    check(Tick(1))
    check(Tick((1 << 53) - 1))


@pytest.mark.parametrize("value", [1e6, -1e6, float("nan"), float("inf"), float("-inf")])
def test_a_value_past_a_million_is_a_bad_value(value: float) -> None:
    """Sums of thousandths must fit an int64 whatever happens."""
    with pytest.raises(EventError) as caught:
        check(Behaviour("u", "i", "a", value, 1, "e"))
    assert caught.value.reason == "bad_value"
    check(Behaviour("u", "i", "a", 999_999.999, 1, "e"))


@pytest.mark.parametrize(
    ("attributes", "what"),
    [
        ({f"a{n}": 1.0 for n in range(65)}, "65 attributes"),
        ({"a": ["x"] * 65}, "65 members"),
        ({"a": "x" * 257}, "257 bytes"),
        ({"a": ["x", "é" * 129]}, "258 bytes"),
        ({"x" * 257: 1.0}, "257 bytes"),
        ({"a": "\ud800"}, "lone surrogate"),
        ({"\ud800": 1.0}, "lone surrogate"),
        ({"a": True}, "no number, text or list"),
        ({"a": None}, "no number, text or list"),
        ({"a": float("nan")}, "not a finite number"),
        ({"a": float("inf")}, "not a finite number"),
        ({f"a{n:02}": "x" * 254 for n in range(16)}, "4112 bytes together"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_attributes_that_cannot_be_kept_are_bad_attributes(attributes: Attributes, what: str) -> None:
    """Of a behaviour: they are in the clean logs of both sides, and must be encoded again."""
    with pytest.raises(EventError, match=what) as caught:
        check(Behaviour("u", "i", "a", 1.0, 1, "e", {}, attributes))
    assert caught.value.reason == "bad_attribute"


def test_attributes_may_be_any_text_up_to_their_bounds() -> None:
    """64 of them, lists of 64, 4 KiB together; the worst that passes still fits a record."""
    check(Behaviour("u", "i", "a", 1.0, 1, "e", {}, {f"a{n}": 1.0 for n in range(64)}))
    check(
        Behaviour(
            "u", "i", "a", 1.0, 1, "e", {}, {"q": "control \0, tab \t, joined \u200d, narrow \xa0", "l": [""] * 64}
        )
    )
    lists: Attributes = {f"{n:04}": ["\0"] * 60 for n in range(64)}
    name, time = "x" * 256, (1 << 53) - 1
    worst = Behaviour(name, name, name, -1.5, time, name, {}, lists)
    check(worst)
    assert sum(len(n) + 60 for n in lists) == 4096 and len(encode(worst)) < MAX_RECORD_BYTES


def test_the_key_is_the_entity() -> None:
    """The user on one topic, the item on the other; a tick has none, and goes to each partition by number."""
    assert [entity_of(e) for e in ALL] == ["u", "u", "i", "u", ""]


def test_a_stamp_fills_what_is_absent_and_nothing_else() -> None:
    """An event that has both is returned as it is; two stamped ones have different ids."""
    whole = Behaviour("u", "i", "a", 1.0, 7, "e")
    assert stamped(whole) is whole
    timed, named = stamped(Behaviour("u", "i", "a", 1.0, 7)), stamped(Behaviour("u", "i", "a", 1.0, None, "e"))
    assert timed.time == 7 and timed.id and named.id == "e" and named.time
    assert stamped(Behaviour("u", "i", "a")).id != stamped(Behaviour("u", "i", "a")).id
    check(timed)
    check(named)
