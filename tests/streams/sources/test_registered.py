"""Avro and Protobuf by the schemas of a real registry; without one, good records wait and bad ones do not."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import fastavro
import pytest
from google.protobuf import message_factory
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from forebay.errors import ConfigError, EventError
from forebay.events import Behaviour, Event, ItemUpdate, decode
from forebay.streams.sources.avro import compiled as compiled_avro
from forebay.streams.sources.protobuf import compiled as compiled_protobuf
from forebay.streams.sources.registry import Address, Registry, RegistryAway, Schema
from forebay.streams.sources.translator import Translator
from forebay.streams.worker.batch import PartitionBatch

from .apicurio import Apicurio, _free_port
from .conftest import foreign

CUSTOMER = {"type": "record", "name": "shop.Customer", "fields": [{"name": "id", "type": "long"}]}
CLICK = {
    "type": "record", "name": "shop.Click", "fields": [
        {"name": "customer", "type": "shop.Customer"},
        {"name": "sku", "type": "string"},
        {"name": "event", "type": {"type": "enum", "name": "Kind", "symbols": ["click", "buy"]}},
        {"name": "ts", "type": {"type": "long", "logicalType": "timestamp-micros"}},
        {"name": "uuid", "type": {"type": "string", "logicalType": "uuid"}},
        {"name": "price", "type": ["null", {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}]},
        {"name": "tags", "type": {"type": "array", "items": "string"}, "default": []},
    ],
}  # fmt: skip
MAP = {"user": "customer.id", "item": "sku", "action": "event", "time": "ts", "id": "uuid", "value": "price",
       "attributes.tags": "tags"}  # fmt: skip
MOMENT = datetime.fromtimestamp(1_700_000_000.123456, UTC)
UUID = "00000000-0000-0000-0000-000000000007"
FOUND = Behaviour("7", "s1", "click", 2.5, 1_700_000_000_123, UUID, {}, {"tags": ["a", "b"]})

COMMON = 'syntax = "proto3"; package shop; message Customer { int64 id = 1; }'
PROTO = """
syntax = "proto3";
package shop;
import "google/protobuf/timestamp.proto";
import "shop/customer.proto";
message Other { string what = 1; }
message Outer {
  message Click {
    Customer customer = 1; string sku = 2; Kind event = 3; google.protobuf.Timestamp ts = 4; string uuid = 5;
    optional double price = 6; repeated string tags = 7; map<string, int32> counts = 8; sint64 never = 9;
  }
  enum Kind { CLICK = 0; BUY = 1; }
}
"""


def _one(translator: Translator, value: bytes | None, key: bytes | None = None) -> Event | EventError | None:
    batch = PartitionBatch(0, [key], [value], [5], [9])
    for _ in range(60):
        if not any(reasons := translator.waits([batch])):
            break
    assert reasons == [""]
    (found,) = translator.translated(batch)
    return decode(found) if isinstance(found, bytes) else found


def _mark(number: int) -> bytes:
    return struct.pack(">bI", 0, number)


def _avro(schema: Any, value: Any, *named: Any) -> bytes:
    names: dict[str, Any] = {}
    for one in named:
        fastavro.parse_schema(one, named_schemas=names)
    stream = io.BytesIO()
    fastavro.schemaless_writer(stream, fastavro.parse_schema(schema, named_schemas=names), value)
    return stream.getvalue()


@pytest.fixture(scope="session")
def clicks(registry: Apicurio) -> int:
    """The id of CLICK, which refers to CUSTOMER."""
    registry.register("customer", CUSTOMER)
    return registry.register(
        "clicks", CLICK, references=[{"name": "shop.Customer", "subject": "customer", "version": 1}]
    )


@pytest.fixture(scope="session")
def protos(registry: Apicurio) -> int:
    """The id of PROTO, which imports COMMON."""
    registry.register("common", COMMON, "PROTOBUF")
    refers = [{"name": "shop/customer.proto", "subject": "common", "version": 1}]
    return registry.register("protos", PROTO, "PROTOBUF", refers)


@pytest.fixture(scope="session")
def click(clicks: int) -> bytes:
    """FOUND as Avro's serializer writes it."""
    row = {"customer": {"id": 7}, "sku": "s1", "event": "click", "ts": MOMENT,
           "uuid": UUID, "price": Decimal("2.50"), "tags": ["a", "b"]}  # fmt: skip
    return _mark(clicks) + _avro(CLICK, row, CUSTOMER)


def _message(protos: int, place: bytes = b"\x04\x02\x00") -> bytes:
    """FOUND as Protobuf's serializer writes it: the first message of the second one of the file."""
    file = compiled_protobuf(Schema("PROTOBUF", PROTO, {"shop/customer.proto": COMMON}))
    outer = file.descriptor.message_types_by_name["Outer"]
    made = message_factory.GetMessageClass(outer.nested_types_by_name["Click"])(
        sku="s1", event=0, uuid=UUID, price=2.5, tags=["a", "b"], counts={"x": 3}, never=-4
    )
    made.customer.id = 7
    made.ts.FromDatetime(MOMENT)
    return _mark(protos) + place + made.SerializeToString()


@pytest.mark.registry
def test_avro_is_decoded_by_the_schema_that_wrote_it(registry: Apicurio, clicks: int, click: bytes) -> None:
    """With the schemas that it refers to, its logical types, and a newer version of it in the same topic."""
    translator = Translator(foreign("clicks", format="avro", registry=registry.url, map=MAP))
    assert _one(translator, click) == FOUND
    newer = CLICK | {"fields": [{"name": "more", "type": "int"}, *CLICK["fields"]]}  # type: ignore[misc]
    refers = [{"name": "shop.Customer", "subject": "customer", "version": 1}]
    number = registry.register("clicks2", newer, references=refers)
    assert number != clicks
    row = {
        "more": 1,
        "customer": {"id": 8},
        "sku": "s2",
        "event": "buy",
        "ts": 1000,
        "uuid": UUID,
        "price": None,
        "tags": [],
    }
    found = _one(translator, _mark(number) + _avro(newer, row, CUSTOMER))
    assert found == Behaviour("8", "s2", "buy", 0.0, 1, UUID, {}, {"tags": []})
    assert _one(translator, click) == FOUND


@pytest.mark.registry
def test_protobuf_is_decoded_by_the_message_that_it_names(registry: Apicurio, protos: int) -> None:
    """A message in a message, with imports; and the first one of the file by its short mark."""
    told = MAP | {"attributes.x": "counts.x", "attributes.never": "never"}
    translator = Translator(foreign("clicks", format="protobuf", registry=registry.url, map=told))
    found = _one(translator, _message(protos))
    expected = Behaviour(
        "7", "s1", "CLICK", 2.5, 1_700_000_000_123, UUID, {}, {"tags": ["a", "b"], "x": 3.0, "never": -4.0}
    )
    assert found == expected
    other = Translator(foreign("clicks", format="protobuf", registry=registry.url, no_time="append",
                               map={"item": "what"}, set={"type": "item_update"}))  # fmt: skip
    assert _one(other, _mark(protos) + b"\x00\x0a\x02i9") == ItemUpdate("i9", {})
    for place in (b"\x06\x00\x00\x00", b"\x02\x0a", b"\x01", b"", b"\xff" * 12):
        wrong = _one(other, _mark(protos) + place)
        assert isinstance(wrong, EventError) and wrong.reason == "undecodable"


@pytest.mark.registry
def test_changes_and_cloud_events_may_be_avro(registry: Apicurio) -> None:
    """Keys of deleted rows as well."""
    row = {
        "type": "record",
        "name": "Row",
        "fields": [{"name": "sku", "type": "string"}, {"name": "name", "type": "string"}],
    }
    change = {"type": "record", "name": "Envelope", "fields": [
        {"name": "before", "type": ["null", row]}, {"name": "after", "type": ["null", "Row"]},
        {"name": "op", "type": "string"}, {"name": "ts_ms", "type": ["null", "long"]},
    ]}  # fmt: skip
    key = {"type": "record", "name": "Key", "fields": [{"name": "sku", "type": "string"}]}
    values, keys = _mark(registry.register("c-value", change)), _mark(registry.register("c-key", key))
    table = {"format": "debezium", "encoding": "avro", "registry": registry.url}
    translator = Translator(foreign("products", **table, map={"item": "sku", "attributes.title": "name"}))
    made = {"before": None, "after": {"sku": "s1", "name": "T"}, "op": "c", "ts_ms": 5}
    assert _one(translator, values + _avro(change, made)) == ItemUpdate("s1", {"title": "T"}, 5)
    gone = {"before": None, "after": None, "op": "d", "ts_ms": 6}
    assert _one(translator, values + _avro(change, gone), keys + _avro(key, {"sku": "s1"})) == ItemUpdate("s1", {}, 6)


@pytest.mark.registry
def test_a_schema_that_is_none_makes_a_dead_letter(registry: Apicurio, clicks: int, protos: int) -> None:
    """One that the registry does not have, one of another kind, and one that a few bytes could use to fill memory."""
    avro = Translator(foreign("clicks", format="avro", registry=registry.url, map=MAP))
    proto = Translator(foreign("clicks", format="protobuf", registry=registry.url, map=MAP))
    bomb = {"type": "record", "name": "B", "fields": [{"name": "a", "type": {"type": "array", "items": "null"}}]}
    number = registry.register("bomb", bomb)
    for translator, value, says in (
        (avro, _mark(999_999) + b"x", "no schema 999999"),
        (avro, _mark(protos) + b"x", "PROTOBUF, not AVRO"),
        (proto, _mark(clicks) + b"x", "AVRO, not PROTOBUF"),
        (avro, _mark(number) + b"\xff\xff\xff\xff\xff\xff\x7f", "items take no bytes"),
    ):
        found = _one(translator, value)
        assert isinstance(found, EventError) and found.reason == "no_schema" and says in found.what


@pytest.mark.registry
def test_avro_that_is_too_deep_or_too_long_is_refused(registry: Apicurio, click: bytes) -> None:
    """Thirty thousand levels of a schema that refers to itself would end the process; what is left behind a record says
    that it is of another schema."""
    deep = {"type": "record", "name": "Deep", "fields": [{"name": "next", "type": ["null", "Deep"]}]}
    mark = _mark(registry.register("deep", deep))
    table = {"map": {"item": "@key"}, "set": {"type": "item_update"}, "no_time": "append"}
    translator = Translator(foreign("deep", format="avro", registry=registry.url, **table))
    assert _one(translator, mark + b"\x02" * 500 + b"\0", b"i") == ItemUpdate("i", {})
    found = _one(translator, mark + b"\x02" * 30_000 + b"\0", b"i")
    assert isinstance(found, EventError) and found.reason == "too_large"
    found = _one(Translator(foreign("c", format="avro", registry=registry.url, map=MAP)), click + b"xy")
    assert isinstance(found, EventError) and found.what.startswith("2 bytes are left behind")


@pytest.mark.registry
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_no_bytes_behind_a_mark_raise(
    data: st.DataObject, registry: Apicurio, clicks: int, click: bytes, protos: int,
    translators: Callable[[str], Translator],
) -> None:  # fmt: skip
    """Arbitrary ones, and good ones that were changed in places."""
    form, number = data.draw(st.sampled_from([("avro", clicks), ("protobuf", protos)]))
    good = click if form == "avro" else _GOOD.setdefault(protos, _message(protos))
    changed = bytearray(good)
    for place in data.draw(st.lists(st.integers(5, len(good) - 1), max_size=4)):
        changed[place] = data.draw(st.integers(0, 255))
    cut = bytes(changed[: data.draw(st.integers(5, len(good)))])
    value = data.draw(st.sampled_from([bytes(changed), cut]) | st.binary(max_size=40).map(lambda b: _mark(number) + b))
    assert isinstance(_one(translators(form), value), EventError | Behaviour)


_GOOD: dict[int, bytes] = {}


@pytest.fixture(scope="session")
def translators(registry: Apicurio) -> Callable[[str], Translator]:
    """One of each format, kept."""
    made = {
        form: Translator(foreign("c", format=form, registry=registry.url, map=MAP)) for form in ("avro", "protobuf")
    }
    return made.__getitem__


@pytest.mark.registry
def test_records_wait_for_a_registry_that_is_away(tmp_path: Path) -> None:
    """They are good: it says so, and goes on when the registry is there. What has no mark waits for nobody."""
    port = _free_port()
    address = f"http://127.0.0.1:{port}/apis/ccompat/v7"
    translator = Translator(foreign("clicks", format="avro", registry=address, map={"item": "sku"}, no_time="append",
                                    set={"type": "item_update"}))  # fmt: skip
    schema = {"type": "record", "name": "S", "fields": [{"name": "sku", "type": "string"}]}
    batch = PartitionBatch(0, [None, None], [_mark(1) + _avro(schema, {"sku": "s"}), b"x"], [0, 1], [9, 9])
    said = {translator.waits([batch])[0] for _ in range(3)}
    assert any("gives no answer" in text and address in text and "Is it up" in text for text in said) and all(said)
    assert translator.waits([PartitionBatch(0, [None], [b"x"], [1], [9])]) == [""]
    with Apicurio(tmp_path, port) as registry:
        assert registry.register("s", schema) == 1
        while any(translator.waits([batch])):
            pass
    first, second = translator.translated(batch)
    assert isinstance(first, bytes) and decode(first) == ItemUpdate("s", {})
    assert isinstance(second, EventError) and second.reason == "no_registry_mark"


def test_a_schema_that_refers_to_itself_is_read_to_a_bound() -> None:
    """Deep bytes of it would take the process down; so it is told from others, wherever it refers to itself."""
    inner = {
        "type": "record",
        "name": "N",
        "fields": [{"name": "next", "type": ["null", {"type": "map", "values": "N"}]}],
    }
    outer = {"type": "record", "name": "O", "fields": [{"name": "a", "type": inner}, {"name": "b", "type": "N"}]}
    assert compiled_avro(Schema("AVRO", json.dumps(outer), {})).shape.is_recursive
    assert not compiled_avro(
        Schema("AVRO", json.dumps(CLICK), {"shop.Customer": json.dumps(CUSTOMER)})
    ).shape.is_recursive


@pytest.mark.parametrize(
    "items",
    ["null", {"type": "record", "name": "E", "fields": []}, {"type": "fixed", "name": "F", "size": 0},
     {"type": "record", "name": "E", "fields": [{"name": "a", "type": {"type": "record", "name": "I", "fields": []}}]}],
)  # fmt: skip
def test_items_that_take_no_bytes_are_refused(items: Any) -> None:
    """As many of them as a number can say would fit into nine bytes."""
    schema = {"type": "record", "name": "R", "fields": [{"name": "a", "type": {"type": "array", "items": items}}]}
    with pytest.raises(EventError, match="take no bytes"):
        compiled_avro(Schema("AVRO", json.dumps(schema), {}))


@pytest.mark.parametrize(
    ("text", "references", "says"),
    [
        ("message {", {}, "protoc does not take the schema"),
        ('syntax = "proto3"; import "a.proto";', {}, "a.proto"),
        ('syntax = "proto3";', {"../../a.proto": ""}, "no file's name"),
        ('syntax = "proto3";', {"/tmp/a.proto": ""}, "no file's name"),
    ],
)
def test_a_text_that_is_no_proto_is_refused(text: str, references: dict[str, str], says: str) -> None:
    """In the compiler's words, and without a file elsewhere."""
    with pytest.raises(EventError) as raised:
        compiled_protobuf(Schema("PROTOBUF", text, references))
    assert raised.value.reason == "no_schema" and says in raised.value.what


@pytest.mark.parametrize(
    ("url", "more", "says"),
    [
        ("registry:8081", {}, "registry = 'registry:8081'"),
        ("http://u:secret@r:8081", {}, "a user or a password in it"),
        ("u:secret@registry:8081", {}, "a user or a password in it"),
        ("https:/u:secret@h", {}, "a user or a password in it"),
        ("http://[::1", {}, "registry = 'http://[::1'"),
        ("http://r:none", {}, "registry = 'http://r:none'"),
        ("http://r:99999", {}, "registry = 'http://r:99999'"),
        ("http://r:8081", {"user": "u"}, "go together"),
        ("http://r:8081", {"ca": Path("/nowhere.pem")}, "there is no such file"),
    ],
)
def test_an_address_that_is_none_is_refused(url: str, more: dict[str, Any], says: str) -> None:
    """And no password is repeated."""
    with pytest.raises(ConfigError) as raised:
        Address.of(url, **more)
    assert says in raised.value.what and "secret" not in str(raised.value)


def test_a_registry_that_is_none_is_away() -> None:
    """Whatever it answers: no record is at fault."""
    with pytest.raises(RegistryAway, match="gives no answer"):
        Registry(Address.of(f"http://127.0.0.1:{_free_port()}")).schema(1)
