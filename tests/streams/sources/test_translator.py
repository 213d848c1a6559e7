"""Records of foreign topics become the events that they mean, or are refused by the reason of a dead letter."""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.config import SourceTable
from forebay.errors import ConfigError, EventError
from forebay.events import Behaviour, Event, ItemUpdate, UserProfile, decode
from forebay.streams.sources.foreign import Foreign
from forebay.streams.sources.translator import Translator
from forebay.streams.worker.batch import Headers, PartitionBatch

MAP = {"user": "customer.id", "item": "sku", "action": "event", "time": "ts", "id": "uuid", "attributes.page": "page"}
CLICK = {"customer": {"id": 7}, "sku": "s1", "event": "click", "ts": 1_700_000_000_123_456, "uuid": "e1", "page": "/"}
CLICKED = Behaviour("7", "s1", "click", 1.0, 1_700_000_000_123, "e1", {}, {"page": "/"})


def _translator(**values: Any) -> Translator:
    table = {"topic": "shop", "format": "json", "map": MAP, "set": {"value": 1.0}, "time_unit": "us"}
    return Translator(Foreign.of(SourceTable(table | values, "forebay.toml")))


def _one(
    translator: Translator, value: bytes | None, key: bytes | None = None, headers: Headers = ()
) -> Event | EventError | None:
    batch = PartitionBatch(0, [key], [value], [5], [9], [headers])
    assert translator.waits([batch]) == [""]
    (found,) = translator.translated(batch)
    return decode(found) if isinstance(found, bytes) else found


@pytest.mark.parametrize(
    ("form", "encode"),
    [
        ("json", msgspec.json.encode),
        ("msgpack", msgspec.msgpack.encode),
        ("jsonschema", lambda value: b"\0\0\0\0\7" + msgspec.json.encode(value)),
    ],
)
def test_a_mapped_record_becomes_its_event(form: str, encode: Any) -> None:
    """By paths into it, constants and a unit of time; what is not named is left alone, whatever it is called."""
    translator = _translator(format=form)
    assert _one(translator, encode(CLICK)) == CLICKED
    assert _one(translator, encode(CLICK | {"type": "shop.click", "value": "much", "attributes": 7})) == CLICKED


def test_without_a_map_a_record_is_an_event_by_its_own_names() -> None:
    """As the columns of an imported file are."""
    row = {"user": "u", "item": "i", "action": "view", "time": datetime(2023, 1, 1, tzinfo=UTC), "weather": "fine"}
    translator = Translator(Foreign.of(SourceTable({"topic": "shop", "format": "msgpack"}, "")))
    at = round(datetime(2023, 1, 1, tzinfo=UTC).timestamp() * 1000)
    assert _one(translator, msgspec.msgpack.encode(row)) == Behaviour("u", "i", "view", 0.0, at)


@pytest.mark.parametrize("name", [7, b"user", None, 2.5, True])
def test_a_field_without_a_text_for_its_name_is_refused_in_words(name: Any) -> None:
    """Where fields are taken by their names. With a map it is left alone, whatever it is called."""
    row = msgspec.msgpack.encode({name: 1, "user": "u", "item": "i", "action": "view"})
    found = _one(Translator(Foreign.of(SourceTable({"topic": "shop", "format": "msgpack"}, ""))), row)
    assert isinstance(found, EventError) and found.reason == "undecodable"
    assert "name" in found.what and "no text" in found.what and "Error" not in found.what
    mapped = {"map": {"user": "user", "item": "item", "action": "action"}, "no_time": "append"}
    translator = Translator(Foreign.of(SourceTable({"topic": "shop", "format": "msgpack"} | mapped, "")))
    assert _one(translator, row) == Behaviour("u", "i", "view", 0.0)


def test_the_key_and_headers_of_a_record_may_be_mapped() -> None:
    """Names of headers in any case."""
    translator = _translator(map=MAP | {"user": "@key", "attributes.device": "@headers.device"})
    found = _one(translator, msgspec.json.encode(CLICK), b"u9", [("Device", b"tv"), ("other", b"\xff")])
    assert found == Behaviour("u9", "s1", "click", 1.0, 1_700_000_000_123, "e1", {}, {"page": "/", "device": "tv"})
    without = _one(translator, msgspec.json.encode(CLICK))
    assert isinstance(without, EventError) and without.what == "nothing at @key for user"


def test_what_a_record_lacks_is_named_by_its_place() -> None:
    """A field that every event must have, and a time where the log's is not asked for; an id is not needed."""
    for field, path, reason in (("customer", "customer.id", "no_field"), ("ts", "ts", "no_time")):
        found = _one(_translator(), msgspec.json.encode({k: v for k, v in CLICK.items() if k != field}))
        assert isinstance(found, EventError)
        assert (found.reason, found.what.split(" for ")[0]) == (reason, f"nothing at {path}")
    bare = msgspec.json.encode({k: v for k, v in CLICK.items() if k not in ("ts", "uuid")})
    assert _one(_translator(no_time="append"), bare) == Behaviour(
        "7", "s1", "click", 1.0, None, None, {}, {"page": "/"}
    )


def test_an_update_of_an_item_may_know_nothing() -> None:
    """Where all its attributes are null."""
    translator = _translator(map={"item": "sku", "time": "ts", "attributes.title": "name"}, set={"type": "item_update"})
    assert _one(translator, b'{"sku":"s","ts":5000,"name":null}') == ItemUpdate("s", {}, 5)
    assert _one(translator, b'{"sku":"s","ts":5000,"name":"T"}') == ItemUpdate("s", {"title": "T"}, 5)


@pytest.mark.parametrize(
    ("form", "value", "reason"),
    [
        ("json", None, "empty"),
        ("json", b"", "undecodable"),
        ("json", b"[1]", "undecodable"),
        ("json", b'"' + b"x" * (1 << 20) + b'"', "too_large"),
        ("json", b"[" * 100_000, "undecodable"),
        ("json", b'{"customer":{"id":"u"},"sku":' + b"9" * 5000 + b"}", "undecodable"),
        ("json", msgspec.json.encode(CLICK | {"ts": "soon"}), "bad_time"),
        ("msgpack", b"\x91" * 100_000, "undecodable"),
        ("msgpack", msgspec.msgpack.encode(CLICK | {"page": {"a": 1}}), "bad_attribute"),
        ("msgpack", b"\xc1", "undecodable"),
        ("jsonschema", msgspec.json.encode(CLICK), "no_registry_mark"),
        ("jsonschema", b"\0\0\0", "no_registry_mark"),
    ],
)
def test_what_is_no_event_is_refused_by_a_reason(form: str, value: bytes | None, reason: str) -> None:
    """Also where its decoder would go down, or its library raises what it likes."""
    found = _one(_translator(format=form), value)
    assert isinstance(found, EventError) and found.reason == reason


def test_a_type_that_is_mapped_must_be_one_of_ours() -> None:
    """Otherwise nobody could tell what the record is."""
    found = _one(_translator(map=MAP | {"type": "kind"}), msgspec.json.encode(CLICK | {"kind": "order"}))
    assert isinstance(found, EventError) and found.reason == "bad_type"


CE = {"specversion": "1.0", "id": "e1", "source": "/shop", "type": "shop.click", "time": "2023-11-14T22:13:20.5Z"}
CE_MAP = {"user": "data.who", "item": "subject", "attributes.shop": "source"}
CE_FOUND = Behaviour("u1", "i1", "shop.click", 0.0, 1_700_000_000_500, "e1", {}, {"shop": "/shop"})


def _cloudevents(**values: Any) -> Translator:
    table = {"topic": "shop", "format": "cloudevents", "map": CE_MAP}
    return Translator(Foreign.of(SourceTable(table | values, "forebay.toml")))


def _ce_headers(attributes: dict[str, str], kind: str = "application/json") -> Headers:
    return [("content-type", kind.encode()), *((f"ce_{name}", text.encode()) for name, text in attributes.items())]


def test_a_cloud_event_in_binary_mode_is_in_its_headers() -> None:
    """Its data may be of any format, and need not be there; its time and id are the event's, and its type the
    action."""
    headers = _ce_headers(CE | {"subject": "i1"})
    assert _one(_cloudevents(), b'{"who":"u1"}', None, headers) == CE_FOUND
    assert _one(_cloudevents(encoding="msgpack"), msgspec.msgpack.encode({"who": "u1"}), None, headers) == CE_FOUND
    keyed = _cloudevents(map=CE_MAP | {"user": "@key", "action": "@headers.ce_kind"})
    found = _one(keyed, None, b"u1", [*headers, ("ce_kind", b"view")])
    assert isinstance(found, Behaviour) and (found.user, found.action) == ("u1", "view")


@pytest.mark.parametrize("kind", ["application/cloudevents+json", "application/CloudEvents+json; charset=UTF-8"])
def test_a_cloud_event_in_structured_mode_is_one_object(kind: str) -> None:
    """With its data as JSON, or in base64."""
    headers, event = [("Content-Type", kind.encode())], CE | {"subject": "i1"}
    assert _one(_cloudevents(), msgspec.json.encode(event | {"data": {"who": "u1"}}), None, headers) == CE_FOUND
    packed = base64.b64encode(msgspec.msgpack.encode({"who": "u1"})).decode()
    value = msgspec.json.encode(event | {"data_base64": packed})
    assert _one(_cloudevents(encoding="msgpack"), value, None, headers) == CE_FOUND


@pytest.mark.parametrize(
    ("headers", "value", "says"),
    [
        ((), b"{}", "no ce_ header"),
        (_ce_headers({k: v for k, v in CE.items() if k != "id"}), b"{}", "without id"),
        (_ce_headers(CE | {"specversion": "0.3"}), b"{}", "of version '0.3'"),
        ([("content-type", b"application/cloudevents-batch+json")], b"[]", "a batch"),
        ([("content-type", b"application/cloudevents+avro")], b"", "that is not JSON"),
        ([("content-type", b"application/cloudevents+json")], b'{"id":7}', "without id"),
        (
            [("content-type", b"application/cloudevents+json")],
            msgspec.json.encode(CE | {"data_base64": "?"}), "is no base64",
        ),
    ],
)  # fmt: skip
def test_what_is_no_cloud_event_is_said_to_be_none(headers: Headers, value: bytes, says: str) -> None:
    """With what is missing."""
    found = _one(_cloudevents(), value, None, headers)
    assert isinstance(found, EventError) and found.reason == "bad_envelope" and says in found.what


DBZ_MAP = {"item": "sku", "attributes.title": "name", "attributes.price": "price"}
ROW = {"id": 7, "sku": "s1", "name": "T", "price": 2.5, "note": None}
SOURCE = {"connector": "postgresql", "table": "products", "ts_ms": 1_700_000_000_123}


def _debezium(**values: Any) -> Translator:
    table = {"topic": "shop", "format": "debezium", "map": DBZ_MAP}
    return Translator(Foreign.of(SourceTable(table | values, "forebay.toml")))


def _change(op: str, before: Any, after: Any, **more: Any) -> bytes:
    return msgspec.json.encode({"op": op, "before": before, "after": after, "source": SOURCE, "ts_ms": 9, **more})


@pytest.mark.parametrize("op", ["c", "r", "u"])
@pytest.mark.parametrize("is_wrapped", [True, False])
def test_a_changed_row_is_an_update_of_its_item(op: str, is_wrapped: bool) -> None:
    """As it is after the change, at the time of the change, with or without a schema around it."""
    value = _change(op, ROW | {"name": "old"}, ROW)
    value = b'{"schema":{"type":"struct"},"payload":%s}' % value if is_wrapped else value
    expected = ItemUpdate("s1", {"title": "T", "price": 2.5}, 1_700_000_000_123)
    assert _one(_debezium(time_unit="us"), value) == expected


def test_a_change_has_the_connectors_time_where_the_database_gives_none() -> None:
    """As some do in a snapshot; and its own column where one is mapped, in its own unit."""
    snapshot = _change("r", None, ROW, source=SOURCE | {"ts_ms": 0})
    assert _one(_debezium(), snapshot) == ItemUpdate("s1", {"title": "T", "price": 2.5}, 9)
    own = _debezium(map=DBZ_MAP | {"time": "changed"}, time_unit="us")
    assert _one(own, _change("u", None, ROW | {"changed": 5_000_000})) == ItemUpdate(
        "s1", {"title": "T", "price": 2.5}, 5000
    )


@pytest.mark.parametrize(
    ("before", "key"),
    [
        (ROW, None), ({"sku": "s1"}, None), (None, b'{"sku":"s1"}'),
        ({"sku": None, "id": 0}, b'{"payload":{"sku":"s1"},"schema":{}}'),
    ],
)  # fmt: skip
def test_a_deleted_row_is_cleared(before: Any, key: bytes | None) -> None:
    """An update without attributes: nothing is known of the item from then on. Its name is in what was before it, or
    in the record's key. The tombstone behind it says nothing."""
    assert _one(_debezium(), _change("d", before, None), key) == ItemUpdate("s1", {}, 1_700_000_000_123)
    assert _one(_debezium(), None, key) is None


def test_a_deleted_row_is_refused_or_skipped_where_the_source_says_so() -> None:
    """Of behaviours it is always one of these: what was done was done."""
    gone = _change("d", ROW, None)
    refused = _one(_debezium(deletes="refuse"), gone)
    assert isinstance(refused, EventError) and refused.reason == "deleted"
    assert _one(_debezium(deletes="skip"), gone) is None
    orders = {"user": "id", "item": "sku", "value": "price"}
    made = _debezium(map=orders, set={"type": "behaviour", "action": "order"})
    assert _one(made, _change("c", None, ROW)) == Behaviour("7", "s1", "order", 2.5, 1_700_000_000_123)
    assert _one(made, gone) is None
    with pytest.raises(ConfigError, match="a behaviour cannot be cleared"):
        _debezium(map=orders, set={"type": "behaviour", "action": "order"}, deletes="clear")


UNCHANGED = "__debezium_unavailable_value"  # of a large column that an update does not touch


@pytest.mark.parametrize(
    "marked", [UNCHANGED, UNCHANGED.encode(), base64.b64encode(UNCHANGED.encode()).decode(), [UNCHANGED]]
)
@pytest.mark.parametrize("form", ["json", "msgpack"])
def test_an_unchanged_column_is_as_it_was_before(marked: Any, form: str) -> None:
    """Where the change has it: as a text, bytes or a list. What is not mapped may be unknown."""
    encode = msgspec.msgpack.encode if form == "msgpack" else msgspec.json.encode
    change = {"op": "u", "source": SOURCE, "before": ROW, "after": ROW | {"name": marked, "note": marked, "price": 3}}
    found = _one(_debezium(encoding=form), encode(change))
    assert found == ItemUpdate("s1", {"title": "T", "price": 3.0}, 1_700_000_000_123)


@pytest.mark.parametrize("before", [None, {"id": 7}, ROW | {"name": UNCHANGED}])
@pytest.mark.parametrize("path", ["name", "name.first"])
def test_an_unchanged_column_that_nobody_knows_is_refused(before: Any, path: str) -> None:
    """By its name, and with what helps: else the item would have the marker for its title, or none."""
    translator = _debezium(map=DBZ_MAP | {"attributes.title": path})
    found = _one(translator, _change("u", before, ROW | {"name": UNCHANGED}))
    assert isinstance(found, EventError) and found.reason == "no_field"
    assert found.what.startswith("name is unchanged") and "REPLICA IDENTITY FULL" in found.what


def test_a_deleted_row_is_not_named_by_a_marker() -> None:
    """Its key is."""
    gone = _change("d", {"sku": UNCHANGED}, None)
    assert _one(_debezium(), gone, b'{"sku":"s1"}') == ItemUpdate("s1", {}, 1_700_000_000_123)


def test_a_table_may_have_rows_of_several_types() -> None:
    """By a column that is mapped to the type. What a deleted row becomes is to be said, then: of its type nothing is
    known."""
    mapped = DBZ_MAP | {"type": "kind", "user": "id"}
    with pytest.raises(ConfigError, match="type is mapped") as raised:
        _debezium(map=mapped)
    assert 'deletes = "skip"' in raised.value.do
    with pytest.raises(ConfigError, match="type is mapped"):
        _debezium(map=mapped, deletes="clear")
    translator = _debezium(map=mapped, deletes="skip")
    made = _one(translator, _change("c", None, ROW | {"kind": "user_profile"}))
    assert made == UserProfile("7", {"title": "T", "price": 2.5}, 1_700_000_000_123)
    assert isinstance(_one(translator, _change("c", None, ROW | {"kind": "item_update"})), ItemUpdate)
    assert _one(translator, _change("d", ROW, None)) is None
    assert isinstance(_one(_debezium(map=mapped, deletes="refuse"), _change("d", ROW, None)), EventError)


@pytest.mark.parametrize(
    ("value", "key", "says"),
    [
        (_change("t", None, None), None, "op is 't'"),
        (_change("c", ROW, None), None, "without after"),
        (_change("d", None, None), None, "neither a key"),
        (b'{"ts_ms":7}', None, "op is 'None'"),
    ],
)
def test_what_is_no_change_of_a_row_is_said_to_be_none(value: bytes, key: bytes | None, says: str) -> None:
    """A truncated table, a heartbeat, a row that nobody can name."""
    found = _one(_debezium(), value, key)
    assert isinstance(found, EventError) and found.reason == "bad_envelope" and says in found.what


@given(data=st.data())
def test_no_envelope_raises(data: st.DataObject) -> None:
    """Arbitrary attributes, ops, rows, keys and headers."""
    encode, anything = msgspec.json.encode, _JSON.filter(_is_json)
    change = {name: data.draw(anything) for name in ("before", "after", "source", "ts_ms")}
    change["op"] = data.draw(st.sampled_from(["c", "u", "r", "d", "t"]) | anything)
    key = data.draw(st.none() | st.binary(max_size=9) | anything.map(encode))
    found = _one(_debezium(), encode(change), key)
    assert found is None or isinstance(found, EventError | ItemUpdate)
    kinds = st.sampled_from([b"application/cloudevents+json", b"application/json", b"\xff"])
    names = st.sampled_from(["ce_id", "ce_type", "ce_source", "ce_specversion", "CE_time", "content-type", "ce_"])
    headers = data.draw(st.lists(st.tuples(names, kinds | st.binary(max_size=5)), max_size=7))
    event = CE | data.draw(st.dictionaries(st.sampled_from([*CE, "data", "data_base64"]), anything))
    value = data.draw(st.none() | st.binary(max_size=9) | st.just(encode(event)))
    assert isinstance(_one(_cloudevents(), value, None, headers), EventError | Behaviour)


def _is_json(value: Any) -> bool:
    try:
        return bool(msgspec.json.encode(value))
    except (msgspec.MsgspecError, OverflowError, UnicodeEncodeError, TypeError):
        return False


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4) | st.integers(), inner, max_size=4),
    max_leaves=12,
)
_ROWS = st.fixed_dictionaries({}, optional=dict.fromkeys(("customer", "sku", "event", "ts", "uuid", "page"), _JSON))


@pytest.mark.parametrize("form", ["json", "msgpack", "jsonschema"])
@given(data=st.data())
def test_no_bytes_raise(form: str, data: st.DataObject) -> None:
    """Arbitrary ones, and objects with arbitrary things at the mapped places: an event that may be one, or a reason."""
    row = data.draw(_ROWS)
    try:
        own = msgspec.msgpack.encode(row) if form == "msgpack" else msgspec.json.encode(row)
    except (msgspec.MsgspecError, OverflowError, UnicodeEncodeError, TypeError):
        own = b"\xff"
    value = data.draw(st.sampled_from([own, b"\0\0\0\0\1" + own]) | st.binary(max_size=60))
    found = _one(_translator(format=form), value, data.draw(st.none() | st.binary(max_size=9)))
    if not isinstance(found, EventError):
        assert found is not None
